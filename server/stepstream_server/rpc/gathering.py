"""Steps on their way to an engine: those of one round of the event loop, whoever sends them, leave as one command.

Columns grow as Python lists and become arrays once per round: for single steps, arrays of one element each would cost more than
the steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from stepstream_server.engine.ports import BLOCK_ROW, NO_SEQ, Block, Call, Keep, Tensor
from stepstream_server.rpc.columns import WIRE_TYPES
from stepstream_server.spec import TensorSpec


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


class Blocks:
    """Rows of streams, of one message of each."""

    def __init__(self, inputs: Sequence[TensorSpec]) -> None:
        self._specs = inputs
        self._clear()

    def __contains__(self, stream: int) -> bool:
        return stream in self._streams

    def __len__(self) -> int:
        return len(self._streams)

    def add(self, stream: int, rows: bytes, inputs: Sequence[bytes]) -> None:
        """Adds rows of a stream that has none here yet, packed as BLOCK_ROW is; inputs as a block has them."""
        self._streams.add(stream)
        self._rows.append(rows)
        for parts, data in zip(self._inputs, inputs, strict=True):
            parts.append(data)

    def take(self) -> Block:
        """All of them, as a command. None is left."""
        block = Block(np.frombuffer(_join(self._rows), BLOCK_ROW), _tensors(self._inputs, self._specs))
        self._clear()
        return block

    def _clear(self) -> None:
        self._streams: set[int] = set()
        self._rows: list[bytes] = []
        self._inputs: list[list[bytes]] = [[] for _ in self._specs]


class Calls:
    """Momentary steps."""

    def __init__(self, inputs: Sequence[TensorSpec]) -> None:
        self._specs = inputs
        self._clear()

    def __len__(self) -> int:
        return len(self._ids)

    def add(self, stream: int, first_tag: int, steps: Steps) -> None:
        """Adds rows of a caller's, with tags from `first_tag` on."""
        place, rows = len(self._ids), len(steps.ids)
        self._ids += steps.ids
        self._streams += [stream] * rows
        self._tags += range(first_tag, first_tag + rows)
        self._lengths += [steps.length] * rows
        self._keeps += [steps.keep] * rows
        self._arrivals += [steps.arrival] * rows
        self._deadlines += [steps.deadline] * rows
        for parts, data in zip(self._inputs, steps.inputs, strict=True):
            parts.append(data)
        if steps.seqs is not None:
            self._seqs += [(place + row, seq) for row, seq in enumerate(steps.seqs)]
        if steps.secrets is not None:
            self._secrets += [b""] * (place - len(self._secrets))
            self._secrets += steps.secrets
        if steps.starts is not None:
            self._starts += [place + row for row, flag in enumerate(steps.starts) if flag]
        if steps.ends is not None:
            self._ends += [place + row for row, flag in enumerate(steps.ends) if flag]

    def take(self) -> Call:
        """All of them, as a command. None is left."""
        rows = len(self._ids)
        seqs, starts, ends = np.full(rows, NO_SEQ), np.zeros(rows, np.bool_), np.zeros(rows, np.bool_)
        for place, seq in self._seqs:
            seqs[place] = seq
        starts[self._starts] = True
        ends[self._ends] = True
        call = Call(
            streams=np.array(self._streams, np.int64),
            tags=np.array(self._tags, np.uint32),
            ids=self._ids,
            secrets=[*self._secrets, *[b""] * (rows - len(self._secrets))] if self._secrets else (),
            seqs=seqs,
            lengths=np.array(self._lengths, np.int64),
            inputs=_tensors(self._inputs, self._specs),
            keeps=np.array(self._keeps, np.int64),
            arrivals=np.array(self._arrivals),
            deadlines=np.array(self._deadlines),
            starts=starts,
            ends=ends,
        )
        self._clear()
        return call

    def _clear(self) -> None:
        self._ids: list[str] = []
        self._streams: list[int] = []
        self._tags: list[int] = []
        self._lengths: list[int] = []
        self._keeps: list[int] = []
        self._arrivals: list[float] = []
        self._deadlines: list[float] = []
        self._inputs: list[list[bytes]] = [[] for _ in self._specs]
        # Of few rows:
        self._seqs: list[tuple[int, int]] = []  # place, number
        self._secrets: list[bytes] = []  # of the rows up to the last that has one
        self._starts: list[int] = []  # places
        self._ends: list[int] = []


def _tensors(inputs: Sequence[Sequence[bytes]], specs: Sequence[TensorSpec]) -> tuple[Tensor, ...]:
    """Parts of each input, little-endian, as one tensor [steps, *shape]."""
    return tuple(
        np.frombuffer(_join(parts), WIRE_TYPES[spec.dtype]).reshape(-1, *spec.shape)
        for parts, spec in zip(inputs, specs, strict=True)
    )


def _join(parts: Sequence[bytes]) -> bytes:
    """The parts behind each other; no copy of a single one."""
    return parts[0] if len(parts) == 1 else b"".join(parts)
