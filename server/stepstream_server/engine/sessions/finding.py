"""Finding: commands that name sessions wait until it is known whether the store has them.

A key that is neither in the table nor remembered as ended is looked up: all that a turn is missing, with one question. Commands
about a key stand in its line, so that they are carried out in their order; one that names several is carried out when it stands
at the front of each of their lines, and none of them is held: being looked up, created, or ended.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial

import numpy as np

from stepstream_server.engine.books.session_table import SessionTable, is_id
from stepstream_server.engine.durable.questions import Questions
from stepstream_server.engine.ports import (
    Attach,
    Call,
    CallersLeft,
    Close,
    Command,
    DoorLost,
    Ending,
    Export,
    Find,
    Fork,
    Found,
    Generate,
    Get,
    Import,
    Ints,
    NotDone,
    Open,
    Outcome,
    Record,
    StreamEnded,
    TurnReport,
)
from stepstream_server.engine.sessions.calls import part
from stepstream_server.errors import CallerError, Reason, StepStreamError
from stepstream_server.tenancy import names_one

_MOST_KEYS = 1024  # of one question: the store reads them in some milliseconds, between which it writes
# Commands that may wait: as many as there are clients that come back at once, of some kilobytes each. More of them are told to
# come again, as long after as a store needs for what waits already.
_MOST_PARKED = 4096
_RETRY_SECONDS = 0.5

Stored = Record | Ending | StepStreamError | None  # what a store has under a key
Restore = Callable[[Mapping[str, Stored], float, TurnReport], dict[str, int | StepStreamError | None]]
Refuse = Callable[[int, Command, StepStreamError], None]


class _Parked:
    """A command that waits."""

    __slots__ = ("command", "door", "keys", "number")

    def __init__(self, number: int, door: int, command: Command, keys: Sequence[str]) -> None:
        self.number = number  # the order in which they came
        self.door = door
        self.command = command
        self.keys = keys  # distinct


class Finding:
    """Lines of commands, by key."""

    def __init__(
        self, table: SessionTable, questions: Questions, refuse: Callable[[int, Command, StepStreamError], None]
    ) -> None:
        """refuse: tells a door that a command of its is not carried out."""
        self._table = table
        self._questions = questions
        self._refuse = refuse
        self.restore: Restore = lambda found, now, report: {}  # set by the engine: restoring needs what stands in line
        self._numbers = itertools.count()
        self._parked: dict[int, _Parked] = {}  # by number
        self._lines: dict[str, deque[_Parked]] = {}
        self._held: Counter[str] = Counter()
        self._wanted: dict[str, None] = {}  # to be looked up
        self._absent: set[str] = set()  # just looked up, and not there
        self._known: set[str] = set()  # keys of which something was just learnt, until nobody waits for them
        self._fronts: list[int] = []  # a heap: numbers of commands that may be carried out
        self._in_fronts: set[int] = set()

    def __len__(self) -> int:
        return len(self._parked)

    def concerned(self, key: str) -> bool:
        """Tells whether something is under way with a key."""
        return key in self._held or key in self._lines

    # Park ------------------------------------------------------------------------------------------------------------

    def admit(self, door: int, command: Command) -> Command | None:
        """Parks a command that has to wait, or those rows of a call that have to. Returns what can be carried out at once."""
        keys = keys_of(command)
        if not keys or (not self._lines and not self._held and self._table.has_all(keys)):
            return command
        waits = {key for key in keys if self._waits(key)}
        if not waits:
            return command
        rest = None
        if isinstance(command, Call):
            late = np.array([key in waits for key in command.ids], np.bool_)
            rest, command = None if late.all() else part(command, ~late), part(command, late)
            keys = command.ids
        if len(self._parked) >= _MOST_PARKED:
            message = f"{_MOST_PARKED} commands wait for sessions that are looked for already"
            self._refuse(door, command, CallerError(Reason.QUEUE_FULL, message, retry_delay_seconds=_RETRY_SECONDS))
        else:
            self._park(door, command, list(dict.fromkeys(keys)))
        return rest

    def _park(self, door: int, command: Command, keys: Sequence[str]) -> None:
        parked = _Parked(next(self._numbers), door, command, keys)
        self._parked[parked.number] = parked
        for key in keys:
            self._lines.setdefault(key, deque()).append(parked)
            self._want_if_missing(key)

    def _waits(self, key: str) -> bool:
        return key in self._lines or key in self._held or self._is_missing(key)

    def _is_missing(self, key: str) -> bool:
        table = self._table
        known = key in table or key in self._absent or key in table.barred or table.ending(key) is not None
        return not known and is_id(key)

    def _want_if_missing(self, key: str) -> bool:
        missing = key not in self._held and self._is_missing(key)
        if missing:
            self._wanted[key] = None
        return missing

    # Look up ---------------------------------------------------------------------------------------------------------

    def ask(self) -> None:
        """Asks the store for all that is missing."""
        keys = list(self._wanted)
        self._wanted.clear()
        for start in range(0, len(keys), _MOST_KEYS):
            some = keys[start : start + _MOST_KEYS]
            self.hold(some)
            self._questions.ask(partial(Find, keys=some), partial(self._found, some))

    def _found(self, keys: Sequence[str], outcome: Outcome, now: float, report: TurnReport) -> None:
        if isinstance(outcome, NotDone):
            self.bar(keys, outcome.error)
        elif isinstance(outcome, Found):
            found = self.restore(dict(zip(keys, outcome.sessions, strict=True)), now, report)
            for key, what in found.items():
                if isinstance(what, StepStreamError):
                    self.bar([key], what)
                elif what is None and self._table.ending(key) is None:
                    self._absent.add(key)
                    self._known.add(key)
        self.let_go(keys)

    # Hold ------------------------------------------------------------------------------------------------------------

    def hold(self, keys: Iterable[str]) -> None:
        """Something is under way with sessions of these keys: commands about them wait."""
        self._held.update(keys)

    def let_go(self, keys: Iterable[str]) -> None:
        """It is over."""
        for key in keys:
            self._held[key] -= 1
            if not self._held[key]:
                del self._held[key]
            self._to_front(key)

    def bar(self, keys: Iterable[str], error: StepStreamError) -> None:
        """Whoever waits for these keys meets an error, also where something goes on with them."""
        for key in keys:
            if key in self._lines:
                self._table.barred[key] = error
                self._known.add(key)
                self._to_front(key)

    def released(self) -> Iterator[tuple[int, Command]]:
        """Commands that need not wait any more, in their order. Each is to be carried out before the next one is asked for."""
        while self._fronts:
            number = heapq.heappop(self._fronts)
            self._in_fronts.remove(number)
            parked = self._parked.get(number)
            if parked is not None and self._may_go(parked):
                self._remove(parked)
                yield parked.door, parked.command

    def end_turn(self) -> None:
        """All that was released has been carried out: what was learnt for it is forgotten."""
        for key in [key for key in self._known if key not in self._lines]:
            self._known.discard(key)
            self._absent.discard(key)
            self._table.barred.pop(key, None)

    def _to_front(self, key: str) -> None:
        if key in self._lines and (number := self._lines[key][0].number) not in self._in_fronts:
            self._in_fronts.add(number)
            heapq.heappush(self._fronts, number)

    def _may_go(self, parked: _Parked) -> bool:
        missing = [key for key in parked.keys if self._want_if_missing(key)]
        return not missing and all(
            self._lines[key][0] is parked and (key not in self._held or key in self._table.barred) for key in parked.keys
        )

    def _remove(self, parked: _Parked) -> None:
        del self._parked[parked.number]
        for key in parked.keys:
            line = self._lines[key]
            line.remove(parked)
            if not line:
                del self._lines[key]
                self._wanted.pop(key, None)
            self._to_front(key)

    # Leave -----------------------------------------------------------------------------------------------------------

    def leave(self, door: int, command: CallersLeft | StreamEnded | DoorLost) -> None:
        """Forgets what a stream, callers, or all of a door have wanted, who have left."""
        if not self._parked:
            return
        streams = np.array(command.streams if isinstance(command, CallersLeft) else [], np.int64)
        for each in [each for each in self._parked.values() if each.door == door]:
            match command, each.command:
                case (DoorLost(), _):
                    self._remove(each)
                case (StreamEnded(), Open() | Attach() | Generate()) if each.command.stream == command.stream:
                    self._remove(each)
                case (CallersLeft(), Generate()) if each.command.stream in streams:
                    self._remove(each)
                case (CallersLeft(), Call()):
                    self._leave_call(each, each.command, streams)

    def _leave_call(self, parked: _Parked, call: Call, streams: Ints) -> None:
        stays = ~np.isin(call.rows["stream"], streams)
        if not stays.any():
            self._remove(parked)
        elif not stays.all():
            parked.command = part(call, stays)


def keys_of(command: Command) -> Sequence[str]:
    """The keys that a command names."""
    match command:
        case Call() | Attach():
            return command.ids
        case Open():
            return [key for key in command.ids if names_one(key)]
        case Get() | Close() | Export():
            return [command.id]
        case Generate():
            return [command.id] if command.id else []
        case Fork():
            return [command.id, *(key for key in command.ids if names_one(key))]
        case Import():
            return [command.id or command.snapshot.id]
        case _:
            return []
