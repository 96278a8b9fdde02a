"""The queue: rows that wait, each session's in a list of its own, first in, first out; and the line of sessions that have some.

What becomes of a row is decided when it comes, what it is told when it stands at the head of its session's list: so outcomes come
in input order. Sessions stand in the line in the order in which their heads came to wait; one that was stepped goes to its end.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from stepstream_server.engine.books.records import IDLE, IN_FLIGHT, NEVER, NONE, QUEUED, WAITING, Record, Records, Rows
from stepstream_server.engine.compiled import compiled
from stepstream_server.engine.ports import Ints, Keep, Kind, Tensor
from stepstream_server.spec import TensorSpec

_LEAST_ROOM = 1024  # rows, 100 KB: the room doubles when it is needed
_PARTS = 3  # that an arriving row may become: answers that are gone, repeats, new steps


class Queue:
    """What rows wait with: their inputs, or the text of a refusal. An *intake* is what one command brought."""

    def __init__(self, specs: Sequence[TensorSpec]) -> None:
        self._specs = specs
        self.rows: Rows = np.zeros(0, QUEUED)
        self.waiting = np.zeros(0, np.int32)  # rows that wait with each intake
        self.emptied = np.zeros(0, np.int32)  # intakes that none waits with any more
        self._intakes: list[tuple[Tensor, ...] | str] = []
        self._free: list[int] = []

    def make_room(self, rows: int, counters: Any) -> bool:
        """Has room for so many arriving rows and an intake. Returns whether the arrays are new."""
        short = bool(_PARTS * rows > len(self.rows) - counters.queued[0])
        if short:
            self._grow(_PARTS * rows, counters)
        if not self._free:
            old = len(self._intakes)
            new = max(2 * old, 64)
            self._free += range(new - 1, old - 1, -1)
            self._intakes += [""] * (new - old)
            self.waiting = np.concatenate([self.waiting, np.zeros(new - old, np.int32)])
            self.emptied = np.concatenate([self.emptied, np.zeros(new - old, np.int32)])
            return True
        return short

    def hold(self, content: tuple[Tensor, ...] | str) -> int:
        """Keeps inputs, [steps, *shape] of each, or a text, until no row waits with them. Returns the intake's number."""
        intake = self._free.pop()
        self._intakes[intake] = content
        self.waiting[intake] = 1  # until its rows have been admitted
        return intake

    def let_go(self, counters: Any) -> None:
        """Forgets intakes that no row waits with any more."""
        if counters.emptied[0]:
            for intake in self.emptied[: counters.emptied[0]].tolist():
                self._intakes[intake] = ""
                self._free.append(intake)
            counters.emptied[0] = 0

    def text(self, intake: int) -> str:
        """What a refused row is told; empty: whatever its reason says."""
        content = self._intakes[intake] if intake != NONE else ""
        return content if isinstance(content, str) else ""

    def inputs(self, intake: int) -> tuple[Tensor, ...]:
        """What its rows are computed with: [steps, *shape] of each."""
        content = self._intakes[intake]
        return content if isinstance(content, tuple) else ()

    def gather(self, numbers: Ints, length: int) -> tuple[Tensor, ...]:
        """The next `length` steps of rows of any intakes: one [n, length, *shape] per input."""
        rows = self.rows[numbers]
        places = rows["offset"][:, None] + np.arange(length)
        gathered = tuple(np.empty((len(numbers), length, *spec.shape), spec.dtype) for spec in self._specs)
        for intake in np.unique(rows["intake"]).tolist():
            here = rows["intake"] == intake
            for target, values in zip(gathered, self.inputs(intake), strict=True):
                target[here] = values[places[here]]
        return gathered

    @property
    def intakes(self) -> int:
        """How many are held."""
        return len(self._intakes) - len(self._free)

    def _grow(self, more: int, counters: Any) -> None:
        """At least doubles the room."""
        old = len(self.rows)
        new = max(2 * old, old + more, _LEAST_ROOM)
        rows = np.zeros(new, QUEUED)  # whose padding says nothing, which that of joined arrays would
        rows[:old] = self.rows
        rows["next"][old:] = np.arange(old + 1, new + 1)
        rows["next"][-1] = counters.free[0]
        counters.free[0] = old
        self.rows = rows


@compiled
def append(records: Records, session: int, row: Record, first: int, end: int, kind: int, intake: int, offset: int) -> Record:
    """Adds the steps from `first` up to `end` of an arriving row behind all others of its session. Returns the new row.

    offset: of the arriving row's first step in its intake.
    """
    counters, mine = records.counters[0], records.sessions[session]
    number = counters["free"]
    queued = records.rows[number]
    counters["free"] = queued["next"]
    counters["queued"] += 1
    counters["ever_queued"] += 1
    queued["place"], queued["failed_from"] = counters["ever_queued"], NEVER
    whole = end == row["first"] + row["length"]  # else the row's last step is not in this part
    queued["session"], queued["stream"], queued["handle"] = session, row["stream"], row["handle"]
    queued["first"], queued["length"], queued["begin"] = first, end - first, row["first"]
    queued["kind"], queued["reason"], queued["unkept"] = kind, 0, row["unkept"]
    queued["keep"] = row["keep"]
    if row["keep"] == Keep.LAST and not whole:
        queued["keep"] = Keep.NONE
    queued["ends"], queued["behind"] = row["ends"] and whole, row["behind"]
    queued["arrival"], queued["deadline"] = row["arrival"], row["deadline"]
    queued["offset"], queued["intake"], queued["next"] = offset + first - row["first"], intake, NONE
    if intake != NONE:
        records.waiting[intake] += 1
    if kind == Kind.REPEAT:
        mine["repeats"] += 1
    elif kind == Kind.APPLY:
        counters["pending"] += end - first
    if mine["head"] == NONE:
        mine["head"] = number
        stand_in_line(records, session)
    else:
        records.rows[mine["tail"]]["next"] = number
    mine["tail"] = number
    return queued


@compiled
def remove(records: Records, session: int, number: int, before: int) -> None:
    """Takes a row out of its session's list. before: the row in front of it, or NONE."""
    counters, mine, row = records.counters[0], records.sessions[session], records.rows[number]
    if before == NONE:
        mine["head"] = row["next"]
    else:
        records.rows[before]["next"] = row["next"]
    if mine["tail"] == number:
        mine["tail"] = before
    if row["kind"] == Kind.REPEAT:
        mine["repeats"] -= 1
    elif row["kind"] == Kind.APPLY:
        counters["pending"] -= row["length"]
    if row["intake"] != NONE:
        leave_intake(records, row["intake"])
    row["next"] = counters["free"]
    counters["free"] = number
    counters["queued"] -= 1
    if mine["head"] == NONE and mine["standing"] == WAITING:
        leave_line(records, session)


@compiled
def leave_intake(records: Records, intake: int) -> None:
    """One less waits with it."""
    records.waiting[intake] -= 1
    if records.waiting[intake] == 0:
        counters = records.counters[0]
        records.emptied[counters["emptied"]] = intake
        counters["emptied"] += 1


@compiled
def shorten(records: Records, row: Record, steps: int) -> None:
    """Takes steps that have had their outcome off the front of a row."""
    row["first"] += steps
    row["offset"] += steps
    row["length"] -= steps
    if row["kind"] == Kind.APPLY:
        records.counters[0]["pending"] -= steps


@compiled
def turn_down(records: Records, row: Record, reason: int) -> None:
    """Turns a row that waits into a refusal, where it stands."""
    if row["kind"] == Kind.APPLY:
        records.counters[0]["pending"] -= row["length"]
    row["kind"], row["reason"] = Kind.REFUSE, reason


@compiled
def stand_in_line(records: Records, session: int) -> None:
    """Puts a session at the end of the line."""
    counters, mine = records.counters[0], records.sessions[session]
    mine["standing"], mine["before"], mine["behind"] = WAITING, counters["last"], NONE
    if counters["last"] == NONE:
        counters["first"] = session
    else:
        records.sessions[counters["last"]]["behind"] = session
    counters["last"] = session


@compiled
def leave_line(records: Records, session: int) -> None:
    """Takes a session out of the line."""
    counters, mine = records.counters[0], records.sessions[session]
    before, behind = mine["before"], mine["behind"]
    if before == NONE:
        counters["first"] = behind
    else:
        records.sessions[before]["behind"] = behind
    if behind == NONE:
        counters["last"] = before
    else:
        records.sessions[behind]["before"] = before
    mine["standing"] = IDLE


@compiled
def depart(records: Records, session: int) -> None:
    """A session's next steps are being computed: it is out of the line until they have settled."""
    leave_line(records, session)
    records.sessions[session]["standing"] = IN_FLIGHT


@compiled
def come_back(records: Records, session: int) -> None:
    """What was computed of a session has settled."""
    mine = records.sessions[session]
    mine["standing"] = IDLE
    if mine["head"] != NONE:
        stand_in_line(records, session)


@compiled
def is_pending(row: Record) -> bool:
    """Tells whether a row was admitted and is not applied yet."""
    return bool(row["kind"] == Kind.APPLY or row["kind"] == Kind.RESET)
