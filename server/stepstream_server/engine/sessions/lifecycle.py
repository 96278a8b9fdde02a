"""Lifecycle: how sessions come to be, who holds them, and how they end; whoever waits for something of them is told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from stepstream_server.config import EngineSettings
from stepstream_server.engine.books import Books
from stepstream_server.engine.books.records import NONE
from stepstream_server.engine.books.remembered import Remembered
from stepstream_server.engine.books.session_table import HOW_ENDED, REASON_OF_ENDING, Last
from stepstream_server.engine.books.tenants import Room
from stepstream_server.engine.durable.withheld import Left
from stepstream_server.engine.durable.writing import Writing
from stepstream_server.engine.outbox import Outbox, door_of
from stepstream_server.engine.ports import NO_STREAM, Backend, Ending, Ints, Keep, Opened, Origin, SessionInfo, TurnReport
from stepstream_server.engine.sessions.endings import Endings, Told
from stepstream_server.engine.sessions.idempotency import MOST_BYTES, LastAnswer, Made, answer_repeat
from stepstream_server.errors import CallerError, Reason, StepStreamError
from stepstream_server.tenancy import names_one, plain

_EXPIRED_PER_TURN = 1024  # about 2 ms, what chunk steps may take of a turn; the others follow in the next ones


@dataclass(frozen=True, slots=True)
class Kept:
    """How sessions are kept durably."""

    writing: Writing
    endings: Endings
    always: bool  # whether sessions are durable that nobody asks to be


class Lifecycle:
    """Makes, hands over and ends sessions. Knows no command."""

    def __init__(
        self, settings: EngineSettings, backend: Backend, books: Books, outbox: Outbox, kept: Kept | None = None
    ) -> None:
        """kept: None: no session is durable."""
        self._kept = kept
        self._settings = settings
        self._backend = backend
        self._books = books
        self._table = books.table
        self._outbox = outbox
        # By keys of sessions that are gone:
        self._last_answers = Remembered[LastAnswer](settings.tombstone_seconds, MOST_BYTES, lambda answer: answer.bytes)
        self._held: Counter[int] = Counter()  # sessions attached, by stream

    @property
    def streams(self) -> int:
        """Streams that hold sessions."""
        return len(self._held)

    def held_by(self, stream: int) -> int:
        """How many sessions a stream holds, by its engine-wide number."""
        return self._held.get(stream, 0)

    # Open ------------------------------------------------------------------------------------------------------------

    def create(self, ids: Sequence[str], idle_ttl: float | None, now: float, report: TurnReport) -> list[int | StepStreamError]:
        """Makes a session per id (empty: one is made), each by itself. Returns the number of each, or why there is none. To be
        counted as opened, or taken back, by who asks for it.

        idle_ttl: seconds; None for the setting, which is also the maximum.
        """
        results: list[int | StepStreamError] = [0] * len(ids)
        room = self.room()
        wanted: dict[str | int, int] = {}  # place in `ids` by id, or by place where the id is to be made
        for place, session_id in enumerate(ids):
            try:
                self._check(session_id, session_id in wanted, room)
                room.take(session_id)
                wanted[session_id if names_one(session_id) else place] = place
            except StepStreamError as error:
                results[place] = error
                count_refused(error.reason, report)
        sessions = self._open([ids[place] for place in wanted.values()], idle_ttl, now)
        for place, session in zip(wanted.values(), sessions.tolist(), strict=True):
            results[place] = session
        return results

    def begin(self, sessions: Sequence[int], origin: Origin, now: float, report: TurnReport) -> None:
        """Steps begin sessions that were created: they are durable, if all are, though nothing is in the store yet."""
        if self._kept is not None and self._kept.always and sessions:
            self._kept.writing.begin(np.array(sessions, np.int64), now)
        count_opened(origin, len(sessions), report)

    def take_back(self, sessions: Sequence[int], now: float) -> None:
        """Sessions that were created, and that nobody knows, have never been."""
        numbers = np.array(sessions, np.int64)
        self._books.let_go_of_answers(numbers)
        self._backend.release(self._table.slot[numbers])
        self._table.end(numbers, None, now)

    def refuse_if_draining(self) -> None:
        """Raises CallerError(SERVER_DRAINING)."""
        if self._books.draining:
            raise CallerError(Reason.SERVER_DRAINING, "the server is about to stop: no sessions are opened or attached")

    def room(self) -> Room:
        """The sessions that may still be opened."""
        return Room(self._table.capacity - len(self._table), self._table.tenants)

    def describe(self, found: Sequence[int | StepStreamError], *, with_secret: bool) -> list[Opened | StepStreamError]:
        """Says what the holders of sessions need to know of them; in their places, why there are none."""
        table = self._table
        sessions = np.array([each for each in found if isinstance(each, int)], np.int64)
        columns = (
            table.generation[sessions],
            table.next_seq[sessions],
            table.acked[sessions],
            table.epoch[sessions],
            table.durable[sessions],
            table.durable_seq[sessions],
            table.bitwise[sessions],
        )
        numbers = iter(zip(*(column.tolist() for column in columns), strict=True))
        secrets = iter(table.secrets(sessions) if with_secret else [b""] * len(sessions))
        return [Opened(table.id(each), next(secrets), each, *next(numbers)) if isinstance(each, int) else each for each in found]

    def made(self, session: int) -> Made:
        """Notes what a request that is repeated is to find again."""
        return Made(session, int(self._table.generation[session]), self._table.id(session))

    def again(self, made: Made) -> int | StepStreamError:
        """A session that was opened before, or how it has ended since; without its id, which the caller need not know."""
        if self._table.alive(made.session, made.generation) and made.session not in self._table.replaced:
            return made.session
        return self.gone(made.id)

    def gone(self, session_id: str) -> StepStreamError:
        """How a session has ended that was opened before."""
        ending = self._table.ending(session_id) or Ending.CLOSED  # nothing is remembered of one whose id another has
        message = f"the session that the request of this request_id has made {HOW_ENDED[ending]}"
        return CallerError(REASON_OF_ENDING[ending], message, field="id")

    def info(self, sessions: Ints, now: float) -> list[SessionInfo]:
        """Says what anybody may know of sessions."""
        table = self._table
        columns = (
            table.quarantined(sessions),
            table.next_seq[sessions],
            table.acked[sessions],
            table.admitted[sessions] - table.next_seq[sessions],
            now - table.opened_at[sessions],
            now - table.used_at[sessions],
            table.idle_ttl[sessions],
            table.stream[sessions] != NO_STREAM,
            table.slot[sessions],
            table.epoch[sessions],
            table.durable[sessions],
            table.durable_seq[sessions],
        )
        rows = zip(sessions.tolist(), *(column.tolist() for column in columns), strict=True)
        return [SessionInfo(table.id(session), *facts) for session, *facts in rows]

    def _check(self, session_id: str, twice: bool, room: Room) -> None:
        self.refuse_if_draining()
        if names_one(session_id):
            self._table.check_id(session_id)
            self._table.refuse_if_barred(session_id)
        if session_id in self._table:
            raise CallerError(Reason.SESSION_EXISTS, f"session {plain(session_id)!r} is open already", field="id")
        if twice:
            raise CallerError(Reason.SESSION_EXISTS, f"id: expected each once, got {plain(session_id)!r} again", field="id")
        room.refuse_if_full(session_id)

    def _open(self, ids: Sequence[str], idle_ttl: float | None, now: float) -> Ints:
        settings = self._settings
        ttl = min(idle_ttl or settings.idle_ttl_seconds, settings.idle_ttl_seconds)
        lifetime = settings.max_lifetime_seconds or float("inf")
        self._last_answers.forget(ids)
        return self._table.open(ids, self._backend.allocate(len(ids)), now, ttl, lifetime)

    # Attach and detach -----------------------------------------------------------------------------------------------

    def hold(self, session: int, stream: int, handle: int) -> None:
        """The stream holds the session from now on."""
        self._table.stream[session], self._table.handle[session] = stream, handle
        self._held[stream] += 1

    def let_go(self, sessions: Ints, ending: Ending, *, told: bool = True) -> None:
        """Detaches sessions from their streams, if they have one: the streams' queued steps are dropped, and they are told, or
        will be."""
        table = self._table
        sessions = sessions[table.stream[sessions] != NO_STREAM]
        self._books.drop_held(sessions)
        for session in sessions.tolist():
            stream, handle = int(table.stream[session]), int(table.handle[session])
            self._forget_hold(session, stream)
            if told:
                self._outbox.detached(stream, handle, ending)

    def end_stream(self, stream: int) -> None:
        """The stream is gone; nobody is left to be told. Its sessions live on."""
        self._books.drop_streams(np.array([stream]))
        for session in self._table.attached_to(stream).tolist() if stream in self._held else []:
            self._forget_hold(session, stream)

    def lose_callers(self, streams: Sequence[int]) -> None:
        """One-shot callers are gone; they hold no sessions."""
        self._books.drop_streams(np.array(streams, np.int64))

    def lose_door(self, door: int) -> None:
        """A door is gone, and with it its streams and callers."""
        for stream in {stream for stream in (*self._held, *self._books.queued_streams()) if door_of(stream) == door}:
            self.end_stream(stream)

    def _forget_hold(self, session: int, stream: int) -> None:
        self._table.stream[session] = NO_STREAM
        self._held[stream] -= 1
        if not self._held[stream]:
            del self._held[stream]

    # End -------------------------------------------------------------------------------------------------------------

    def expire(self, now: float, report: TurnReport) -> None:
        """Ends sessions that have been idle or alive for too long; so many at once that steps are not held up."""
        expired = self._table.expired(now, _EXPIRED_PER_TURN)
        if len(expired):
            self.end(expired, Ending.EXPIRED, now, report)

    def end_over(self, now: float, report: TurnReport) -> bool:
        """Ends sessions whose last step was answered in this turn, and replaced ones of which nothing is pending any more.

        Returns whether there were any.
        """
        table = self._table
        if not table.over and not table.replaced:
            return False
        before = len(table)
        answers = {}
        for session, last in table.over.items():
            if (answer := self._last_answer(session, last)) is not None:
                answers[session] = answer
                if session not in table.replaced:  # else its id stands for another session
                    self._last_answers.remember(table.id(session), answer, now)
        self.end(np.array(list(table.over), np.int64), Ending.CLOSED, now, report, answers)
        replaced = np.array(sorted(table.replaced), np.int64)
        self.end(replaced[~self._books.pending_of(replaced)], Ending.REPLACED, now, report)
        return len(table) < before

    def last_answer(self, session_id: str, now: float) -> LastAnswer | None:
        """The answer with which a session ended, while it is remembered."""
        return self._last_answers.find(session_id, now)

    def _last_answer(self, session: int, last: Last) -> LastAnswer | None:
        """How a session's last row was answered; None if that was not kept for a repeat, or is not kept any more."""
        begin, end, keep, cached = last
        kept_from = {Keep.ALL: begin, Keep.LAST: end - 1, Keep.NONE: end}[keep]
        places = self._books.cache.find(session, kept_from, end - kept_from)
        if not cached or begin < self._table.released[session] or (places == NONE).any():
            return None
        return LastAnswer(begin, end - begin, keep, self._books.cache.get(places))

    def end(
        self,
        sessions: Ints,
        ending: Ending,
        now: float,
        report: TurnReport,
        answers: Mapping[int, LastAnswer] | None = None,
        tell: Told | None = None,
    ) -> None:
        """Ends distinct sessions. answers: to their last rows, for repeats of those that are queued. tell: hears when the store
        knows it, or has failed, of those that are durable; now, if none is."""
        if not len(sessions):
            return
        table = self._table
        stored, left = self._stored(sessions, ending)
        self.let_go(sessions, ending)
        self._settle_left(sessions, ending, answers or {}, report)
        self._books.let_go_of_answers(sessions)
        self._backend.release(table.slot[sessions])
        if ending is Ending.REPLACED:
            report.replaced += [table.id(session) for session in sessions.tolist()]
        table.end(sessions, ending, now)
        report.closed[ending] = report.closed.get(ending, 0) + len(sessions)
        self._write(stored, ending, tell, left)
        if tell is not None and not stored:
            tell(None, now, report)

    def close(self, sessions: Ints, now: float, report: TurnReport) -> None:
        """Ends distinct sessions for the stream that holds them, which is told of durable ones once the store knows it."""
        table = self._table
        durable = sessions[table.durable[sessions]]
        holders = list(zip(table.stream[durable].tolist(), table.handle[durable].tolist(), strict=True))

        def tell(error: StepStreamError | None, _now: float, _report: TurnReport) -> None:
            for stream, handle in holders:
                self._outbox.detached(stream, handle, Ending.CLOSED, error)

        self.let_go(durable, Ending.CLOSED, told=False)
        self.end(durable, Ending.CLOSED, now, report, tell=tell)
        self.end(sessions[~np.isin(sessions, durable)], Ending.CLOSED, now, report)

    def give_up_id(self, session: int) -> None:
        """The session gives up its id to one that takes its place, also in the store."""
        stored, left = self._stored(np.array([session]), Ending.REPLACED)
        self._write(stored, Ending.REPLACED, None, left)
        self._table.give_up_id(session)

    def _stored(self, sessions: Ints, ending: Ending) -> tuple[list[str], list[Left]]:
        """The keys of sessions that end, or give up their ids, which the store is to forget, and who waits for their steps. They
        are not durable any more."""
        durable = sessions[self._table.durable[sessions]]
        if self._kept is None or not len(durable):
            return [], []
        left = self._kept.writing.ended(durable)
        self._table.durable[durable] = False
        overwritten = ending is Ending.REPLACED and self._kept.always
        return [] if overwritten else [self._table.id(session) for session in durable.tolist()], left

    def _write(self, keys: Sequence[str], ending: Ending, tell: Told | None, left: Sequence[Left]) -> None:
        """Has the store know that sessions have ended; then those are told who wait for their steps. One that was replaced has no
        reason of its own there: whoever looks for it finds its successor."""
        if self._kept is None:
            return
        withheld = self._kept.writing.withheld

        def told(error: StepStreamError | None, now: float, report: TurnReport) -> None:
            withheld.tell_left(left, error)
            if tell is not None:
                tell(error, now, report)

        if keys:
            self._kept.endings.write(keys, Ending.CLOSED if ending is Ending.REPLACED else ending, told)
        else:
            withheld.tell_left(left, None)

    def _settle_left(self, sessions: Ints, ending: Ending, answers: Mapping[int, LastAnswer], report: TurnReport) -> None:
        """Settles what is queued when nobody holds the sessions any more: rows of one-shot callers."""
        for session in sessions[self._books.pending_of(sessions)].tolist():
            for row in self._books.take_out(session):
                stream, handle, first, length = (int(row[name]) for name in ("stream", "handle", "first", "length"))
                if not answer_repeat(answers.get(session), row, stream, self._outbox, report):
                    message = f"session {plain(self._table.id(session))!r} {HOW_ENDED[ending]}"
                    self._outbox.refuse(stream, handle, first, length, REASON_OF_ENDING[ending], 0, message)


def count_opened(origin: Origin, count: int, report: TurnReport) -> None:
    """So many sessions were opened."""
    report.opened[origin] = report.opened.get(origin, 0) + count


def count_refused(reason: Reason, report: TurnReport) -> None:
    """A session that was wanted could not be had."""
    report.refused[reason] = report.refused.get(reason, 0) + 1
