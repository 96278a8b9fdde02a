"""Control: opening, attaching, detaching, closing; streams that end; sessions whose time is over; draining."""

from __future__ import annotations

from collections import Counter

import numpy as np

from stepstream_server.config import EngineSettings
from stepstream_server.engine.admission import Admission
from stepstream_server.engine.backlog import Backlog
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
    Open,
    Opened,
    Reply,
    SessionInfo,
    StreamEnded,
    TurnReport,
)
from stepstream_server.engine.table import SessionTable, Status
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
    ) -> None:
        self._settings = settings
        self._backend = backend
        self._table = table
        self._backlog = backlog
        self._outbox = outbox
        self._admission = admission
        self._outcomes = outcomes
        self._held: Counter[int] = Counter()  # sessions attached, by stream
        self._drains: list[tuple[int, Drain]] = []  # waiting for the backlog to be empty
        self._draining = False

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
                attached = [self._attach(door, command, index) for index in range(len(command.ids))]
                self._outbox.reply(door, Reply(command.request, attached))
            case Detach():
                self._detach_all(door, command, now, report)
            case Get():
                self._outbox.reply(door, Reply(command.request, self._get(command, now)))
            case Close():
                self._outbox.reply(door, Reply(command.request, self._close(command, now, report)))
            case StreamEnded():
                self._end_stream(global_stream(door, command.stream))
            case DoorLost():
                self._lose_door(door)
            case Drain():
                self._draining = True
                self._drains.append((door, command))
            case _:
                raise TypeError(f"not a command: {command!r}")

    def expire(self, now: float, report: TurnReport) -> None:
        """Ends sessions that have been idle or alive for too long; so many at once that steps are not held up."""
        for session in self._table.expired(now)[:_EXPIRED_PER_TURN].tolist():
            self._end(session, Ending.EXPIRED, now, report)

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
        report.opened += 1
        return self._describe(session, table.secret(session))

    def _allocate(self) -> int:
        if len(self._table) >= self._table.capacity:
            raise CallerError(
                Reason.SESSION_CAPACITY,
                f"all {self._table.capacity} sessions are in use",
                retry_delay_seconds=_CAPACITY_RETRY_SECONDS,
            )
        return int(self._backend.allocate(1)[0])

    def _attach(self, door: int, command: Attach, index: int) -> Opened | StepStreamError:
        table, session_id = self._table, command.ids[index]
        try:
            self._refuse_if_draining()
            session = table.find(session_id)
            if not table.owns(session, command.secrets[index]):
                raise CallerError(Reason.SECRET_MISMATCH, f"secret: not that of session {session_id!r}", field="secret")
        except CallerError as error:
            return error
        self._let_go(session, Ending.TAKEN)
        self._hold(session, global_stream(door, command.stream), int(command.tags[index]))
        self._admission.acknowledge(np.array([session]), command.acked[index : index + 1])
        self._outcomes.resend(session)
        return self._describe(session, b"")

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
        if self._draining:
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
        table = self._table
        if table.ending(command.id) is not None:
            return 0
        try:
            session = table.find(command.id)
            if command.secret and not table.owns(session, command.secret):
                raise CallerError(Reason.SECRET_MISMATCH, f"secret: not that of session {command.id!r}", field="secret")
            if not command.secret and table.stream[session] != NO_STREAM:
                message = f"session {command.id!r} is attached to a stream; its secret is needed"
                raise CallerError(Reason.SESSION_IN_USE, message, field="secret")
        except CallerError as error:
            return error
        next_seq = int(table.next_seq[session])
        self._end(session, Ending.CLOSED, now, report)
        return next_seq

    def _detach_all(self, door: int, command: Detach, now: float, report: TurnReport) -> None:
        """Sessions that this stream holds no longer were already reported as detached, with the reason."""
        current = self._table.current(command.sessions, command.generations, global_stream(door, command.stream))
        for session in command.sessions[current].tolist():
            if command.close:
                self._end(session, Ending.CLOSED, now, report)
            else:
                self._let_go(session, Ending.REQUESTED)

    def _hold(self, session: int, stream: int, tag: int) -> None:
        self._table.stream[session], self._table.tag[session] = stream, tag
        self._held[stream] += 1

    def _let_go(self, session: int, ending: Ending) -> None:
        """Detaches a session from its stream, if it has one: the stream's queued steps are dropped, and it is told."""
        stream, tag = int(self._table.stream[session]), int(self._table.tag[session])
        if stream == NO_STREAM:
            return
        rows = self._backlog.rows
        theirs = (rows["session"] == session) & (rows["stream"] == stream)
        if theirs.any():
            self._backlog.remove(theirs)
            self._admission.fail_from(session)
        self._forget_hold(session, stream)
        self._outbox.detached(stream, tag, ending)

    def _forget_hold(self, session: int, stream: int) -> None:
        self._table.stream[session] = NO_STREAM
        self._held[stream] -= 1
        if not self._held[stream]:
            del self._held[stream]

    def _end(self, session: int, ending: Ending, now: float, report: TurnReport) -> None:
        """Ends a session: whoever waits for something of it is told."""
        self._let_go(session, ending)
        table, backlog = self._table, self._backlog
        positions = backlog.of_session(session)
        reason = Reason.SESSION_EXPIRED if ending == Ending.EXPIRED else Reason.SESSION_CLOSED
        for row in backlog.rows[positions]:
            message = f"session {table.id(session)!r} was {ending.name.lower()}"
            first, length = int(row["first"]), int(row["length"])
            self._outbox.refuse(int(row["stream"]), int(row["tag"]), first, length, reason, 0, message)
        gone = np.zeros(len(backlog), np.bool_)
        gone[positions] = True
        backlog.remove(gone)
        one = np.array([session])
        self._admission.acknowledge(one, table.next_seq[one])
        self._backend.release(table.slot[one])
        table.end(session, ending, now)
        report.closed[ending] = report.closed.get(ending, 0) + 1

    def _end_stream(self, stream: int) -> None:
        """The stream is gone; nobody is left to be told. Its sessions live on."""
        rows = self._backlog.rows
        theirs = rows["stream"] == stream
        touched = np.unique(rows["session"][theirs]).tolist()
        self._backlog.remove(theirs)
        for session in touched:
            self._admission.fail_from(session)
        for session in self._table.attached_to(stream).tolist() if stream in self._held else []:
            self._forget_hold(session, stream)

    def _lose_door(self, door: int) -> None:
        queued = np.unique(self._backlog.rows["stream"]).tolist()
        for stream in {stream for stream in (*self._held, *queued) if door_of(stream) == door}:
            self._end_stream(stream)
