"""One turn's answers on their way to the streams: encoded once as columns, each stream takes its slice of the bytes.

So a turn that answers 64 streams costs a handful of conversions, and a stream that is behind joins the slices of several turns
into one message. A row that answers one step, which is what most do, becomes a message without any message object.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

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


@functools.lru_cache(maxsize=512)  # of the few sizes that messages have: 0.1 MiB
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


class Layout:
    """A message that answers one step with all of its outputs: its size and its fields' places are always the same."""

    def __init__(self, step_bytes: Sequence[int]) -> None:
        """step_bytes: of each output of the model."""
        answers = inference_pb2.Answers
        outputs = [(answers.OUTPUTS_FIELD_NUMBER, size) for size in step_bytes]
        fields = [(answers.HANDLES_FIELD_NUMBER, 4), (answers.FIRST_SEQS_FIELD_NUMBER, 8), *outputs]
        heads = [wire_head(number, size) for number, size in fields]
        sizes = [size for _, size in fields]
        heads[0] = wire_head(_ANSWERS, sum(map(len, heads)) + sum(sizes)) + heads[0]
        ends = list(itertools.accumulate(len(head) + size for head, size in zip(heads, sizes, strict=True)))
        self._places = [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]
        self._handle_head, self._seq_head, *output_heads = heads
        self._outputs = list(zip(output_heads, step_bytes, strict=True))

    def encode(self, turn: Turn, row: int) -> bytes:
        """One row as a message."""
        parts = [self._handle_head, turn.handles[4 * row : 4 * row + 4], self._seq_head, turn.first_seqs[8 * row : 8 * row + 8]]
        for (head, size), values in zip(self._outputs, turn.outputs, strict=True):
            parts += (head, values[size * row : size * row + size])
        return b"".join(parts)

    def columns(self, message: bytes) -> tuple[bytes, ...]:
        """The columns of a message of this layout: handles, first_seqs, lengths, kept, then the outputs."""
        handle, first_seq, *outputs = [message[place] for place in self._places]
        return (handle, first_seq, _ONE, _ONE, *outputs)


class Encoding:
    """How answers of one model become bytes."""

    def __init__(self, spec: ModelSpec) -> None:
        self.step_bytes = [output.step_bytes for output in spec.outputs]  # of each output
        self.all_step_bytes = sum(self.step_bytes)
        self.types = [WIRE_TYPES[output.dtype] for output in spec.outputs]
        # Where all of a turn's rows can have it. No message leaves out an output that takes no bytes.
        self.layout = Layout(self.step_bytes) if all(self.step_bytes) and self.all_step_bytes <= _LAID_OUT_BYTES else None

    def encode(self, answers: Answers) -> Turn:
        """A turn's answers, at least one row, for its streams to take their pieces of."""
        return Turn(answers, self)


class Turn:
    """A turn's answers of one model, as the contract writes them."""

    __slots__ = ("_lengths", "_rows", "answers", "complete", "encoding", "first_seqs", "handles", "layout", "outputs", "single")

    def __init__(self, answers: Answers, encoding: Encoding) -> None:
        lengths, kept = answers.lengths, answers.kept
        self.answers = answers
        self.encoding = encoding
        self.handles = answers.handles.astype(U32, copy=False).tobytes()  # uint32[n]
        self.first_seqs = answers.first_seqs.astype(I64, copy=False).tobytes()  # uint64[n]
        self.outputs = [
            values.astype(dtype, copy=False).tobytes() for values, dtype in zip(answers.outputs, encoding.types, strict=True)
        ]
        if len(lengths) == 1:
            self.single: bool = lengths.item() == 1  # every row is one step long
            self.complete: bool = kept.item() == lengths.item()  # every step of every row has outputs
        else:
            self.single = bool(np.logical_and.reduce(lengths == 1))
            self.complete = bool(np.logical_and.reduce(kept == lengths))
        self.layout = encoding.layout if self.single and self.complete else None  # of messages of one row
        self._rows: list[tuple[int, int, int, int]] | None = None
        self._lengths: tuple[bytes, bytes] | None = None

    def rows(self) -> list[tuple[int, int, int, int]]:
        """Handle, first number, length and steps with outputs of each row, for who looks at them one by one; made once."""
        if self._rows is None:
            answers = self.answers
            columns = (answers.handles, answers.first_seqs, answers.lengths, answers.kept)
            self._rows = list(zip(*[column.tolist() for column in columns], strict=True))
        return self._rows

    def lengths(self) -> tuple[bytes, bytes]:
        """Columns of lengths and of steps with outputs, uint32[n] each; made once."""
        if self._lengths is None:
            self._lengths = self.answers.lengths.astype(U32).tobytes(), self.answers.kept.astype(U32).tobytes()
        return self._lengths


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
        return (self.last - self.first) * _ROW_BYTES + (self.kept_last - self.kept_first) * self.turn.encoding.all_step_bytes


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
        return self.columns if self.layout is None else self.layout.columns(self.message)


def split_by_stream(turn: Turn) -> Iterator[tuple[int, Piece]]:
    """Each stream's piece; rows of equal streams are adjacent."""
    streams, kept = turn.answers.streams, turn.answers.kept
    rows = len(streams)
    if rows == 1:
        yield streams.item(), Piece(turn, 0, 1, 0, kept.item())
        return
    if streams.item(0) == streams.item(-1):
        yield streams.item(0), Piece(turn, 0, rows, 0, rows if turn.layout is not None else int(kept.sum()))
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
    sizes = np.cumsum(_ROW_BYTES + kept * piece.turn.encoding.all_step_bytes)
    row, kept_first, taken = 0, piece.kept_first, 0
    while row < len(kept):
        end = max(row + 1, int(np.searchsorted(sizes, taken + limit, side="right")))
        kept_last = int(kept_ends[end - 1])
        yield Piece(piece.turn, piece.first + row, piece.first + end, kept_first, kept_last)
        row, kept_first, taken = end, kept_last, int(sizes[end - 1])


def split_rows(piece: Piece, limit: int) -> Piece:
    """A piece's answers, with rows whose outputs exceed `limit` bytes as several rows: steps without outputs first."""
    turn, rows, steps = piece.turn, slice(piece.first, piece.last), slice(piece.kept_first, piece.kept_last)
    answers = turn.answers
    kept, bare = answers.kept[rows], answers.lengths[rows] - answers.kept[rows]
    most = max(1, limit // max(1, turn.encoding.all_step_bytes))  # steps with outputs of one row
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
    return Piece(turn.encoding.encode(split), 0, len(row), 0, piece.kept_last - piece.kept_first)


def cut_out(piece: Piece, size: int) -> Part:
    """Copies a piece out of its turn. size: its bytes."""
    turn, first, last, kept_first, kept_last = piece
    if turn.layout is not None and last - first == 1:
        return Part((), size, True, True, turn.layout.encode(turn, first), turn.layout)
    lengths, kept = turn.lengths()
    columns = (
        turn.handles[4 * first : 4 * last],
        turn.first_seqs[8 * first : 8 * last],
        lengths[4 * first : 4 * last],
        kept[4 * first : 4 * last],
        *[
            values[width * kept_first : width * kept_last]
            for values, width in zip(turn.outputs, turn.encoding.step_bytes, strict=True)
        ],
    )
    return Part(columns, size, turn.single, turn.complete)


def encode_answers(parts: Sequence[Part], errors: Sequence[inference_pb2.RowError]) -> bytes:
    """One message of parts of one model, in order, and what failed after them; serialised."""
    if len(parts) == 1 and not errors and parts[0].message:
        return parts[0].message
    message = inference_pb2.Answers(errors=errors)
    if parts:
        part = parts[0] if len(parts) == 1 else _joined(parts)
        message.handles, message.first_seqs, lengths, kept, *outputs = part.as_columns()
        message.outputs.extend(outputs)
        if not part.single:
            message.lengths = lengths
        if not part.complete:
            message.kept = kept
    return wire_field(_ANSWERS, message.SerializeToString())


def _joined(parts: Sequence[Part]) -> Part:
    """One part of several that follow each other."""
    columns = tuple([b"".join(column) for column in zip(*[each.as_columns() for each in parts], strict=True)])
    single, complete = all(each.single for each in parts), all(each.complete for each in parts)
    return Part(columns, sum([each.size for each in parts]), single, complete)


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
