"""One turn's answers on their way to the streams: encoded once as columns, each stream takes its slice of the bytes.

So a turn that answers 64 streams costs a handful of conversions, and a stream that is behind joins the slices of several turns
into one message. Where each row answers one step, which is what most do, the turn is encoded as messages of one row at once.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from stepstream_proto.v1 import inference_pb2
from stepstream_server.engine.ports import Answers, Rolled, RolloutEnding
from stepstream_server.rpc.columns import I64, U32, WIRE_TYPES, to_wire
from stepstream_server.spec import ModelSpec

_ANSWERS = inference_pb2.StreamResponse.ANSWERS_FIELD_NUMBER
_ONE = (1).to_bytes(4, "little")
_LAID_OUT_BYTES = 4096  # of outputs: beyond it copying them once more costs what a message object does
_ROW_BYTES = 20  # of the columns of one row: handle 4, first_seq 8, length 4, kept 4


def wire_field(number: int, content: bytes) -> bytes:
    """A protobuf field of type bytes, string or message, where a message object per answer would cost more than the answer.

    Fields behind each other make a message (protobuf.dev/programming-guides/encoding).
    """
    return wire_head(number, len(content)) + content


def wire_head(number: int, size: int) -> bytes:
    """What stands before the content of a field of type bytes, string or message."""
    return _varint(number << 3 | 2) + _varint(size)


def _varint(number: int) -> bytes:
    """Seven bits to a byte, the lowest first; all but the last have their highest bit set."""
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


class Layout(NamedTuple):
    """A message that answers one step with all of its outputs: its size and its fields' places are always the same."""

    template: NDArray[np.uint8]  # the message, its columns zeros
    handle: slice
    first_seq: slice
    outputs: tuple[slice, ...]


@functools.cache
def layout_of(step_bytes: tuple[int, ...]) -> Layout:
    """For a model whose outputs take so many bytes a step."""
    answers = inference_pb2.Answers
    fields = [(answers.HANDLES_FIELD_NUMBER, 4), (answers.FIRST_SEQS_FIELD_NUMBER, 8)]
    fields += [(answers.OUTPUTS_FIELD_NUMBER, size) for size in step_bytes]
    body, places = b"", []
    for number, size in fields:
        body += wire_head(number, size)
        places.append((len(body), len(body) + size))
        body += bytes(size)
    message = wire_field(_ANSWERS, body)
    handle, first_seq, *outputs = (slice(start - len(body), end - len(body) or None) for start, end in places)
    return Layout(np.frombuffer(message, np.uint8), handle, first_seq, tuple(outputs))


@dataclass(slots=True)
class Turn:
    """A turn's answers of one model, as the contract writes them."""

    answers: Answers
    handles: bytes  # uint32[n]
    first_seqs: bytes  # uint64[n]
    lengths: bytes  # uint32[n]
    kept: bytes  # uint32[n]
    outputs: tuple[bytes, ...]
    step_bytes: tuple[int, ...]  # of each output
    all_step_bytes: int  # of all outputs together
    single: bool  # every row is one step long
    complete: bool  # every step of every row has outputs
    layout: Layout | None  # of messages of one row, where all rows can have such
    _rows: list[tuple[int, int, int, int]] | None = None
    _messages: bytes = b""

    def rows(self) -> list[tuple[int, int, int, int]]:
        """Tag, first number, length and steps with outputs of each row, for who looks at them one by one; made once."""
        if self._rows is None:
            answers = self.answers
            columns = (answers.handles, answers.first_seqs, answers.lengths, answers.kept)
            self._rows = list(zip(*[column.tolist() for column in columns], strict=True))
        return self._rows

    def message(self, layout: Layout, row: int) -> bytes:
        """One row as a message."""
        if not self._messages:
            rows = len(self.answers.handles)
            messages = np.empty((rows, len(layout.template)), np.uint8)
            messages[:] = layout.template
            columns = zip(
                (layout.handle, layout.first_seq, *layout.outputs), (self.handles, self.first_seqs, *self.outputs), strict=True
            )
            for place, column in columns:
                messages[:, place] = np.frombuffer(column, np.uint8).reshape(rows, -1)
            self._messages = messages.tobytes()
        size = len(layout.template)
        return self._messages[size * row : size * row + size]


class Piece(NamedTuple):
    """Adjacent rows of a turn: those of one stream, or fewer."""

    turn: Turn
    first: int  # rows [first, last)
    last: int
    kept_first: int  # their steps with outputs [kept_first, kept_last)
    kept_last: int

    @property
    def bytes(self) -> int:
        """Size on the wire, nearly."""
        return (self.last - self.first) * _ROW_BYTES + (self.kept_last - self.kept_first) * self.turn.all_step_bytes

    @property
    def steps(self) -> int:
        """Answered in its rows, with outputs or without."""
        return self.last - self.first if self.turn.single else int(self.turn.answers.lengths[self.first : self.last].sum())


class Part(NamedTuple):
    """A piece's own bytes, which keep nothing of other streams' alive."""

    columns: tuple[bytes, ...]  # handles, first_seqs, lengths, kept, then the outputs; none beside a message
    size: int  # on the wire, nearly
    single: bool  # as of the turn
    complete: bool
    message: bytes = b""  # all of it, where it is one row that has a layout
    layout: Layout | None = None  # of the message

    def as_columns(self) -> tuple[bytes, ...]:
        """The columns, to be joined with those of others."""
        message, layout = self.message, self.layout
        if layout is None:
            return self.columns
        outputs = [message[place] for place in layout.outputs]
        return (message[layout.handle], message[layout.first_seq], _ONE, _ONE, *outputs)


def encode_turn(answers: Answers, spec: ModelSpec) -> Turn:
    """Columns of a whole turn. At least one row."""
    lengths, kept = answers.lengths, answers.kept
    step_bytes = tuple([output.step_bytes for output in spec.outputs])
    single = bool(lengths[0] == 1 if len(lengths) == 1 else (lengths == 1).all())
    complete = bool(kept[0] == lengths[0] if len(lengths) == 1 else (kept == lengths).all())
    return Turn(
        answers=answers,
        handles=answers.handles.astype(U32, copy=False).tobytes(),
        first_seqs=answers.first_seqs.astype(I64, copy=False).tobytes(),
        lengths=lengths.astype(U32).tobytes(),
        kept=kept.astype(U32).tobytes(),
        outputs=tuple(
            values.astype(WIRE_TYPES[output.dtype], copy=False).tobytes()
            for values, output in zip(answers.outputs, spec.outputs, strict=True)
        ),
        step_bytes=step_bytes,
        all_step_bytes=sum(step_bytes),
        single=single,
        complete=complete,
        layout=layout_of(step_bytes) if single and complete and all(step_bytes) and sum(step_bytes) <= _LAID_OUT_BYTES else None,
    )


def split_by_stream(turn: Turn) -> Iterator[tuple[int, Piece]]:
    """Each stream's piece; rows of equal streams are adjacent."""
    streams, kept = turn.answers.streams, turn.answers.kept
    rows = len(streams)
    if rows == 1:
        yield streams.item(), Piece(turn, 0, 1, 0, kept.item())
        return
    edges = [0, *(np.flatnonzero(streams[1:] != streams[:-1]) + 1).tolist(), rows]
    offsets = np.concatenate(([0], np.cumsum(kept)))[edges].tolist()
    owners = streams[edges[:-1]].tolist()
    for index, stream in enumerate(owners):
        yield stream, Piece(turn, edges[index], edges[index + 1], offsets[index], offsets[index + 1])


def split_by_size(piece: Piece, limit: int) -> Iterator[Piece]:
    """Cuts a piece between rows so that none exceeds `limit` bytes, unless a single row does."""
    kept = piece.turn.answers.kept[piece.first : piece.last]
    kept_ends = piece.kept_first + np.cumsum(kept)
    sizes = np.cumsum(_ROW_BYTES + kept * piece.turn.all_step_bytes)
    row, kept_first, taken = 0, piece.kept_first, 0
    while row < len(kept):
        end = max(row + 1, int(np.searchsorted(sizes, taken + limit, side="right")))
        kept_last = int(kept_ends[end - 1])
        yield Piece(piece.turn, piece.first + row, piece.first + end, kept_first, kept_last)
        row, kept_first, taken = end, kept_last, int(sizes[end - 1])


def split_rows(piece: Piece, spec: ModelSpec, limit: int) -> Piece:
    """The same answers, with rows whose outputs exceed `limit` bytes as several rows: steps without outputs first."""
    turn, rows, steps = piece.turn, slice(piece.first, piece.last), slice(piece.kept_first, piece.kept_last)
    answers = turn.answers
    kept, bare = answers.kept[rows], answers.lengths[rows] - answers.kept[rows]
    most = max(1, limit // max(1, turn.all_step_bytes))  # steps with outputs of one row
    counts = np.maximum(1, -(-kept // most))
    row = np.repeat(np.arange(len(counts)), counts)
    place = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)  # 0 for the first part of each row
    kept_here = np.minimum(most, kept[row] - place * most)
    split = Answers(
        streams=answers.streams[rows][row],
        handles=answers.handles[rows][row],
        first_seqs=answers.first_seqs[rows][row] + np.where(place > 0, bare[row], 0) + place * most,
        lengths=kept_here + np.where(place == 0, bare[row], 0),
        kept=kept_here,
        outputs=tuple(values[steps] for values in answers.outputs),
    )
    return Piece(encode_turn(split, spec), 0, len(row), 0, piece.kept_last - piece.kept_first)


def cut_out(piece: Piece) -> Part:
    """Copies a piece out of its turn."""
    turn, first, last, kept_first, kept_last = piece
    if turn.layout is not None and last - first == 1:
        return Part((), piece.bytes, True, True, turn.message(turn.layout, first), turn.layout)
    columns = (
        turn.handles[4 * first : 4 * last],
        turn.first_seqs[8 * first : 8 * last],
        turn.lengths[4 * first : 4 * last],
        turn.kept[4 * first : 4 * last],
        *[values[size * kept_first : size * kept_last] for values, size in zip(turn.outputs, turn.step_bytes, strict=True)],
    )
    return Part(columns, piece.bytes, turn.single, turn.complete)


def encode_answers(parts: Sequence[Part], errors: Sequence[inference_pb2.RowError]) -> bytes:
    """One message of parts of one model, in order, and what failed after them; serialised."""
    if len(parts) == 1 and not errors and parts[0].message:
        return parts[0].message
    message = inference_pb2.Answers(errors=errors)
    if parts:
        columns = parts[0].as_columns() if len(parts) == 1 else _joined(parts)
        message.handles, message.first_seqs, lengths, kept, *outputs = columns
        message.outputs.extend(outputs)
        if False in [each.single for each in parts]:
            message.lengths = lengths
        if False in [each.complete for each in parts]:
            message.kept = kept
    return wire_field(_ANSWERS, message.SerializeToString())


def _joined(parts: Sequence[Part]) -> list[bytes]:
    return [b"".join(columns) for columns in zip(*[each.as_columns() for each in parts], strict=True)]


class Drawn(NamedTuple):
    """What was drawn in some consecutive steps, as bytes."""

    first_seq: int
    steps: int
    next_seq: int
    ending: RolloutEnding | None  # None: it goes on
    values: bytes
    outputs: tuple[bytes, ...]  # none where they are not wanted

    @classmethod
    def joined(cls, parts: Sequence[Drawn]) -> Drawn:
        """One of several that follow each other."""
        if len(parts) == 1:
            return parts[0]
        outputs = tuple(map(b"".join, zip(*(part.outputs for part in parts if part.steps), strict=True)))
        values = b"".join(part.values for part in parts)
        return cls(parts[0].first_seq, sum(part.steps for part in parts), *parts[-1][2:4], values, outputs)

    def cut(self, most: int) -> Iterator[Drawn]:
        """Cuts it into parts of at most so many steps. `next_seq` is already final in the first part."""
        for start in range(0, max(1, self.steps), most):
            end = min(start + most, self.steps)
            values, *outputs = (_part(each, start, end, self.steps) for each in (self.values, *self.outputs))
            ending = self.ending if end == self.steps else None
            yield Drawn(self.first_seq + start, end - start, self.next_seq, ending, values, tuple(outputs))


def split_rolled(rolled: Rolled) -> Iterator[tuple[int, Drawn]]:
    """Each piece of a turn with the number of its caller."""
    value_ends, kept_ends = np.cumsum(rolled.pieces["size"]).tolist(), np.cumsum(rolled.pieces["kept"]).tolist()
    values, width = to_wire(rolled.values), rolled.values.itemsize
    for piece, value_end, kept_end in zip(rolled.pieces.tolist(), value_ends, kept_ends, strict=True):
        stream, first, steps, following, ending, size, kept = piece
        outputs = tuple(to_wire(each[kept_end - kept : kept_end]) for each in rolled.outputs) if kept else ()
        drawn = values[width * (value_end - size) : width * value_end]
        yield stream, Drawn(first, steps, following, RolloutEnding(ending) if ending else None, drawn, outputs)


def _part(data: bytes, start: int, end: int, steps: int) -> bytes:
    """Of the bytes of so many steps, those of the steps [start, end)."""
    width = len(data) // max(1, steps)
    return data[start * width : end * width]
