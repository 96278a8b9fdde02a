"""Control: commands that concern sessions as wholes: opening, attaching, detaching, looking, closing, draining."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stepstream_server.engine.backlog import Backlog
from stepstream_server.engine.ledger import Ledger
from stepstream_server.engine.lifecycle import Lifecycle
from stepstream_server.engine.newest import Newest
from stepstream_server.engine.outbox import Outbox, global_stream
from stepstream_server.engine.outcomes import Outcomes
from stepstream_server.engine.ports import (
    Attach,
    CallersLeft,
    Close,
    Detach,
    DoorLost,
    Drain,
    Ending,
    Get,
    Ints,
    List,
    Open,
    Opened,
    Origin,
    Page,
    Reply,
    SessionInfo,
    StreamEnded,
    TurnReport,
    Value,
)
from stepstream_server.engine.requests import Requests
from stepstream_server.engine.table import SessionTable
from stepstream_server.errors import CallerError, Reason, StepStreamError

_OPENING = "opening sessions"  # what a request id stands for


class Control:
    """Carries commands out, but for steps and for copies of sessions."""

    def __init__(
        self,
        table: SessionTable,
        backlog: Backlog,
        ledger: Ledger,
        outbox: Outbox,
        outcomes: Outcomes,
        lifecycle: Lifecycle,
        requests: Requests,
    ) -> None:
        self._table = table
        self._backlog = backlog
        self._ledger = ledger
        self._outbox = outbox
        self._outcomes = outcomes
        self._lifecycle = lifecycle
        self._requests = requests
        self._newest = Newest()
        self._drains: list[tuple[int, Drain]] = []  # waiting for the backlog to be empty

    def handle(self, door: int, command: object, now: float, report: TurnReport) -> None:
        """Carries one command out; its reply lies in the outbox afterwards."""
        match command:
            case Open() | Attach() | Get() | List() | Close():
                try:
                    value = self._answer(door, command, now, report)
                except CallerError as error:
                    value = error
                self._outbox.reply(door, Reply(command.request, value))
            case Detach():
                self._detach(door, command, now, report)
            case CallersLeft():
                self._lifecycle.lose_callers([global_stream(door, stream) for stream in command.streams])
            case StreamEnded():
                self._lifecycle.end_stream(global_stream(door, command.stream))
                self._newest.forget(global_stream(door, command.stream))
            case DoorLost():
                self._lifecycle.lose_door(door)
                self._newest.forget_door(door)
            case Drain():
                self._table.draining = True
                self._drains.append((door, command))
            case _:
                raise TypeError(f"not a command: {command!r}")

    def answer_drains(self) -> None:
        """Tells those who wait for it that nothing is pending any more."""
        for door, drain in self._drains:
            self._outbox.reply(door, Reply(drain.request, None))
        self._drains.clear()

    def _answer(self, door: int, command: Open | Attach | Get | List | Close, now: float, report: TurnReport) -> Value:
        match command:
            case Open():
                return self._open(door, command, now, report)
            case Attach():
                return self._attach(door, command)
            case Get():
                return self._get(command, now)
            case List():
                sessions, following = self._table.page(command.start, command.most)
                return Page(self._lifecycle.info(sessions, now), following)
            case Close():
                return self._close(command, now, report)

    def _open(self, door: int, command: Open, now: float, report: TurnReport) -> list[Opened | StepStreamError]:
        """Opens what a former request of the same id has not opened, and hands all of it to the stream. Raises CallerError."""
        self._newest.check(command, global_stream(door, command.stream))
        made = self._requests.made(command.request_id, _OPENING, len(command.ids), now)
        missing = [place for place, one in enumerate(made) if one is None]
        created = self._lifecycle.create([command.ids[place] for place in missing], command.idle_ttl, Origin.OPENED, now, report)
        results: list[int | StepStreamError] = [self._lifecycle.again(one) if one else 0 for one in made]
        for place, result in zip(missing, created, strict=True):
            results[place] = result
        if command.request_id:
            made = [
                self._lifecycle.made(each) if isinstance(each, int) else before
                for each, before in zip(results, made, strict=True)
            ]
            self._requests.remember(command.request_id, _OPENING, made, now)
        if command.tags is not None:
            here = [place for place, result in enumerate(results) if isinstance(result, int)]
            sessions = np.array([results[place] for place in here], np.int64)
            self._hand_over(sessions, global_stream(door, command.stream), command.tags[here])
        return self._lifecycle.describe(results, with_secret=True)

    def _attach(self, door: int, command: Attach) -> list[Opened | StepStreamError]:
        """Takes all of them over at once, then tells each what was kept for it. Raises CallerError."""
        self._newest.check(command, global_stream(door, command.stream))
        table = self._table
        found = [self._to_attach(command, index) for index in range(len(command.ids))]
        mine = np.array([isinstance(one, int) for one in found], np.bool_)
        sessions = np.array([one for one in found if isinstance(one, int)], np.int64)
        distinct = table.firsts(sessions)
        mine[mine] = distinct
        sessions = sessions[distinct]
        self._lifecycle.let_go(sessions, Ending.TAKEN)
        self._ledger.acknowledge(sessions, command.acked[mine])
        self._hand_over(sessions, global_stream(door, command.stream), command.tags[mine])
        attached: list[int | StepStreamError] = [
            one if isinstance(one, int) and first else _not_attached(one, session_id)
            for one, first, session_id in zip(found, mine.tolist(), command.ids, strict=True)
        ]
        return self._lifecycle.describe(attached, with_secret=False)

    def _to_attach(self, command: Attach, index: int) -> int | StepStreamError:
        try:
            self._lifecycle.refuse_if_draining()
            return self._table.own(command.ids[index], command.secrets[index])
        except CallerError as error:
            return error

    def _hand_over(self, sessions: Ints, stream: int, tags: NDArray[np.uint32]) -> None:
        """Attaches distinct sessions to a stream, which is told again what it may not have heard."""
        self._lifecycle.let_go(sessions, Ending.TAKEN)
        for session, tag in zip(sessions.tolist(), tags.tolist(), strict=True):
            self._lifecycle.hold(session, stream, tag)
        self._outcomes.resend(sessions)

    def _get(self, command: Get, now: float) -> SessionInfo:
        """Raises CallerError."""
        (info,) = self._lifecycle.info(np.array([self._table.find(command.id)], np.int64), now)
        return info

    def _close(self, command: Close, now: float, report: TurnReport) -> int:
        """Closes by id. Closing what is closed succeeds; what somebody else holds, only its secret closes. Raises CallerError."""
        if self._table.ending(command.id) is not None:
            return 0
        session = self._table.claim(command.id, command.secret)
        next_seq = int(self._table.next_seq[session])
        self._lifecycle.end(np.array([session]), Ending.CLOSED, now, report)
        return next_seq

    def _detach(self, door: int, command: Detach, now: float, report: TurnReport) -> None:
        """Sessions that this stream holds no longer were already reported as detached, with the reason."""
        stream = global_stream(door, command.stream)
        current = self._table.current(command.sessions, command.generations, stream, command.tags)
        sessions = np.unique(command.sessions[current])
        if command.close:
            self._lifecycle.end(sessions, Ending.CLOSED, now, report)
        else:
            self._lifecycle.let_go(sessions, Ending.REQUESTED)


def _not_attached(found: int | StepStreamError, session_id: str) -> StepStreamError:
    """Why, for a session that was not found, or found a second time."""
    if isinstance(found, int):
        message = f"sessions: expected each once, got {session_id!r} again"
        return CallerError(Reason.INVALID_ARGUMENT, message, field="sessions")
    return found
