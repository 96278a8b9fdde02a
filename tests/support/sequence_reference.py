"""Sequences by their rules, written for reading: every row is carried out at once, on lists of sums by id."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from stepstream_server.engine.ports import Ending
from stepstream_server.errors import Reason

Outcome = float | Reason  # of one step: the sum after it, or why it was refused


@dataclass(frozen=True)
class Row:
    """A one-shot row. `seq` None: not numbered."""

    id: str
    seq: int | None
    values: tuple[float, ...]
    start: bool = False
    end: bool = False
    secret: bytes = b""
    late: bool = False  # its time is over before its new steps can run

    @property
    def valid(self) -> bool:
        return all(math.isfinite(value) for value in self.values)

    @property
    def steps(self) -> tuple[int | None, int]:
        """What a repeat has in common with it."""
        return self.seq, len(self.values)


@dataclass
class ReferenceSequence:
    """One life of an id."""

    secret: bytes = b""  # empty: nobody was told
    sums: list[float] = field(default_factory=list)  # after each step
    kept: list[bool] = field(default_factory=list)  # by step
    acked: int = 0
    held: bool = False  # by a stream
    dropped: bool = False  # a step whose time was over, which may be queued still: what names a number meanwhile is behind it

    def step(self, value: float, *, keep: bool) -> float:
        """Applies one step."""
        self.sums.append((self.sums[-1] if self.sums else 0.0) + value)
        self.kept.append(keep)
        return self.sums[-1]


class ReferenceTable:
    """Who has which id, and how those ended who had it before."""

    def __init__(self, window_steps: int) -> None:
        self.window_steps = window_steps
        self.live: dict[str, ReferenceSequence] = {}
        self.endings: dict[str, Reason] = {}
        self.closed: Counter[Ending] = Counter()
        self._last: dict[str, tuple[tuple[int | None, int], list[Outcome]]] = {}  # how numbered ends were answered

    def open(self, name: str, secret: bytes = b"") -> ReferenceSequence:
        """Begins a life of the id."""
        self.endings.pop(name, None)
        self._last.pop(name, None)
        self.live[name] = ReferenceSequence(secret)
        return self.live[name]

    def end(self, name: str, ending: Ending, reason: Reason) -> None:
        """Ends it."""
        del self.live[name]
        self.endings[name] = reason
        self.closed[ending] += 1

    def call(self, row: Row) -> list[Outcome]:
        """What a one-shot row is told, step by step."""
        refusal = self._refusal(row)
        if refusal is None and row.start:
            if row.id in self.live:
                self.end(row.id, Ending.REPLACED, Reason.SESSION_CLOSED)
            self.open(row.id)
        if row.id not in self.live and self.ended_with(row):
            return self._last[row.id][1]
        if refusal is not None:
            return [refusal] * len(row.values)
        outcomes = list(self._steps(self.live[row.id], row))
        if row.end and isinstance(outcomes[-1], float):
            self.end(row.id, Ending.CLOSED, Reason.SESSION_CLOSED)
            if row.seq is not None and all(isinstance(each, float) for each in outcomes):
                self._last[row.id] = row.steps, outcomes
        return outcomes

    def ended_with(self, row: Row) -> bool:
        """Whether the row repeats the numbered one with which the last life of its id has ended."""
        return row.end and not row.start and row.id in self._last and self._last[row.id][0] == row.steps

    def _refusal(self, row: Row) -> Reason | None:
        """Why no step of the row is looked at."""
        sequence = self.live.get(row.id)
        if row.start:
            if row.seq not in (None, 0):
                return Reason.SEQUENCE_MISMATCH
            if not row.valid:
                return Reason.NON_FINITE_INPUT
            if len(row.values) > self.window_steps:
                return Reason.WINDOW_FULL
            if row.late:
                return Reason.DEADLINE_EXCEEDED
            return Reason.SESSION_IN_USE if sequence is not None and sequence.held else None
        if sequence is None:
            return self.endings.get(row.id, Reason.SESSION_NOT_FOUND)
        if row.secret and row.secret != sequence.secret:
            return Reason.SECRET_MISMATCH
        return Reason.SESSION_IN_USE if sequence.held and not row.secret else None

    def _steps(self, sequence: ReferenceSequence, row: Row) -> Iterator[Outcome]:
        there = len(sequence.sums)
        first = there if row.seq is None else row.seq
        if first > there:
            yield from [Reason.SEQUENCE_MISMATCH] * len(row.values)
            return
        if row.seq is not None or (row.valid and not sequence.held):
            sequence.acked = max(sequence.acked, first)
        for seq in range(first, min(there, first + len(row.values))):
            if seq < sequence.acked:
                yield Reason.ANSWER_DISCARDED
            else:
                yield sequence.sums[seq] if sequence.kept[seq] else Reason.ANSWER_NOT_KEPT
        new: Sequence[float] = row.values[max(0, there - first) :]
        if new and not row.valid:
            yield from [Reason.NON_FINITE_INPUT] * len(new)
            return
        if new and row.late:  # whoever named no number goes on as if it had never come
            sequence.dropped = True
            yield from [Reason.DEADLINE_EXCEEDED] * len(new)
            return
        for value in new:
            yield sequence.step(value, keep=row.seq is not None)
