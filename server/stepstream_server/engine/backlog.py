"""The backlog: rows that wait for their turn, as one structured array in order of arrival.

A row is what is left of one row of a block: some consecutive steps of one session. Per session the backlog is first in, first
out, whatever a row asks for, so outcomes come in input order: steps to apply, repeats to answer from the cache, refusals.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stepstream_server.engine.ports import Ints, Tensor
from stepstream_server.engine.table import SessionTable
from stepstream_server.spec import TensorSpec

Rows = NDArray[Any]  # structured, dtype ROW


class Kind:
    """What a row is waiting for. Plain numbers: numpy compares arrays with them five times as fast as with an Enum's."""

    APPLY: Final = 0  # its next step to be computed
    RESET: Final = 1  # the state to be zeroed
    REPEAT: Final = 2  # to be answered from the cache: it was applied, or is pending in front of this row
    REFUSE: Final = 3  # to be told its reason


ROW = np.dtype(
    [
        ("session", np.int64),
        ("first", np.int64),  # number of the next step
        ("length", np.int64),  # steps left
        ("intake", np.int64),  # which arrays its inputs lie in, or which text it is refused with; 0: none
        ("offset", np.int64),  # where its next step lies in them
        ("stream", np.int64),
        ("tag", np.uint32),
        ("kind", np.uint8),
        ("keep", np.uint8),  # ports.Keep
        ("cached", np.bool_),  # whether answers are kept for a repeat
        ("ends", np.bool_),  # whether its session ends once its last step was answered
        ("begin", np.int64),  # of one that ends: number of the first step that was sent
        ("reason", np.int16),  # errors.Reason, of REFUSE
        ("arrival", np.float64),  # monotonic seconds
        ("deadline", np.float64),  # monotonic seconds
    ]
)
_RAW = np.dtype((np.void, ROW.itemsize))  # rows as they lie in memory, which numpy joins in 2 us; by fields it takes 16


class Backlog:
    """Rows waiting, and the inputs they wait with."""

    def __init__(self, inputs: Sequence[TensorSpec], table: SessionTable) -> None:
        self._specs = inputs
        self._table = table
        self._rows: Rows = np.zeros(0, ROW)
        self._fresh: list[Rows] = []  # appended since the rows were last looked at
        self._intakes: dict[int, tuple[Tensor, ...]] = {}
        self._texts: dict[int, str] = {}  # by intake as well: what rows that the door refused are told
        self._last_intake = 0
        self.steps = 0  # waiting to be applied
        self.repeats = 0  # rows of that kind; per session in the table

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def rows(self) -> Rows:
        """All rows in order of arrival. Fields may be written to; only `remove` and `append` change how many there are."""
        if self._fresh:
            parts = [self._rows, *self._fresh] if len(self._rows) else self._fresh
            self._rows = parts[0] if len(parts) == 1 else np.concatenate([part.view(_RAW) for part in parts]).view(ROW)
            self._fresh = []
        return self._rows

    def append(self, rows: Rows, inputs: tuple[Tensor, ...] = ()) -> None:
        """Adds rows behind all others; `inputs` [steps, *shape] is what their offsets point into."""
        if not len(rows):
            return
        if inputs and inputs is not self._intakes.get(self._last_intake):
            self._last_intake += 1
            self._intakes[self._last_intake] = inputs
        rows["intake"] = self._last_intake if inputs else 0
        self._add(rows)

    def append_refused(self, rows: Rows, text: str) -> None:
        """Adds rows to be refused with a text of their own."""
        if not len(rows):
            return
        self._last_intake += 1
        self._texts[self._last_intake] = text
        rows["intake"] = self._last_intake
        self._add(rows)

    def text(self, intake: int) -> str:
        """What a refused row is told; empty: whatever its reason says."""
        return self._texts.get(intake, "")

    def heads(self) -> Ints:
        """Positions of each session's first row, in order of arrival."""
        heads: Ints = self._table.firsts(self.rows["session"]).nonzero()[0]
        return heads

    def by_session(self, sessions: Sequence[int]) -> Iterator[Ints]:
        """Positions of each session's rows, in order of arrival."""
        order = np.argsort(self.rows["session"], kind="stable")
        sorted_sessions = self.rows["session"][order]
        starts, ends = (np.searchsorted(sorted_sessions, sessions, side) for side in ("left", "right"))
        for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
            yield order[start:end]

    def gather(self, positions: Ints, length: int) -> tuple[Tensor, ...]:
        """The next `length` steps of each row: one [n, length, *shape] per input."""
        intakes, offsets = self.rows["intake"][positions], self.rows["offset"][positions]
        if (intakes == intakes[0]).all():
            return tuple(_cut(values, offsets, length) for values in self._intakes[int(intakes[0])])
        gathered = tuple(np.empty((len(positions), length, *spec.shape), spec.dtype) for spec in self._specs)
        for intake in np.unique(intakes).tolist():
            here = intakes == intake
            for target, values in zip(gathered, self._intakes[intake], strict=True):
                target[here] = _cut(values, offsets[here], length)
        return gathered

    def advance(self, positions: Ints, steps: int) -> None:
        """Moves rows on by steps that were applied; a row with nothing left stays until `remove`."""
        rows, these = self.rows, _span(positions)
        rows["first"][these] += steps
        rows["offset"][these] += steps
        rows["length"][these] -= steps
        self.steps -= steps * len(positions)

    def copy(self, positions: Ints) -> Rows:
        """Rows as they are now."""
        return self.rows[_span(positions)].copy()

    def refuse(self, positions: Ints, reason: int) -> None:
        """Turns rows into refusals, where they stand."""
        rows = self.rows
        self.steps -= int(rows["length"][positions][rows["kind"][positions] == Kind.APPLY].sum())
        rows["kind"][positions] = Kind.REFUSE
        rows["reason"][positions] = reason

    def remove(self, gone: NDArray[np.bool_]) -> None:
        """Drops rows by mask, and inputs that no row waits with any more."""
        count = int(np.count_nonzero(gone))
        if not count:
            return
        if count == len(gone):
            self._table.repeats[self.rows["session"]] = 0
            self._rows, self.steps, self.repeats = self.rows[:0], 0, 0
            self._intakes.clear()
            self._texts.clear()
            return
        rows = self.rows
        self.steps -= int(rows["length"][gone & (rows["kind"] == Kind.APPLY)].sum())
        if self.repeats:
            self._count_repeats(rows[gone], -1)
        self._rows = rows[count:] if gone[:count].all() else rows[~gone]  # mostly the oldest go
        intakes = self._rows["intake"]
        oldest = min([*self._intakes, *self._texts], default=0)
        intakes = intakes[intakes > 0]
        needed = set((np.flatnonzero(np.bincount(intakes - oldest)) + oldest).tolist())
        self._intakes = {number: inputs for number, inputs in self._intakes.items() if number in needed}
        if self._texts:
            self._texts = {number: text for number, text in self._texts.items() if number in needed}

    def _add(self, rows: Rows) -> None:
        self._fresh.append(rows)
        self.steps += int(rows["length"][rows["kind"] == Kind.APPLY].sum())
        self._count_repeats(rows, 1)

    def _count_repeats(self, rows: Rows, each: int) -> None:
        sessions = rows["session"][rows["kind"] == Kind.REPEAT]
        if len(sessions):
            self.repeats += each * len(sessions)
            np.add.at(self._table.repeats, sessions, each)


def _span(positions: Ints) -> slice | Ints:
    """Ascending positions as an index: a slice, which costs no copy, where they lie one behind the other."""
    if not len(positions):
        return positions
    first, last = int(positions[0]), int(positions[-1])
    return slice(first, last + 1) if last - first + 1 == len(positions) else positions


def _cut(values: Tensor, offsets: Ints, length: int) -> Tensor:
    """Steps [offset, offset + length) of each row: [n, length, *shape]; a view where rows lie one behind the other."""
    n = len(offsets)
    first = int(offsets[0])
    if int(offsets[-1]) - first == (n - 1) * length and (n < 3 or (np.diff(offsets) == length).all()):
        return values[first : first + n * length].reshape(n, length, *values.shape[1:])
    cut: Tensor = values[offsets[:, None] + np.arange(length)]
    return cut
