"""Streams of a history: who holds which session under which handle, and what it means to lose one."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field
from types import UnionType
from typing import Any

from google.protobuf.duration_pb2 import Duration

from stepstream_proto.v1 import inference_pb2, session_pb2
from stepstream_server.errors import Reason
from support.history import Ack, Live, Resend
from support.reference import Outcome, ReferenceSession
from support.transcript import Transcript
from support.wire import StreamRequest, u32
from support.world.served import (
    IDLE_TTL,
    MODEL,
    POISON,
    WINDOW_KEPT,
    WINDOW_STEPS,
    Secret,
    Served,
    told,
)


@dataclass
class Streams:
    """Sessions, and the streams that hold some of them."""

    served: Served
    sessions: list[Live] = field(default_factory=list)
    dead: list[tuple[Live, Reason]] = field(default_factory=list)
    streams: dict[int, Transcript] = field(default_factory=dict)
    holding: bool = False  # whether launches stay where they are computing
    held: Live | None = None  # a session that had nothing on its way when the engine was held
    openings: list[tuple[Any, list[Live]]] = field(default_factory=list)  # requests that have an id, and what they made

    @property
    def now(self) -> float:
        return self.served.clock.now

    def number(self) -> str:
        """What no request and no session was called before."""
        return f"n{next(self.served.numbers)}"

    def hold(self, live: Live) -> None:
        """The next launch stays where it is computing until somebody needs the engine: what is sent meanwhile is queued."""
        self.served.front.models[MODEL].gate.close()
        self.holding, self.held = True, None if live.log else live

    def go_on(self) -> None:
        """The engine is needed."""
        self.served.front.models[MODEL].gate.open()
        self.holding, self.held = False, None

    async def go_on_behind(self, stream: Transcript) -> None:
        """The engine is needed, once the server has read what was sent."""
        if self.holding:
            await stream.barrier()
            self.go_on()

    async def ask(self, stream: Transcript, request: StreamRequest) -> list[inference_pb2.AttachedSession]:
        """Opens or attaches behind all that is queued."""
        await stream.send(request)
        await self.go_on_behind(stream)
        return await stream.answer()

    async def call(self, kind: type | UnionType, call: Awaitable[Any]) -> Any:
        """A unary call behind all that is queued: what it was answered."""
        arrived, answer = self.served.arrivals.next(kind), asyncio.ensure_future(told(call))
        await asyncio.wait([arrived, answer], return_when=asyncio.FIRST_COMPLETED)
        self.go_on()
        arrived.cancel()
        return await answer

    def stream(self, place: int) -> Transcript:
        if place not in self.streams:
            self.streams[place] = Transcript(self.served.front.channel)
        return self.streams[place]

    def at(self, place: int) -> dict[int, Live]:
        """The sessions of a stream, by handle."""
        stream = self.streams.get(place)
        return {each.handle: each for each in self.sessions if stream is not None and each.stream is stream}

    def handles(self, place: int, count: int) -> list[int]:
        """The lowest that are free."""
        taken = self.at(place)
        return list(itertools.islice((handle for handle in itertools.count() if handle not in taken), count))

    async def open(self, place: int, count: int, idle_ttl: float | None) -> None:
        """Opens sessions on a stream, in a way that can be repeated."""
        request = inference_pb2.OpenOnStream(model=MODEL, request_id=self.number())
        if idle_ttl is not None:
            request.idle_ttl.CopyFrom(Duration(seconds=int(idle_ttl)))
        handles = self.handles(place, count)
        request.handles = u32(handles)
        stream = self.stream(place)
        opened = await self.ask(stream, StreamRequest(open=request))
        made = []
        for handle, each in zip(handles, opened, strict=True):
            assert (each.handle, each.next_seq, each.acked, each.error.reason) == (handle, 0, 0, "")
            reference = ReferenceSession(WINDOW_STEPS, WINDOW_KEPT, POISON)
            made.append(Live(each.id, each.secret, reference, min(idle_ttl or IDLE_TTL, IDLE_TTL), self.now))
            self.bind(made[-1], stream, handle)
        self.sessions += made
        self.openings.append((request, made))

    async def open_again(self, place: int, request: inference_pb2.OpenOnStream, made: Sequence[Live]) -> None:
        """Repeats an opening: its sessions are found again, and are the stream's from now on."""
        alive = [each for each in made if each in self.sessions]
        for each in {id(live.stream): live.stream for live in alive if live.stream}.values():
            await each.barrier()
        handles, stream = self.handles(place, len(made)), self.stream(place)
        repeat = inference_pb2.OpenOnStream(
            model=MODEL, request_id=request.request_id, idle_ttl=request.idle_ttl if request.HasField("idle_ttl") else None
        )
        repeat.handles = u32(handles)
        answers = await self.ask(stream, StreamRequest(open=repeat))
        for handle, live, answer in zip(handles, made, answers, strict=True):
            if live in self.sessions:
                assert (answer.id, answer.secret) == (live.id, live.secret)
                await self.taken(live, stream, handle, answer)
            else:
                endings = {each.id: reason for each, reason in self.dead}  # none: another session has the id now
                assert answer.error.reason == endings.get(live.id, Reason.SESSION_CLOSED).name

    async def attach(self, live: Live, place: int, back: int, secret: Secret) -> None:
        """Takes a session over, or tries to."""
        if live.stream is not None:
            await live.stream.barrier()
        (handle,), stream = self.handles(place, 1), self.stream(place)
        count = max(0, live.known.next_seq - back)
        key = live.secret if secret == "right" else bytes(len(live.secret))
        one = inference_pb2.AttachSession(handle=handle, id=live.id, secret=key, acked=count)
        (answer,) = await self.ask(stream, StreamRequest(attach=inference_pb2.Attach(model=MODEL, sessions=[one])))
        if secret != "right":
            assert answer.error.reason == "SECRET_MISMATCH"
            return
        assert answer.secret == b""
        await self.taken(live, stream, handle, answer, count)

    async def taken(
        self, live: Live, stream: Transcript, handle: int, answer: inference_pb2.AttachedSession, count: int = 0
    ) -> None:
        """The session is the stream's now; whoever had it before is told so.

        There is no order between streams: what the former one sent last may have come too late, and is refused or void.
        """
        live.log.append(Ack(count))
        await self.let_go(live, inference_pb2.DETACH_REASON_SESSION_TAKEN, answer.acked)
        assert (answer.next_seq, answer.acked, answer.error.reason) == (live.known.next_seq, live.known.acked, "")
        self.bind(live, stream, handle)

    async def detach(self, place: int, lives: Sequence[Live], close: bool, *, whole: bool = False) -> None:
        """Lets sessions go, with all that is queued for them, or after all of it (`whole`)."""
        stream = self.stream(place)
        for live in lives if whole else ():
            await self.hear(live)
        detach = inference_pb2.Detach(handles=u32([each.handle for each in lives]), close=close)
        await stream.send(StreamRequest(detach=detach))
        await self.go_on_behind(stream)
        for live in lives:
            if close:
                await self.ended(live, inference_pb2.DETACH_REASON_SESSION_CLOSED, Reason.SESSION_CLOSED)
            else:
                await self.let_go(live, inference_pb2.DETACH_REASON_REQUESTED)

    def bind(self, live: Live, stream: Transcript, handle: int) -> None:
        live.stream, live.handle, live.heard = stream, handle, 0
        if live.known.acked < live.known.next_seq:
            live.note(Resend(live.known.next_seq - live.known.acked))

    async def let_go(self, live: Live, reason: inference_pb2.DetachReason, acked: int | None = None) -> None:
        """The stream that holds the session, if there is one, is told why it does no longer; what was queued is gone."""
        told: list[Outcome] = []
        if live.stream is not None:
            assert await live.stream.ending(live.handle) == reason
            told = live.stream.told[live.handle][live.heard :]
            live.stream.free(live.handle)
            live.stream = None
        in_doubt = live.in_doubt
        live.settle(told, self.now, dropped=True, acked=acked)
        if in_doubt and reason in (inference_pb2.DETACH_REASON_REQUESTED, inference_pb2.DETACH_REASON_SESSION_TAKEN):
            # A chunk that has failed may have been dropped before that could be told.
            live.find_out((await self.get(live)).status == session_pb2.SESSION_STATUS_QUARANTINED)

    async def ended(self, live: Live, ending: inference_pb2.DetachReason, reason: Reason) -> None:
        await self.let_go(live, ending)
        self.sessions.remove(live)
        self.dead.append((live, reason))

    async def hear(self, live: Live) -> None:
        """Waits for all outcomes of a session, and compares them."""
        if live.stream is None:
            return
        self.go_on()
        told = await live.stream.outcomes(live.handle, live.heard + live.on_its_way)
        live.heard, told = len(told), told[live.heard :]
        live.settle(told, self.now)

    async def get(self, live: Live) -> session_pb2.Session:
        request = session_pb2.GetSessionRequest(model=MODEL, id=live.id)
        response: session_pb2.GetSessionResponse = await self.served.front.sessions.GetSession(request)
        return response.session

    def compare(self, session: session_pb2.Session, live: Live) -> None:
        """What anybody may know of a session with nothing on its way."""
        status = session_pb2.SESSION_STATUS_QUARANTINED if live.known.quarantined else session_pb2.SESSION_STATUS_OPEN
        numbers = (session.next_seq, session.acked, session.pending_steps, session.status, session.attached)
        assert numbers == (live.known.next_seq, live.known.acked, 0, status, live.stream is not None), (
            f"{session} is not {live.known}"
        )
        assert session.idle.ToTimedelta().total_seconds() == self.now - live.used_at
