"""Columns of blocks, and what is said about those that do not fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepstream_proto.v1 import inference_pb2
from stepstream_server.engine.ports import Keep
from stepstream_server.errors import CallerError, Reason
from stepstream_server.rpc import columns
from stepstream_server.rpc.columns import Rows
from stepstream_server.rpc.stream.reader import Content, check_answer, decode_content
from support.models import random_model
from support.wire import u32, u64

SPEC, _ = random_model(inputs=2)  # x: float32 [2], 8 bytes per step


def block(**fields: Any) -> inference_pb2.Block:
    """A block of two rows."""
    return inference_pb2.Block(**{"handles": u32([1, 2]), "first_seqs": u64([0, 5]), **fields})


def rows_of(message: inference_pb2.Block) -> Rows:
    """Its rows."""
    return columns.decode_rows(message, columns.handles_column(message.handles, 20))


def content_of(message: inference_pb2.Block) -> Content:
    """What it holds for the model."""
    return decode_content(message, SPEC, rows_of(message), max_steps=1000, arrival=100.0)


@given(
    st.lists(
        st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 2**62 - 1), st.integers(1, 9), st.integers(0, 2**63 - 1)),
        min_size=1,
        max_size=20,
    )
)
def test_columns_come_out_as_they_were_put_in(rows: list[tuple[int, int, int, int]]) -> None:
    """Handles, numbers, lengths and acknowledged counts keep their values over their whole range."""
    handles, firsts, lengths, acked = zip(*rows, strict=True)
    message = inference_pb2.Block(handles=u32(handles), first_seqs=u64(firsts), lengths=u32(lengths), acked=u64(acked))
    read = rows_of(message)
    assert read.handles.tolist() == list(handles)
    assert read.first_seqs.tolist() == list(firsts)
    assert read.lengths.tolist() == list(lengths)
    assert read.steps == sum(lengths)
    assert columns.counts_column("acked", message.acked, len(rows)).tolist() == list(acked)


def test_no_lengths_mean_one_step_per_row() -> None:
    """An empty lengths column stands for ones."""
    read = rows_of(block())
    assert read.lengths.tolist() == [1, 1]
    assert read.steps == 2


@pytest.mark.parametrize(
    ("fields", "field", "said"),
    [
        ({"first_seqs": b"123"}, "first_seqs", ("8 bytes per row, 16", "got 3")),
        ({"first_seqs": u64([0, 2**62])}, "first_seqs", ("below 2^62",)),
        ({"lengths": b"12345"}, "lengths", ("none or 4 bytes per row, 8", "got 5")),
        ({"lengths": u32([1, 0])}, "lengths", ("at least 1", "got 0")),
        ({"acked": u64([1])}, "acked", ("8 bytes per row, 16", "got 8")),
    ],
)
def test_a_wrong_column_is_named(fields: dict[str, bytes], field: str, said: tuple[str, ...]) -> None:
    """The error names the field, what was expected and what came."""
    with pytest.raises(CallerError) as caught:
        content_of(block(**{"inputs": [bytes(16)], **fields}))
    assert caught.value.reason is Reason.INVALID_ARGUMENT
    assert caught.value.field == field
    assert all(part in caught.value.message for part in (field, *said))


def test_handles_must_be_whole() -> None:
    """A handle column that is not a multiple of four bytes cannot be read."""
    with pytest.raises(CallerError, match="handles: expected a multiple of 4 bytes, got 5"):
        columns.handles_column(b"12345", 9)


def test_too_many_steps_are_refused_as_such() -> None:
    """A block beyond the limit has a reason of its own; lengths that would overflow 32 bits are added up correctly."""
    with pytest.raises(CallerError) as caught:
        content_of(block(lengths=u32([2**32 - 1, 2**32 - 1])))
    assert caught.value.reason is Reason.BLOCK_TOO_LARGE
    assert str(2 * (2**32 - 1)) in caught.value.message


def test_counts_beyond_int64_are_clamped() -> None:
    """An acknowledged count that no step number can reach is the largest there is, not a negative one."""
    assert columns.counts_column("acked", u64([2**64 - 1, 3]), 2).tolist() == [2**63 - 1, 3]


def test_inputs_that_fit_are_passed_on_as_they_are() -> None:
    """So many steps of each declared input; a token is one number."""
    values = [np.arange(6, dtype="<f4").tobytes()]
    assert columns.check_inputs(values, SPEC, 3) is values
    spec, _ = random_model(tokens=9)
    tokens = [np.array([3, 4], "<i8").tobytes()]
    assert columns.check_inputs(tokens, spec, 2) is tokens


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ([], ("inputs: expected 1 (x)", "got 0")),
        ([b"", b""], ("inputs: expected 1 (x)", "got 2")),
        ([bytes(12)], ("inputs[0]: expected 16 bytes (x: 2 steps of 8)", "got 12")),
    ],
)
def test_inputs_that_do_not_fit_are_named(inputs: list[bytes], said: tuple[str, ...]) -> None:
    """The error names the input, the bytes expected and those that came."""
    with pytest.raises(CallerError) as caught:
        columns.check_inputs(inputs, SPEC, 2)
    assert caught.value.reason is Reason.INVALID_ARGUMENT
    assert all(part in caught.value.message for part in said)


@pytest.mark.parametrize(("number", "keep"), [(0, Keep.ALL), (1, Keep.ALL), (2, Keep.LAST), (3, Keep.NONE)])
def test_outputs_say_what_is_kept(number: int, keep: Keep) -> None:
    """Unspecified is ALL."""
    assert columns.decode_keep(number) is keep


def test_unknown_outputs_are_refused() -> None:
    """A number that a later contract may name is not taken for ALL."""
    with pytest.raises(CallerError, match="outputs: expected ALL, LAST or NONE, got 4"):
        columns.decode_keep(4)


def test_selected_rows_take_their_steps_along() -> None:
    """Dropping a row drops exactly its steps from every column and input."""
    values = np.arange(10, dtype=np.float32).reshape(5, 2)
    message = block(lengths=u32([2, 3]), acked=u64([7, 8]), inputs=[values.tobytes()])
    read, second = rows_of(message), np.array([False, True])
    part, content = read.only(second), content_of(message).only(second, read.lengths)
    assert (part.handles.tolist(), part.first_seqs.tolist(), part.lengths.tolist(), part.steps) == ([2], [5], [3], 3)
    assert content.acked is not None and content.acked.tolist() == [8]
    assert content.inputs[0] == values[2:].tobytes()


def test_what_is_not_said_has_its_default() -> None:
    """All outputs, no deadline, nothing acknowledged; a timeout counts from the arrival."""
    content = content_of(block(inputs=[bytes(16)]))
    assert (content.keep, content.deadline, content.acked) == (Keep.ALL, float("inf"), None)
    assert content_of(block(inputs=[bytes(16)], timeout={"seconds": 2})).deadline == 102


def test_answers_that_no_message_can_carry_are_not_begun() -> None:
    """Outputs of one step beyond the message limit are refused before the step runs, unless they are not asked for."""
    for keep in (Keep.ALL, Keep.LAST):
        with pytest.raises(CallerError, match="one step gives 1200") as caught:
            check_answer(keep, step_bytes=1200, most=1024)
        assert caught.value.reason is Reason.BLOCK_TOO_LARGE
    check_answer(Keep.NONE, step_bytes=1200, most=1024)
    check_answer(Keep.ALL, step_bytes=700, most=1024)
