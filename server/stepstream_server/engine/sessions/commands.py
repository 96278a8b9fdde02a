"""Commands about sessions: open, attach, detach, get, list, close; and the fencing of a client's older streams.

What a client wrote to a connection that broke may be read long after it has gone on over another one, and by another front
door. An Attach or Open among it would take sessions away from the very stream that holds them now.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from stepstream_server.engine.books import Books
from stepstream_server.engine.outbox import Outbox, door_of, global_stream
from stepstream_server.engine.ports import (
    NO_SEQ,
    Attach,
    Close,
    Detach,
    Ending,
    Get,
    Ints,
    List,
    Open,
    Opened,
    Origin,
    Reply,
    SessionInfo,
    TurnReport,
    Value,
)
from stepstream_server.engine.sessions.browsing import Browsing
from stepstream_server.engine.sessions.idempotency import Made, Requests
from stepstream_server.engine.sessions.lifecycle import Lifecycle
from stepstream_server.engine.sessions.registering import Opening, Openings, Results
from stepstream_server.errors import CallerError, Reason, StepStreamError
from stepstream_server.tenancy import plain


class Commands:
    """Carries commands about sessions out."""

    def __init__(
        self,
        books: Books,
        outbox: Outbox,
        resend: Callable[[Ints], None],
        take_over: Callable[[Ints, float, TurnReport], None],
        lifecycle: Lifecycle,
        requests: Requests,
        openings: Openings,
        browsing: Browsing,
        touch: Callable[[Ints, float], None],
    ) -> None:
        """resend: tells the streams that hold sessions again what these have not acknowledged. take_over: ends rollouts that
        commit to sessions, those too that have not begun. touch: has the store told of durable sessions that nothing was applied
        to."""
        self._books = books
        self._table = books.table
        self._outbox = outbox
        self._resend = resend
        self._take_over = take_over
        self._lifecycle = lifecycle
        self._requests = requests
        self._openings = openings
        self._browsing = browsing
        self._touch = touch
        self._fence = Fence()
        self._opening: list[_Taking] = []  # streams that wait for sessions which are being opened

    def answer(self, door: int, command: Open | Attach | Get | List | Close, now: float, report: TurnReport) -> None:
        """Carries out a command that is answered; its reply lies in the outbox afterwards, or will in a later turn."""
        try:
            self._answer(door, command, now, report)
        except StepStreamError as error:
            self._reply(door, command, error)

    def _reply(self, door: int, command: Open | Attach | Get | List | Close, value: Value) -> None:
        self._outbox.reply(door, Reply(command.request, value))

    def detach(self, door: int, command: Detach, now: float, report: TurnReport) -> None:
        """Sessions that this stream holds no longer were already reported as detached, with the reason."""
        stream = global_stream(door, command.stream)
        held = self._table.held_as(command.sessions, command.generations, stream, command.handles)
        sessions = np.unique(command.sessions[held])
        if command.close:
            self._lifecycle.close(sessions, now, report)
        else:
            self._lifecycle.let_go(sessions, Ending.REQUESTED)

    def end_stream(self, stream: int) -> None:
        """The stream is gone."""
        self._lifecycle.end_stream(stream)
        self._fence.forget(stream)
        self._forget(lambda each: each == stream)

    def lose_door(self, door: int) -> None:
        """The door is gone, and with it its streams."""
        self._lifecycle.lose_door(door)
        self._fence.forget_door(door)
        self._forget(lambda each: door_of(each) == door)

    def _forget(self, gone: Callable[[int], bool]) -> None:
        """Streams that are gone take no sessions."""
        for taking in self._opening:
            taking.gone = taking.gone or gone(taking.stream)

    def _answer(self, door: int, command: Open | Attach | Get | List | Close, now: float, report: TurnReport) -> None:
        match command:
            case Open():
                self._open(door, command, now, report)
            case Attach():
                self._reply(door, command, self._attach(door, command, now, report))
            case Get():
                self._reply(door, command, self._get(command, now))
            case List():
                self._browsing.list(command, partial(self._reply, door, command), now)
            case Close():
                self._close(door, command, now, report)

    def _open(self, door: int, command: Open, now: float, report: TurnReport) -> None:
        """Opens what a former request of the same id has not opened. Raises StepStreamError."""
        stream = global_stream(door, command.stream)
        self._fence.check(command, stream)
        durable = self._openings.durable(command.durable)
        what = ("open", command.idle_ttl, command.durable, *command.ids)
        made = self._requests.made(command.request_id, what, len(command.ids), now)
        missing = [place for place, one in enumerate(made) if one is None]
        if durable and missing:
            self._openings.refuse_if_behind(now)
        created = self._lifecycle.create([command.ids[place] for place in missing], command.idle_ttl, now, report)
        results: list[int | StepStreamError] = [self._lifecycle.again(one) if one else 0 for one in made]
        for place, result in zip(missing, created, strict=True):
            results[place] = result
        taking = _Taking(stream)
        self._opening.append(taking)
        then = partial(self._opened, door, command, what, made, taking)
        opening = Opening(command.ids, results, missing, command.request_id, what, Origin.OPENED, then)
        self._openings.open(opening, now, report, durable=durable)

    def _opened(
        self,
        door: int,
        command: Open,
        what: Hashable,
        made: Sequence[Made | None],
        taking: _Taking,
        results: Results,
        now: float,
        report: TurnReport,
    ) -> None:
        """Hands all of it to the stream, unless that has left."""
        self._opening.remove(taking)
        if command.request_id:
            made = [
                self._lifecycle.made(each) if isinstance(each, int) else before
                for each, before in zip(results, made, strict=True)
            ]
            self._requests.remember(command.request_id, what, made, now)
        if command.handles is not None and not taking.gone:
            here = [place for place, result in enumerate(results) if isinstance(result, int)]
            sessions = np.array([results[place] for place in here], np.int64)
            self._hand_over(sessions, taking.stream, command.handles[here], now, report)
        self._reply(door, command, self._lifecycle.describe(results, with_secret=True))

    def _attach(self, door: int, command: Attach, now: float, report: TurnReport) -> list[Opened | StepStreamError]:
        """Takes all of them over at once, then tells each what was kept for it. Raises CallerError."""
        self._fence.check(command, global_stream(door, command.stream))
        found = [self._to_attach(command, index, report) for index in range(len(command.ids))]
        places: dict[int, int] = {}  # of each session, the first
        for place, one in enumerate(found):
            if isinstance(one, int):
                places.setdefault(one, place)
        sessions, here = np.array(list(places), np.int64), list(places.values())
        self._lifecycle.let_go(sessions, Ending.TAKEN)
        self._books.acknowledge(sessions, command.acked[here], now)
        self._hand_over(sessions, global_stream(door, command.stream), command.handles[here], now, report)
        self._touch(sessions[self._table.durable[sessions]], now)
        attached: list[int | StepStreamError] = [
            one if isinstance(one, int) and places[one] == place else _not_attached(one, session_id)
            for place, (one, session_id) in enumerate(zip(found, command.ids, strict=True))
        ]
        return self._lifecycle.describe(attached, with_secret=False)

    def _to_attach(self, command: Attach, index: int, report: TurnReport) -> int | StepStreamError:
        try:
            self._lifecycle.refuse_if_draining()
            session = self._table.own(command.ids[index], command.secrets[index])
            replay_from = NO_SEQ if command.replay_from is None else int(command.replay_from[index])
            return self._to_replay(session, int(command.acked[index]), replay_from, report)
        except StepStreamError as error:
            return error

    def _to_replay(self, session: int, acked: int, replay_from: int, report: TurnReport) -> int:
        """A session that was restored from before what its client has been answered is lost, unless the client can tell it these
        inputs again. Raises CallerError(SESSION_LOST)."""
        next_seq = int(self._table.next_seq[session])
        if self._table.durable[session] and next_seq < acked:
            if replay_from == NO_SEQ or replay_from > next_seq:
                report.lost[Reason.SESSION_LOST] = report.lost.get(Reason.SESSION_LOST, 0) + 1
                message = (
                    f"session {plain(self._table.id(session))!r} was restored from step {next_seq}, "
                    f"and its inputs from there up to {acked} are lost"
                )
                raise CallerError(Reason.SESSION_LOST, message, field="acked", since=next_seq)
            report.replayed += acked - next_seq
        return session

    def _hand_over(self, sessions: Ints, stream: int, handles: NDArray[np.uint32], now: float, report: TurnReport) -> None:
        """Attaches distinct sessions to a stream, which is told again what it may not have heard.

        Whoever proves to own a session has it: no rollout of somebody else goes on with it, or of its owner's lost call.
        """
        self._lifecycle.let_go(sessions, Ending.TAKEN)
        self._take_over(sessions, now, report)
        for session, handle in zip(sessions.tolist(), handles.tolist(), strict=True):
            self._lifecycle.hold(session, stream, handle)
        self._resend(sessions)

    def _get(self, command: Get, now: float) -> SessionInfo:
        """Raises CallerError."""
        (info,) = self._lifecycle.info(np.array([self._table.find(command.id)], np.int64), now)
        return info

    def _close(self, door: int, command: Close, now: float, report: TurnReport) -> None:
        """Closes by id. Closing what is closed succeeds; what a stream holds, only its secret or an administrator closes. Raises
        StepStreamError."""
        self._table.refuse_if_barred(command.id)
        if self._table.ending(command.id) is not None:
            self._reply(door, command, 0)
            return
        session = self._table.find(command.id) if command.by_admin else self._table.claim(command.id, command.secret)
        next_seq = int(self._table.next_seq[session])

        def tell(error: StepStreamError | None, _now: float, _report: TurnReport) -> None:
            self._reply(door, command, error or next_seq)

        self._lifecycle.end(np.array([session]), Ending.CLOSED, now, report, tell=tell)


@dataclass(slots=True, eq=False)
class _Taking:
    """A stream that is to hold sessions once they are open."""

    stream: int
    gone: bool = False


class Fence:
    """The newest stream of each client that numbers its streams, over all front doors, for as long as that stream is open."""

    def __init__(self) -> None:
        self._by_client: dict[str, tuple[int, int]] = {}  # number among its client's, and the engine's own
        self._clients: dict[int, str] = {}  # of those streams

    def check(self, command: Attach | Open, stream: int) -> None:
        """A stream wants sessions. Raises CallerError(STREAM_REPLACED) if its client has wanted some over a newer one."""
        client, number = command.client, command.number
        newest, before = self._by_client.get(client, (-1, stream))
        if number < newest:
            message = f"stream {newest} of this client has taken the place of its stream {number}"
            raise CallerError(Reason.STREAM_REPLACED, message)
        if client:
            self._clients.pop(before, None)
            self._by_client[client] = (number, stream)
            self._clients[stream] = client

    def forget(self, stream: int) -> None:
        """The stream has ended."""
        client = self._clients.pop(stream, "")
        if client:
            del self._by_client[client]

    def forget_door(self, door: int) -> None:
        """All streams of a door have ended."""
        for stream in [each for each in self._clients if door_of(each) == door]:
            self.forget(stream)


def _not_attached(found: int | StepStreamError, session_id: str) -> StepStreamError:
    """Why, for a session that was not found, or found a second time."""
    if isinstance(found, int):
        message = f"sessions: expected each once, got {plain(session_id)!r} again"
        return CallerError(Reason.INVALID_ARGUMENT, message, field="sessions")
    return found
