"""One turn's answers on their way to the streams: encoded once as columns, each stream takes its slice of the bytes.

So a turn that answers 64 streams costs a handful of conversions, and a stream that is behind joins the slices of several turns
into one message.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from stepstream_proto.v1 import inference_pb2
from stepstream_server.engine.ports import Answers
from stepstream_server.rpc.columns import I64, U32, WIRE_TYPES
from stepstream_server.spec import ModelSpec

_ROW_BYTES = 20  # of the columns of one row: handle 4, first_seq 8, length 4, kept 4


@dataclass(frozen=True, slots=True)
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


def encode_turn(answers: Answers, spec: ModelSpec) -> Turn:
    """Columns of a whole turn. At least one row."""
    lengths, kept = answers.lengths, answers.kept
    return Turn(
        answers=answers,
        handles=answers.tags.astype(U32, copy=False).tobytes(),
        first_seqs=answers.first_seqs.astype(I64, copy=False).tobytes(),
        lengths=lengths.astype(U32).tobytes(),
        kept=kept.astype(U32).tobytes(),
        outputs=tuple(
            values.astype(WIRE_TYPES[output.dtype], copy=False).tobytes()
            for values, output in zip(answers.outputs, spec.outputs, strict=True)
        ),
        step_bytes=tuple(output.step_bytes for output in spec.outputs),
        all_step_bytes=spec.output_step_bytes,
        single=bool(lengths[0] == 1 if len(lengths) == 1 else (lengths == 1).all()),
        complete=bool(kept[0] == lengths[0] if len(lengths) == 1 else (kept == lengths).all()),
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


def encode_answers(pieces: Sequence[Piece], errors: Sequence[inference_pb2.RowError]) -> inference_pb2.StreamResponse:
    """One message of pieces of one model, in order, and what failed after them."""
    response = inference_pb2.StreamResponse()
    message = response.answers
    message.SetInParent()
    if pieces:
        columns = (
            _columns(pieces[0]) if len(pieces) == 1 else [b"".join(parts) for parts in zip(*map(_columns, pieces), strict=True)]
        )
        message.handles, message.first_seqs, lengths, kept, *outputs = columns
        message.outputs.extend(outputs)
        if False in [each.turn.single for each in pieces]:
            message.lengths = lengths
        if False in [each.turn.complete for each in pieces]:
            message.kept = kept
    if errors:
        message.errors.extend(errors)
    return response


def _columns(piece: Piece) -> list[bytes]:
    """handles, first_seqs, lengths, kept, then the outputs."""
    turn, first, last, kept_first, kept_last = piece
    return [
        turn.handles[4 * first : 4 * last],
        turn.first_seqs[8 * first : 8 * last],
        turn.lengths[4 * first : 4 * last],
        turn.kept[4 * first : 4 * last],
        *[values[size * kept_first : size * kept_last] for values, size in zip(turn.outputs, turn.step_bytes, strict=True)],
    ]
