"""Registering: durable sessions are in the store before anybody hears of them.

One write holds the sessions and the request that opens them. So a repeat of it finds them, whoever has died since: they are
restored, and given new secrets, since the store has only digests of the former ones.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from stepstream_server.engine.books.session_table import SessionTable
from stepstream_server.engine.durable.questions import Questions
from stepstream_server.engine.durable.writing import Writing
from stepstream_server.engine.ports import (
    Create,
    Created,
    Ints,
    NotDone,
    Origin,
    Outcome,
    Record,
    Request,
    TurnReport,
    Write,
)
from stepstream_server.engine.sessions.finding import Finding, Stored
from stepstream_server.engine.sessions.idempotency import Made, other_request
from stepstream_server.engine.sessions.lifecycle import Lifecycle, count_opened, count_refused
from stepstream_server.engine.sessions.restoring import Restoring
from stepstream_server.errors import CallerError, Reason, StepStreamError
from stepstream_server.tenancy import names_one

Results = list[int | StepStreamError]  # the numbers of sessions; in their places, why there are none
Then = Callable[[Results, float, TurnReport], None]

# Seconds: unix seconds to which a day is added, and from which it is taken again, are others by less than a microsecond.
_ROUNDED = 1e-5


@dataclass(slots=True)
class Opening:
    """Sessions that a request asks for, and what has become of each so far."""

    ids: Sequence[str]  # as asked for: an empty one is made
    results: Results
    places: Sequence[int]  # of those that this request is to open; the others were opened before
    request_id: str  # empty: a repeat opens more
    what: Hashable  # as of `idempotency.Requests`
    origin: Origin
    then: Then  # hears what has become of all of them, now or in a later turn
    made: dict[int, Made] = field(default_factory=dict)  # sessions made now, by place

    @property
    def may_repeat(self) -> bool:
        """Tells whether the request may have been carried out in a former life of the server: in this one it was not."""
        return bool(self.request_id) and len(self.places) == len(self.ids)

    def refuse(self, places: Sequence[int], error: StepStreamError) -> None:
        """Sessions cannot be had."""
        for place in places:
            self.results[place] = error


class Openings:
    """Lets requests have their sessions, durable ones once the store has them."""

    def __init__(self, registering: Registering | None, *, always: bool) -> None:
        """registering: None: there is no store. always: whether sessions are durable that nobody asks to be."""
        self._registering = registering
        self._always = always

    def durable(self, asked: bool) -> bool:
        """Tells whether sessions that are to be opened are durable. Raises StepStreamError where they cannot be."""
        if self._registering is None:
            if asked:
                message = "durable: this server keeps no sessions durably: it has no store"
                raise CallerError(Reason.NO_STORE, message, field="durable")
            return False
        return asked or self._always

    def refuse_if_behind(self, now: float) -> None:
        """Raises StepStreamError(STORE_UNAVAILABLE) while the store is too far behind for more durable sessions."""
        if self._registering is not None:
            self._registering.refuse_if_behind(now)

    def open(self, opening: Opening, now: float, report: TurnReport, *, durable: bool) -> None:
        """Says what has become of sessions that were created, or could not be; of durable ones in a later turn."""
        created = sum(isinstance(opening.results[place], int) for place in opening.places)
        if durable and self._registering is not None and (created or opening.may_repeat):
            self._registering.open(opening, now)
        else:
            count_opened(opening.origin, created, report)
            opening.then(opening.results, now, report)


class Registering:
    """Opens sessions through the store."""

    def __init__(
        self,
        table: SessionTable,
        questions: Questions,
        writing: Writing,
        finding: Finding,
        lifecycle: Lifecycle,
        restoring: Restoring,
        wall_clock: Callable[[], float],
    ) -> None:
        """wall_clock: unix seconds."""
        self._table = table
        self._questions = questions
        self._writing = writing
        self._finding = finding
        self._lifecycle = lifecycle
        self._restoring = restoring
        self._wall_clock = wall_clock

    def refuse_if_behind(self, now: float) -> None:
        """Raises StepStreamError(STORE_UNAVAILABLE) while the store is too far behind for more sessions."""
        self._writing.refuse_if_behind(now)

    def open(self, opening: Opening, now: float) -> None:
        """Has the store add the sessions that were created for it. They are held until it has, and taken back if it cannot.

        A request of which nothing could be created is asked about all the same: it may be a repeat. If it is not, it stands for
        nothing that anybody would have to remember.
        """
        created = {place: each for place in opening.places if isinstance(each := opening.results[place], int)}
        opening.made = {place: self._lifecycle.made(session) for place, session in created.items()}
        group = self._writing.group(np.array(list(created.values()), np.int64), now)
        request = None
        if opening.may_repeat:  # asked after its sessions were opened, or they would be another's
            seconds = self._table.tombstone_seconds if created else 0.0
            asked_at = max([self._wall_clock(), *group.heads["opened_at"]])
            request = Request(opening.request_id, _digest(opening.what), asked_at + seconds)
        keys = [made.id for made in opening.made.values()]
        self._finding.hold(keys)
        self._questions.ask(partial(Create, group=group, request=request), partial(self._created, opening, keys, request))

    def _created(
        self, opening: Opening, keys: Sequence[str], request: Request | None, outcome: Outcome, now: float, report: TurnReport
    ) -> None:
        self._finding.let_go(keys)
        if isinstance(outcome, NotDone):
            self._refuse(opening, list(opening.made), outcome.error, now, report)
            if request is not None:  # it may repeat one that has been carried out: nobody knows why the others cannot be had
                opening.refuse(opening.places, outcome.error)
        elif isinstance(outcome, Created) and request is not None and outcome.before is not None:
            what, until, found = outcome.before
            self._take_back(opening, list(opening.made), now)
            if what == request.what:
                self._find_again(opening, found, until - self._table.tombstone_seconds, now, report)
                return
            opening.refuse(opening.places, other_request(opening.request_id))
        elif isinstance(outcome, Created) and outcome.taken:
            taken = [place for place, made in opening.made.items() if made.id in set(outcome.taken)]
            message = "id: expected one that no session has, got that of one that is open already"
            self._refuse(opening, taken, CallerError(Reason.SESSION_EXISTS, message, field="id"), now, report)
            self.open(opening, now)
            return
        else:
            self._begin(opening, report)
        opening.then(opening.results, now, report)

    def _begin(self, opening: Opening, report: TurnReport) -> None:
        """The store has the sessions."""
        for place, made in opening.made.items():
            opening.results[place] = self._lifecycle.again(made)  # it may have expired meanwhile
        sessions = self._alive(opening.results, list(opening.made))
        self._writing.adopt(sessions)
        count_opened(opening.origin, len(sessions), report)

    def _refuse(self, opening: Opening, places: Sequence[int], error: StepStreamError, now: float, report: TurnReport) -> None:
        """Sessions that were created cannot be had."""
        self._take_back(opening, places, now)
        opening.refuse(places, error)
        for _ in places:
            count_refused(error.reason, report)

    def _take_back(self, opening: Opening, places: Sequence[int], now: float) -> None:
        """Sessions that were created are not open, and never were."""
        created = [self._lifecycle.again(opening.made.pop(place)) for place in places]
        self._lifecycle.take_back([each for each in created if isinstance(each, int)], now)

    def _alive(self, results: Results, places: Sequence[int]) -> Ints:
        return np.array([each for place in places if isinstance(each := results[place], int)], np.int64)

    # Repeats ---------------------------------------------------------------------------------------------------------

    def _is_later(self, key: str, found: Stored, asked_at: float) -> bool:
        """Tells whether a session was opened after a request that once had its id. asked_at: unix seconds."""
        if key in self._table:
            return not self._table.opened_unix[self._table.find(key)] <= asked_at + _ROUNDED
        return isinstance(found, Record) and bool(found.head["opened_at"] > asked_at + _ROUNDED)

    def _find_again(
        self, opening: Opening, found: Sequence[tuple[str, Stored]], asked_at: float, now: float, report: TurnReport
    ) -> None:
        """The request repeats one that has opened sessions before, in a former life of the server. asked_at: unix seconds."""
        own = {key: what for key, what in found if not self._is_later(key, what, asked_at)}
        restored = dict.fromkeys((key for key, _ in found), None) | self._restoring.restore(own, now, report)
        lost = CallerError(Reason.SESSION_CAPACITY, "the request that this one repeats could not open this session")
        opening.refuse(opening.places, lost)
        free = [place for place in opening.places if not names_one(opening.ids[place])]
        by_id = {opening.ids[place]: place for place in opening.places if names_one(opening.ids[place])}
        for key, what in restored.items():
            place = by_id[key] if key in by_id else free.pop(0)
            opening.results[place] = self._lifecycle.gone(key) if what is None else what
        sessions = self._alive(opening.results, opening.places)
        self._table.renew_secrets(sessions[~self._table.knows_secrets(sessions)])
        opening.made = {
            place: self._lifecycle.made(each) for place in opening.places if isinstance(each := opening.results[place], int)
        }
        group = self._writing.group(sessions, now)
        keys = [made.id for made in opening.made.values()]
        self._finding.hold(keys)
        self._questions.ask(partial(Write, group=group), partial(self._renewed, opening, keys))

    def _renewed(self, opening: Opening, keys: Sequence[str], outcome: Outcome, now: float, report: TurnReport) -> None:
        """The store knows the new secrets."""
        self._finding.let_go(keys)
        for place, made in opening.made.items():
            opening.results[place] = outcome.error if isinstance(outcome, NotDone) else self._lifecycle.again(made)
        opening.then(opening.results, now, report)


def _digest(what: Hashable) -> bytes:
    """Stands for what a request asks for: plain values, whose text is equal where they are."""
    return hashlib.sha256(repr(what).encode()).digest()
