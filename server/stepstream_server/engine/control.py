"""Control: opening, attaching, detaching, closing; streams that end; sessions whose time is over; draining."""

from __future__ import annotations

from collections import Counter

import numpy as np

from stepstream_server.config import EngineSettings
from stepstream_server.engine.admission import Admission
from stepstream_server.engine.backlog import Backlog
from stepstream_server.engine.ledger import Ledger
from stepstream_server.engine.outbox import Outbox, door_of, global_stream
from stepstream_server.engine.outcomes import Outcomes
from stepstream_server.engine.ports import (
    NO_STREAM,
    Attach,
    Backend,
    Close,
    Detach,
    DoorLost,
    Drain,
    Ending,
    Get,
    Ints,
    Open,
    Opened,
    Origin,
    Reply,
    SessionInfo,
    StreamEnded,
    TurnReport,
)
from stepstream_server.engine.table import HOW_ENDED, REASON_OF_ENDING, SessionTable, Status
from stepstream_server.errors import CallerError, Reason, StepStreamError

_EXPIRED_PER_TURN = 64  # about 2 ms, what chunk steps may take of a turn; the others follow in the next ones
_CAPACITY_RETRY_SECONDS = 1.0  # sessions end at human pace: asking more often finds nothing new


class Control:
    """Everything about sessions but their steps."""

    def __init__(
        self,
        settings: EngineSettings,
        backend: Backend,
        table: SessionTable,
        backlog: Backlog,
        outbox: Outbox,
        admission: Admission,
        outcomes: Outcomes,
        ledger: Ledger,
    ) -> None:
        self._settings = settings
        self._backend = backend
        self._table = table
        self._backlog = backlog
        self._outbox = outbox
        self._admission = admission
        self._outcomes = outcomes
        self._ledger = ledger
        self._held: Counter[int] = Counter()  # sessions attached, by stream
        self._drains: list[tuple[int, Drain]] = []  # waiting for the backlog to be empty

    @property
    def streams(self) -> int:
        """Streams that hold sessions."""
        return len(self._held)

    def handle(self, door: int, command: object, now: float, report: TurnReport) -> None:
        """Carries one command out; its reply lies in the outbox afterwards."""
        match command:
            case Open():
                opened = [self._open(door, command, index, now, report) for index in range(len(command.ids))]
                self._outbox.reply(door, Reply(command.request, opened))
            case Attach():
                self._outbox.reply(door, Reply(command.request, self._attach(door, command)))
            case Detach():
                self._detach(door, command, now, report)
            case Get():
                self._outbox.reply(door, Reply(command.request, self._get(command, now)))
            case Close():
                self._outbox.reply(door, Reply(command.request, self._close(command, now, report)))
            case StreamEnded():
                self._end_stream(global_stream(door, command.stream))
            case DoorLost():
                self._lose_door(door)
            case Drain():
                self._admission.draining = True
                self._drains.append((door, command))
            case _:
                raise TypeError(f"not a command: {command!r}")

    def expire(self, now: float, report: TurnReport) -> None:
        """Ends sessions that have been idle or alive for too long; so many at once that steps are not held up."""
        self._end(self._table.expired(now, _EXPIRED_PER_TURN), Ending.EXPIRED, now, report)

    def answer_drains(self) -> None:
        """Tells those who wait for it that nothing is pending any more."""
        if self._drains and not len(self._backlog):
            for door, drain in self._drains:
                self._outbox.reply(door, Reply(drain.request, None))
            self._drains.clear()

    def _open(self, door: int, command: Open, index: int, now: float, report: TurnReport) -> Opened | StepStreamError:
        settings, table = self._settings, self._table
        try:
            self._refuse_if_draining()
            table.check_new_id(command.ids[index])
            slot = self._allocate()
        except CallerError as error:
            return error
        idle_ttl = min(command.idle_ttl or settings.idle_ttl_seconds, settings.idle_ttl_seconds)
        lifetime = settings.max_lifetime_seconds or float("inf")
        session = table.open(command.ids[index], slot, now, idle_ttl, lifetime)
        if command.tags is not None:
            self._hold(session, global_stream(door, command.stream), int(command.tags[index]))
        report.opened[Origin.OPENED] = report.opened.get(Origin.OPENED, 0) + 1
        return self._describe(session, table.secret(session))

    def _allocate(self) -> int:
        if len(self._table) >= self._table.capacity:
            raise CallerError(
                Reason.SESSION_CAPACITY,
                f"all {self._table.capacity} sessions are in use",
                retry_delay_seconds=_CAPACITY_RETRY_SECONDS,
            )
        return int(self._backend.allocate(1)[0])

    def _attach(self, door: int, command: Attach) -> list[Opened | StepStreamError]:
        """Takes all of them over at once, then tells each what was kept for it."""
        table = self._table
        found = [self._to_attach(command, index) for index in range(len(command.ids))]
        mine = np.array([isinstance(one, int) for one in found], np.bool_)
        sessions = np.array([one for one in found if isinstance(one, int)], np.int64)
        distinct = table.firsts(sessions)
        mine[mine] = distinct
        sessions = sessions[distinct]
        self._let_go(sessions, Ending.TAKEN)
        stream = global_stream(door, command.stream)
        for session, tag in zip(sessions.tolist(), command.tags[mine].tolist(), strict=True):
            self._hold(session, stream, tag)
        self._ledger.acknowledge(sessions, command.acked[mine])
        for session in sessions[table.acked[sessions] < table.next_seq[sessions]].tolist():
            self._outcomes.resend(session)
        return [
            self._describe(one, b"") if isinstance(one, int) and first else _not_attached(one, command.ids[index])
            for index, (one, first) in enumerate(zip(found, mine.tolist(), strict=True))
        ]

    def _to_attach(self, command: Attach, index: int) -> int | StepStreamError:
        try:
            self._refuse_if_draining()
            return self._table.own(command.ids[index], command.secrets[index])
        except CallerError as error:
            return error

    def _describe(self, session: int, secret: bytes) -> Opened:
        table = self._table
        return Opened(
            id=table.id(session),
            secret=secret,
            session=session,
            generation=int(table.generation[session]),
            next_seq=int(table.next_seq[session]),
            acked=int(table.acked[session]),
        )

    def _refuse_if_draining(self) -> None:
        if self._admission.draining:
            raise CallerError(Reason.SERVER_DRAINING, "the server is about to stop: no sessions are opened or attached")

    def _get(self, command: Get, now: float) -> SessionInfo | StepStreamError:
        table = self._table
        try:
            session = table.find(command.id)
        except CallerError as error:
            return error
        return SessionInfo(
            id=command.id,
            quarantined=bool(table.status[session] != Status.OPEN),
            next_seq=int(table.next_seq[session]),
            acked=int(table.acked[session]),
            pending_steps=int(table.admitted[session] - table.next_seq[session]),
            age=float(now - table.opened_at[session]),
            idle=float(now - table.used_at[session]),
            idle_ttl=float(table.idle_ttl[session]),
            attached=bool(table.stream[session] != NO_STREAM),
            slot=int(table.slot[session]),
        )

    def _close(self, command: Close, now: float, report: TurnReport) -> int | StepStreamError:
        """Closes by id. Closing what is closed succeeds; what somebody else holds, only its secret closes."""
        if self._table.ending(command.id) is not None:
            return 0
        try:
            session = self._table.claim(command.id, command.secret)
        except CallerError as error:
            return error
        next_seq = int(self._table.next_seq[session])
        self._end(np.array([session]), Ending.CLOSED, now, report)
        return next_seq

    def _detach(self, door: int, command: Detach, now: float, report: TurnReport) -> None:
        """Sessions that this stream holds no longer were already reported as detached, with the reason."""
        stream = global_stream(door, command.stream)
        current = self._table.current(command.sessions, command.generations, stream, command.tags)
        sessions = np.unique(command.sessions[current])
        if command.close:
            self._end(sessions, Ending.CLOSED, now, report)
        else:
            self._let_go(sessions, Ending.REQUESTED)

    def _hold(self, session: int, stream: int, tag: int) -> None:
        self._table.stream[session], self._table.tag[session] = stream, tag
        self._held[stream] += 1

    def _let_go(self, sessions: Ints, ending: Ending) -> None:
        """Detaches sessions from their streams, if they have one: the streams' queued steps are dropped, and they are told."""
        table = self._table
        sessions = sessions[table.stream[sessions] != NO_STREAM]
        if not len(sessions):
            return
        rows = self._backlog.rows
        self._ledger.drop(np.isin(rows["session"], sessions) & (rows["stream"] == table.stream[rows["session"]]))
        for session in sessions.tolist():
            stream, tag = int(table.stream[session]), int(table.tag[session])
            self._forget_hold(session, stream)
            self._outbox.detached(stream, tag, ending)

    def _forget_hold(self, session: int, stream: int) -> None:
        self._table.stream[session] = NO_STREAM
        self._held[stream] -= 1
        if not self._held[stream]:
            del self._held[stream]

    def _end(self, sessions: Ints, ending: Ending, now: float, report: TurnReport) -> None:
        """Ends distinct sessions: whoever waits for something of them is told."""
        if not len(sessions):
            return
        self._let_go(sessions, ending)
        table, backlog = self._table, self._backlog
        left = np.isin(backlog.rows["session"], sessions)  # of momentary calls
        for row in backlog.rows[left]:
            message = f"session {table.id(int(row['session']))!r} {HOW_ENDED[ending]}"
            first, length, reason = int(row["first"]), int(row["length"]), REASON_OF_ENDING[ending]
            self._outbox.refuse(int(row["stream"]), int(row["tag"]), first, length, reason, 0, message)
        backlog.remove(left)
        self._ledger.acknowledge(sessions, table.next_seq[sessions])
        self._backend.release(table.slot[sessions])
        for session in sessions.tolist():
            table.end(session, ending, now)
        report.closed[ending] = report.closed.get(ending, 0) + len(sessions)

    def _end_stream(self, stream: int) -> None:
        """The stream is gone; nobody is left to be told. Its sessions live on."""
        self._ledger.drop(self._backlog.rows["stream"] == stream)
        for session in self._table.attached_to(stream).tolist() if stream in self._held else []:
            self._forget_hold(session, stream)

    def _lose_door(self, door: int) -> None:
        queued = np.unique(self._backlog.rows["stream"]).tolist()
        for stream in {stream for stream in (*self._held, *queued) if door_of(stream) == door}:
            self._end_stream(stream)


def _not_attached(found: int | StepStreamError, session_id: str) -> StepStreamError:
    """Why, for a session that was not found, or found a second time."""
    if isinstance(found, int):
        message = f"sessions: expected each once, got {session_id!r} again"
        return CallerError(Reason.INVALID_ARGUMENT, message, field="sessions")
    return found
