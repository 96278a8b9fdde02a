"""Steps on their way to an engine: those of one round of the event loop, whoever sends them, leave as one command.

Columns grow as Python lists and become arrays once per round: for single steps, arrays of one element each would cost more than
the steps.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from stepstream_server.engine.ports import NO_SEQ, ROW, ROW_FORMAT, Block, Call, Keep, Tensor
from stepstream_server.rpc.columns import WIRE_TYPES
from stepstream_server.spec import TensorSpec

_PACK = struct.Struct(ROW_FORMAT).pack


class Steps(NamedTuple):
    """What a caller asks for: steps of n sessions, equally many of each."""

    ids: Sequence[str]  # [n]
    length: int  # steps of each, >= 1
    inputs: tuple[bytes, ...]  # one per declared input: little-endian [n * length, *shape]
    arrival: float  # monotonic seconds
    deadline: float  # monotonic seconds; not begun by then: dropped
    keep: Keep = Keep.ALL
    seqs: Sequence[int] | None = None  # [n], or NO_SEQ; None: none is numbered
    secrets: Sequence[bytes] | None = None  # [n]; None: none is known
    starts: Sequence[bool] | None = None  # [n]; None: none opens its session
    ends: Sequence[bool] | None = None  # [n]; None: none ends its session
    behind: bool = False  # whether they may be answered before they are in the store


class Blocks:
    """Rows of streams, of one message of each."""

    def __init__(self, inputs: Sequence[TensorSpec]) -> None:
        self._tensors = Tensors(inputs)
        self._clear()

    def add(self, stream: int, rows: bytes, inputs: Sequence[bytes]) -> None:
        """Adds rows of a stream that has none here yet, packed as ROW is; inputs as a block has them."""
        self.streams.add(stream)
        self._rows.append(rows)
        for parts, data in zip(self._inputs, inputs, strict=True):
            parts.append(data)

    def take(self) -> Block:
        """All of them, as a command. None is left."""
        block = Block(np.frombuffer(_join(self._rows), ROW), self._tensors.of(self._inputs))
        self._clear()
        return block

    def _clear(self) -> None:
        self.streams: set[int] = set()  # that have rows here
        self._rows: list[bytes] = []
        self._inputs = self._tensors.empty()


class Calls:
    """One-shot steps."""

    def __init__(self, inputs: Sequence[TensorSpec]) -> None:
        self._tensors = Tensors(inputs)
        self._clear()

    def __len__(self) -> int:
        return len(self._ids)

    def add(self, stream: int, first_handle: int, steps: Steps) -> None:
        """Adds rows of a caller's, with handles from `first_handle` on."""
        place, rows = len(self._ids), len(steps.ids)
        seqs, ends = steps.seqs or [NO_SEQ] * rows, steps.ends or [False] * rows
        length, arrival, deadline, behind = steps.length, steps.arrival, steps.deadline, steps.behind
        self._ids += steps.ids
        self._rows += [
            _PACK(stream, 0, seq, handle, steps.keep, 0, seq == NO_SEQ, end, behind, 0, length, 0, arrival, deadline)
            for handle, seq, end in zip(range(first_handle, first_handle + rows), seqs, ends, strict=True)
        ]
        for parts, data in zip(self._inputs, steps.inputs, strict=True):
            parts.append(data)
        if steps.secrets is not None:
            self._secrets += [b""] * (place - len(self._secrets))
            self._secrets += steps.secrets
        if steps.starts is not None:
            self._starts += [place + row for row, flag in enumerate(steps.starts) if flag]

    def take(self) -> Call:
        """All of them, as a command. None is left."""
        rows = len(self._ids)
        starts = np.zeros(rows, np.bool_)
        starts[self._starts] = True
        secrets = [*self._secrets, *[b""] * (rows - len(self._secrets))] if self._secrets else ()
        call = Call(np.frombuffer(_join(self._rows), ROW), self._ids, secrets, starts, self._tensors.of(self._inputs))
        self._clear()
        return call

    def _clear(self) -> None:
        self._ids: list[str] = []
        self._rows: list[bytes] = []  # packed as ROW is
        self._inputs = self._tensors.empty()
        # Of few rows:
        self._secrets: list[bytes] = []  # of the rows up to the last that has one
        self._starts: list[int] = []  # places


class Tensors:
    """Inputs of one model: parts of each, little-endian, that become one tensor."""

    def __init__(self, specs: Sequence[TensorSpec]) -> None:
        self._layouts = [(WIRE_TYPES[spec.dtype], (-1, *spec.shape)) for spec in specs]

    def empty(self) -> list[list[bytes]]:
        """No parts of each."""
        return [[] for _ in self._layouts]

    def of(self, inputs: Sequence[Sequence[bytes]]) -> tuple[Tensor, ...]:
        """One tensor [steps, *shape] per input."""
        return tuple(
            [
                np.frombuffer(_join(parts), dtype).reshape(shape)
                for parts, (dtype, shape) in zip(inputs, self._layouts, strict=True)
            ]
        )


def _join(parts: Sequence[bytes]) -> bytes:
    """The parts behind each other; no copy of a single one."""
    return parts[0] if len(parts) == 1 else b"".join(parts)
