"""Momentary steps on their way to an engine: those of one round of the event loop, whoever asks for them, leave as one command.

Columns grow as Python lists and become arrays once per round: for single steps, arrays of one element each would cost more than
the steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from stepstream_server.engine.ports import NO_SEQ, Call, Keep
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


class Gathering:
    """The rows of one round."""

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
            inputs=tuple(
                np.frombuffer(b"".join(parts), WIRE_TYPES[spec.dtype]).reshape(-1, *spec.shape)
                for parts, spec in zip(self._inputs, self._specs, strict=True)
            ),
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
