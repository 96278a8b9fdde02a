"""Endings of durable sessions: written to the store, and tried again until that is done.

A session has ended here at once. Its id is held until the store knows: nobody can have it restored or open another one under
it meanwhile. If the store fails, those who wait are told, and whoever names the id next waits for the next try.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from stepstream_server.engine.books import Books
from stepstream_server.engine.durable.questions import Questions, Retry
from stepstream_server.engine.durable.writing import Writing
from stepstream_server.engine.ports import End, Ending, FindOverdue, Ints, NotDone, Outcome, Overdue, TurnReport
from stepstream_server.engine.sessions.finding import Finding
from stepstream_server.errors import StepStreamError

Told = Callable[[StepStreamError | None, float, TurnReport], None]  # hears that an ending is written, or why it is not yet

# Between two looks for sessions that are overdue and only in the store. Nobody waits for that: it frees room on a disk, and
# whoever names such a session is told that it has expired in any case.
_LOOK_SECONDS = 60.0
_MOST_OVERDUE = 1024  # that one look ends: some milliseconds of the store's time


@dataclass(slots=True)
class _Unwritten:
    """Endings that the store is to know."""

    keys: Sequence[str]
    ending: Ending
    until: float  # unix seconds
    tell: list[Told] = field(default_factory=list)


class Endings:
    """Writes endings."""

    def __init__(
        self, books: Books, questions: Questions, writing: Writing, finding: Finding, now: float, wall_clock: Callable[[], float]
    ) -> None:
        """now: monotonic seconds. wall_clock: unix seconds."""
        self._table = books.table
        self._questions = questions
        self._writing = writing
        self._finding = finding
        self._wall_clock = wall_clock
        self._failed: list[_Unwritten] = []
        self._retry = Retry()
        self._look_at = now + _LOOK_SECONDS
        self._looking = False
        self._unwritten = 0

    @property
    def next_deadline(self) -> float:
        """Monotonic seconds at which something is to be tried again, or looked for."""
        return min(self._retry.at, self._look_at) if self._failed else self._look_at

    @property
    def settled(self) -> bool:
        """Tells whether the store knows of all endings."""
        return not self._unwritten

    def write(self, keys: Sequence[str], ending: Ending, tell: Told | None = None) -> None:
        """Sessions have ended under these keys. tell: hears how the first try went."""
        self._finding.hold(keys)
        self._unwritten += 1
        until = self._wall_clock() + self._table.tombstone_seconds
        self._ask(_Unwritten(keys, ending, until, [tell] if tell else []))

    def expire(self, keys: Sequence[str], now: float) -> None:
        """Sessions that only the store has are over."""
        for key in keys:
            self._table.remember_ending(key, Ending.EXPIRED, now)
        if keys:
            self.write(keys, Ending.EXPIRED)

    def due(self, now: float) -> None:
        """Tries again what has failed, and looks for what is overdue, if it is time for it."""
        if self._failed and now >= self._retry.at:
            failed, self._failed = self._failed, []
            for each in failed:
                self._ask(each)
        if now >= self._look_at:
            self._look_at = now + _LOOK_SECONDS
            if not self._looking:
                self._looking = True
                self._questions.ask(lambda number: FindOverdue(number, self._wall_clock(), _MOST_OVERDUE), self._end_overdue)

    def _ask(self, each: _Unwritten) -> None:
        self._questions.ask(lambda number: End(number, each.keys, each.ending, each.until), partial(self._hear, each))

    def _hear(self, each: _Unwritten, outcome: Outcome, now: float, report: TurnReport) -> None:
        error = outcome.error if isinstance(outcome, NotDone) else None
        waiting, each.tell = each.tell, []
        for tell in waiting:
            tell(error, now, report)
        if error is None:
            self._unwritten -= 1
            self._retry.worked()
            self._finding.let_go(each.keys)
            return
        self._finding.bar(each.keys, error)
        if not self._failed:  # else it is to be tried again with the others
            self._retry.failed(now)
        self._fail(each)

    def _fail(self, each: _Unwritten) -> None:
        """Keeps what is to be tried again, all of one ending as one task."""
        same = next((other for other in self._failed if other.ending is each.ending), None)
        if same is None:
            self._failed.append(each)
        else:
            same.keys, same.until = [*same.keys, *each.keys], max(same.until, each.until)
            self._unwritten -= 1

    def _end_overdue(self, outcome: Outcome, now: float, _report: TurnReport) -> None:
        """Those that are in memory are not: what the store has of them is old."""
        self._looking = False
        if isinstance(outcome, Overdue):
            here: Ints = self._table.numbers([key for key in outcome.keys if key in self._table])
            self._writing.touch(here[self._table.durable[here]], now)
            self.expire([key for key in outcome.keys if key not in self._table and not self._finding.concerned(key)], now)
