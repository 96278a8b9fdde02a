"""A turn's answers, split by stream, cut by size and joined again."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepstream_proto.v1 import inference_pb2
from stepstream_server.engine.ports import Answers
from stepstream_server.rpc.deliveries import (
    Encoding,
    Part,
    Piece,
    Turn,
    cut_out,
    encode_answers,
    split_by_size,
    split_by_stream,
    split_rows,
)
from support.backend import counter_spec

SPEC = counter_spec()  # two outputs of one float32 each


@dataclass(frozen=True)
class Row:
    """One answered row with its outputs: [kept] each."""

    handle: int
    first: int
    length: int
    sums: tuple[float, ...]
    counts: tuple[float, ...]


@st.composite
def rows(draw: st.DrawFn) -> Row:
    """Rows of length 1 to 4 that keep all, the last or no outputs."""
    length = draw(st.integers(1, 4))
    kept = draw(st.sampled_from([0, 1, length]))
    numbers = st.lists(st.floats(width=32, allow_nan=False), min_size=kept, max_size=kept).map(tuple)
    return Row(draw(st.integers(0, 2**32 - 1)), draw(st.integers(0, 2**62)), length, draw(numbers), draw(numbers))


@st.composite
def single_steps(draw: st.DrawFn) -> Row:
    """What most rows are: one step with its outputs."""
    number = st.floats(width=32, allow_nan=False)
    return Row(draw(st.integers(0, 2**32 - 1)), draw(st.integers(0, 2**62)), 1, (draw(number),), (draw(number),))


def by_stream(one: st.SearchStrategy[Row]) -> st.SearchStrategy[list[list[Row]]]:
    """Rows of streams."""
    return st.lists(st.lists(one, min_size=1, max_size=5), min_size=1, max_size=4)


turns = by_stream(rows()) | by_stream(single_steps())


def as_turn(by_stream: list[list[Row]]) -> Turn:
    """A turn that answers stream 0, 1, ... with these rows."""
    flat = [(stream, row) for stream, of_stream in enumerate(by_stream) for row in of_stream]
    return Encoding(SPEC).encode(
        Answers(
            streams=np.array([stream for stream, _ in flat], np.int64),
            handles=np.array([row.handle for _, row in flat], np.uint32),
            first_seqs=np.array([row.first for _, row in flat], np.int64),
            lengths=np.array([row.length for _, row in flat], np.int64),
            kept=np.array([len(row.sums) for _, row in flat], np.int64),
            outputs=(
                np.array([number for _, row in flat for number in row.sums], np.float32)[:, None],
                np.array([number for _, row in flat for number in row.counts], np.float32)[:, None],
            ),
        )
    )


def decode(message: inference_pb2.Answers) -> list[Row]:
    """As a client reads it, by the words of the contract."""
    handles = np.frombuffer(message.handles, "<u4").tolist()
    firsts = np.frombuffer(message.first_seqs, "<u8").tolist()
    lengths = np.frombuffer(message.lengths, "<u4").tolist() or [1] * len(handles)
    kept = np.frombuffer(message.kept, "<u4").tolist() or lengths
    outputs = [np.frombuffer(values, "<f4").tolist() for values in message.outputs]
    read, start = [], 0
    for row, count in enumerate(kept):
        sums, counts = (tuple(values[start : start + count]) for values in outputs)
        read.append(Row(handles[row], firsts[row], lengths[row], sums, counts))
        start += count
    assert all(len(values) == start for values in outputs)
    return read


def whole(piece: Piece) -> Part:
    """A piece, cut out of its turn."""
    return cut_out(piece, piece.bytes)


def answers_of(parts: list[Part]) -> inference_pb2.Answers:
    """A message's answers, as they come out at the other end."""
    return inference_pb2.StreamResponse.FromString(encode_answers(parts, [])).answers


def steps_of(row: Row) -> list[tuple[int, int, tuple[float, float] | None]]:
    """Handle, number and outputs of each step of a row."""
    outputs = [None] * (row.length - len(row.sums)) + list(zip(row.sums, row.counts, strict=True))
    return [(row.handle, row.first + place, values) for place, values in enumerate(outputs)]


@given(turns)
def test_each_stream_gets_its_rows(by_stream: list[list[Row]]) -> None:
    """Splitting a turn and encoding the pieces gives every stream exactly its rows, in order, with their outputs."""
    pieces = dict(split_by_stream(as_turn(by_stream)))
    for stream, of_stream in enumerate(by_stream):
        assert decode(answers_of([whole(pieces[stream])])) == of_stream


@given(st.lists(turns, min_size=1, max_size=3))
def test_turns_join_into_one_message(several: list[list[list[Row]]]) -> None:
    """A stream that is behind gets the rows of several turns in one message, whatever their lengths."""
    parts: list[Part] = [whole(dict(split_by_stream(as_turn(by_stream)))[0]) for by_stream in several]
    assert decode(answers_of(parts)) == [row for by_stream in several for row in by_stream[0]]


@given(turns, st.integers(1, 200))
def test_a_piece_is_cut_between_rows(by_stream: list[list[Row]], limit: int) -> None:
    """No part is larger than the limit unless it is a single row, and together they are the piece."""
    for stream, piece in split_by_stream(as_turn(by_stream)):
        parts = list(split_by_size(piece, limit))
        assert all(part.bytes <= limit or part.last - part.first == 1 for part in parts)
        decoded = [decode(answers_of([whole(part)])) for part in parts]
        assert [row for rows_of_part in decoded for row in rows_of_part] == by_stream[stream]


@given(turns, st.integers(1, 40))
def test_a_row_too_large_is_cut_between_steps(by_stream: list[list[Row]], limit: int) -> None:
    """No row has more bytes of outputs than the limit unless a single step does, and each step keeps its number and outputs."""
    for stream, piece in split_by_stream(as_turn(by_stream)):
        cut = split_rows(piece, limit)
        decoded = decode(answers_of([whole(cut)]))
        assert all(len(row.sums) <= max(1, limit // SPEC.output_step_bytes) for row in decoded)
        assert [step for row in decoded for step in steps_of(row)] == [
            step for row in by_stream[stream] for step in steps_of(row)
        ]


@pytest.mark.parametrize(("kept", "lengths", "written"), [(1, 1, (0, 0)), (3, 3, (4, 0)), (0, 1, (0, 4)), (1, 3, (4, 4))])
def test_columns_that_say_nothing_are_left_out(kept: int, lengths: int, written: tuple[int, int]) -> None:
    """`lengths` is empty where every row is one step, `kept` where every step has outputs."""
    ((_, piece),) = split_by_stream(as_turn([[Row(1, 0, lengths, (1.0,) * kept, (1.0,) * kept)]]))
    answers = answers_of([whole(piece)])
    assert (len(answers.lengths), len(answers.kept)) == written


def test_errors_follow_the_answers() -> None:
    """Errors alone make a message too, of no rows."""
    error = inference_pb2.RowError(handle=3)
    message = inference_pb2.StreamResponse.FromString(encode_answers([], [error]))
    assert message.WhichOneof("message") == "answers"
    assert list(message.answers.errors) == [error]
    assert message.answers.handles == b""
