"""A counting model over real gRPC with everything that may happen to its sessions, each checked against the reference.

Where timing makes two outcomes legal, an order is forced by waiting for outcomes or for a stream to have been read; nothing
sleeps. Three things are only known from what the server says, and are checked to be possible: where a chunk was cut that failed
midway, how much of what was queued had been applied when a session was taken or a stream broke, and whether a copy was asked for
in time.
"""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import Awaitable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from types import UnionType
from typing import Any
from unittest import mock

import grpc
import numpy as np
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from stepstream_proto.v1 import common_pb2, inference_pb2, session_pb2
from stepstream_server.config import DoorSettings
from stepstream_server.engine import ports, scheduler
from stepstream_server.engine.ports import NO_SEQ, Keep
from stepstream_server.errors import Reason
from support.backend import FakeBackend
from support.clock import FakeClock
from support.front_door import Arrivals, FrontDoor, front_door
from support.history import Ack, Live, Resend, Row, Zero
from support.reference import Outcome, ReferenceSession
from support.transcript import NOBODY, Transcript
from support.wire import StreamRequest, u32, u64

MODEL = "counter"
_TURN_STEPS = 3  # of a session in one turn: one beside single steps, two as a chunk
WINDOW_STEPS, WINDOW_KEPT = 8, 6
POISON = 666.0
IDLE_TTL = 10.0  # seconds
_OUTPUTS = {Keep.ALL: common_pb2.OUTPUTS_ALL, Keep.LAST: common_pb2.OUTPUTS_LAST, Keep.NONE: common_pb2.OUTPUTS_NONE}
_STEP_BYTES = 8  # sum and count, float32 each
_LONG = 1e12  # seconds: the clock is moved by the test alone

Secret = str  # "right", "wrong" or "none"
Refused = tuple[Reason, int]  # and the number expected


@dataclass
class Served:
    """A server that lasts for many examples."""

    front: FrontDoor
    clock: FakeClock
    stack: AsyncExitStack
    arrivals: Arrivals
    numbers: itertools.count[int] = field(default_factory=itertools.count)

    @classmethod
    async def start(cls) -> Served:
        clock, stack, arrivals = FakeClock(), AsyncExitStack(), Arrivals()
        context = front_door(
            settings=DoorSettings(step_timeout_seconds=_LONG),
            backend=lambda: FakeBackend(poison=POISON),
            clock=clock,
            tap=arrivals,
            window_steps=WINDOW_STEPS,
            window_bytes=WINDOW_KEPT * _STEP_BYTES,
            idle_ttl_seconds=IDLE_TTL,
            tombstone_seconds=_LONG,
            turn_budget_seconds=2e-7,  # chunks are cut: on a clock that stands still a step takes 1e-7 s
            alone_budget_seconds=2e-7,
        )
        stack.enter_context(mock.patch.object(scheduler, "_FIRST_GUESS", 2))  # before it is known how long a step takes
        return cls(await stack.enter_async_context(context), clock, stack, arrivals)


@dataclass(frozen=True)
class Message:
    """A message of a stream and what it asks of each handle."""

    place: int
    request: StreamRequest
    inputs: tuple[tuple[int, Row | Zero, int | None], ...]  # handle, input, count acknowledged before it


@dataclass(frozen=True)
class Moved:
    """A snapshot and the session that it must become."""

    data: bytes
    session: Live


@dataclass
class World:
    """One example."""

    served: Served
    sessions: list[Live] = field(default_factory=list)
    dead: list[tuple[Live, Reason]] = field(default_factory=list)
    streams: dict[int, Transcript] = field(default_factory=dict)
    messages: list[Message] = field(default_factory=list)
    snapshots: list[Moved] = field(default_factory=list)
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

    # Streams ---------------------------------------------------------------------------------------------------------

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
        repeat = inference_pb2.OpenOnStream(model=MODEL, request_id=request.request_id, handles=u32(handles))
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

    async def cut(self, place: int, back: int) -> None:
        """A stream breaks with all that is on its way; its client comes back at once on another one."""
        lives = self.at(place)
        self.stream(place).cut()
        former, self.streams[place] = self.streams[place], Transcript(self.served.front.channel)
        self.messages = [each for each in self.messages if each.place != place]
        if not lives:
            return
        asked = []
        for handle, live in lives.items():
            count = max(0, live.known.next_seq - back)
            live.log.append(Ack(count))
            asked.append(inference_pb2.AttachSession(handle=handle, id=live.id, secret=live.secret, acked=count))
        stream = self.stream(place)
        answers = await self.ask(stream, StreamRequest(attach=inference_pb2.Attach(model=MODEL, sessions=asked)))
        for answer, (handle, live) in zip(answers, lives.items(), strict=True):
            assert answer.error.reason == ""
            quarantined = (await self.get(live)).status == session_pb2.SESSION_STATUS_QUARANTINED
            told = former.told[handle][live.heard :]
            live.settle_cut(told, self.now, answer.next_seq, answer.acked, quarantined)
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

    # Inputs ----------------------------------------------------------------------------------------------------------

    async def pipeline(self, live: Live, rows: Sequence[Sequence[float]], keep: Keep, overlap: int = 0) -> None:
        """Messages one after the other, each going on where the one before will have ended if nothing fails.

        The first one heals the session if need be. With an overlap each begins so many steps earlier, as a straddling repeat.
        """
        for place, stream in self.streams.items():
            if live.stream is stream and live.known.quarantined and not live.log:
                await self.send(self.reset(place, [(live, Zero(live.point))]))
            for values in rows if live.stream is stream else ():
                row = Row(max(0, live.point - overlap), tuple(values), keep)
                await self.send(self.block(place, [(live, row)], keep, acknowledges=not live.log))

    def block(self, place: int, rows: Sequence[tuple[Live, Row]], keep: Keep, acknowledges: bool) -> Message:
        """A block, not sent yet."""
        counts = [live.known.next_seq for live, _ in rows]
        message = inference_pb2.Block(
            handles=u32([live.handle for live, _ in rows]),
            first_seqs=u64([row.first for _, row in rows]),
            lengths=u32([row.steps for _, row in rows]),
            inputs=[np.array([value for _, row in rows for value in row.values], "<f4").tobytes()],
            outputs=_OUTPUTS[keep],
            acked=u64(counts) if acknowledges else b"",
        )
        inputs = [(live.handle, row, count if acknowledges else None) for (live, row), count in zip(rows, counts, strict=True)]
        return Message(place, StreamRequest(block=message), tuple(inputs))

    def reset(self, place: int, zeros: Sequence[tuple[Live, Zero]]) -> Message:
        """Resets, not sent yet."""
        reset = inference_pb2.Reset(handles=u32([live.handle for live, _ in zeros]), seqs=u64([zero.first for _, zero in zeros]))
        return Message(place, StreamRequest(reset=reset), tuple((live.handle, zero, None) for live, zero in zeros))

    async def send(self, message: Message) -> None:
        """Sends without waiting for outcomes, unless what is on its way makes them a matter of timing."""
        here, stream = self.at(message.place), self.stream(message.place)
        for handle, given, count in message.inputs:
            if handle in here:
                await self.hear_before(here[handle], given, count)
        await stream.send(message.request)
        for handle, given, count in message.inputs:
            if handle not in here:
                await self.hear_stray(stream, handle, given)
                continue
            if count is not None:
                here[handle].note(Ack(count))
            here[handle].note(given)

    async def hear_stray(self, stream: Transcript, handle: int, given: Row | Zero) -> None:
        """An input for a handle that stands for nothing is refused. So may be what came too late for the session before."""
        seqs = range(given.first, given.first + given.steps)
        await stream.until(lambda: set(seqs) <= {each[0] for each in stream.told[handle]})
        assert {each[1:] for each in stream.told[handle]} == {(Reason.HANDLE_UNKNOWN, 0)}
        stream.free(handle)

    async def hear_before(self, live: Live, given: Row | Zero, count: int | None) -> None:
        """Waits for what would otherwise have two outcomes."""
        acknowledges_early = count is not None and (live.in_doubt or live.repeats or count > live.known.next_seq)
        if acknowledges_early or live.freed_late or (live.in_doubt and not live.surely_behind(given)):
            await self.hear(live)

    async def acknowledge(self, live: Live, count: int) -> None:
        """Says what was received, or, with nothing on its way, any number."""
        if count > live.known.next_seq or live.in_doubt:
            await self.hear(live)
        acknowledge = inference_pb2.Acknowledge(handles=u32([live.handle]), counts=u64([count]))
        assert live.stream is not None
        await live.stream.send(StreamRequest(acknowledge=acknowledge))
        live.note(Ack(count))

    async def acknowledge_behind_repeat(self, live: Live, keep: Keep) -> None:
        """Asks for all kept answers once more behind a step that is held, and says at once that they are not needed."""
        known = live.known
        for place in [place for place, stream in self.streams.items() if stream is live.stream]:
            await self.hear(live)
            self.hold(live)
            for row in (Row(known.next_seq, (1.0,), keep), Row(known.acked, (0.0,) * (known.next_seq - known.acked), keep)):
                if row.values:
                    await self.send(self.block(place, [(live, row)], keep, acknowledges=False))
            await self.acknowledge(live, known.next_seq)

    async def hear(self, live: Live) -> None:
        """Waits for all outcomes of a session, and compares them."""
        if live.stream is None:
            return
        self.go_on()
        told = await live.stream.outcomes(live.handle, live.heard + live.on_its_way)
        live.heard, told = len(told), told[live.heard :]
        live.settle(told, self.now)

    # Calls -----------------------------------------------------------------------------------------------------------

    async def step(self, live: Live, seq: int, values: Sequence[float], keep: Keep, secret: Secret) -> None:
        """A momentary step behind whatever is queued."""
        if live.stream is not None:
            await live.stream.barrier()
        if live.in_doubt or (seq != NO_SEQ and live.log):
            await self.hear(live)
        inputs = {"x": inference_pb2.Values(numbers=values)}
        request = inference_pb2.StepRequest(
            model=MODEL, session_id=live.id, secret=_key(live, secret), inputs=inputs, outputs=_OUTPUTS[keep]
        )
        if seq != NO_SEQ:
            request.seq = seq
        answer = await self.call(ports.Call, self.served.front.inference.Step(request))
        await self.hear(live)
        if (claim := _claim(live, secret)) is not None:
            assert answer == claim
            return
        first = live.known.next_seq if seq == NO_SEQ else seq
        if seq != NO_SEQ:
            acknowledges = first <= live.known.next_seq
        else:  # nobody else is there to do it, if no stream is
            acknowledges = live.stream is None and not live.known.quarantined and not any(map(math.isnan, values))
        if acknowledges:
            live.known.acknowledge(first)
        failed_from = (await self.get(live)).next_seq if POISON in values else None
        before = live.known.next_seq
        outcomes = list(live.known.send(first, values, keep, cached=seq != NO_SEQ, failed_from=failed_from))
        if live.known.next_seq != before:
            live.used_at = self.now
        live.settle([], self.now)
        assert _response(answer) == _of_outcomes(first, outcomes), f"{answer} for {outcomes} of {live.known}"

    async def close(self, live: Live, secret: Secret) -> None:
        """Closes by id."""
        if live.stream is not None:
            await live.stream.barrier()
        request = session_pb2.CloseSessionRequest(model=MODEL, id=live.id, secret=_key(live, secret))
        answer = await self.call(ports.Close, self.served.front.sessions.CloseSession(request))
        if (claim := _claim(live, secret)) is not None:
            assert answer == claim
            return
        await self.ended(live, inference_pb2.DETACH_REASON_SESSION_CLOSED, Reason.SESSION_CLOSED)
        assert answer.next_seq == live.known.next_seq

    async def get(self, live: Live) -> session_pb2.Session:
        request = session_pb2.GetSessionRequest(model=MODEL, id=live.id)
        response: session_pb2.GetSessionResponse = await self.served.front.sessions.GetSession(request)
        return response.session

    async def fork(self, live: Live, at_seq: int | None, count: int, secret: Secret) -> None:
        """Copies a session, and where it is copied more than once asks for the same copies again."""
        request = session_pb2.ForkSessionRequest(model=MODEL, id=live.id, secret=_key(live, secret), count=count)
        request.request_id = self.number()
        call = self.served.front.sessions.ForkSession
        answer, at_seq = await self.copy(live, at_seq, secret, request, call)
        if at_seq is not None:
            for each in answer.sessions:
                self.sessions.append(Live(each.id, each.secret, live.known.fork(at_seq), live.idle_ttl, self.now))
            if count > 1:
                assert await call(request) == answer

    async def export(self, live: Live, at_seq: int | None, close: bool, secret: Secret) -> None:
        """Takes a snapshot."""
        request = session_pb2.ExportSessionRequest(model=MODEL, id=live.id, secret=_key(live, secret), close=close)
        request.request_id = self.number() if close else ""
        call = self.served.front.sessions.ExportSession
        answer, at_seq = await self.copy(live, at_seq, secret, request, call)
        if at_seq is not None:
            copy = Live(live.id, b"", live.known.moved(at_seq), live.idle_ttl, self.now)
            self.snapshots.append(Moved(answer.snapshot, copy))
            if close:
                assert await call(request) == answer

    async def copy(self, live: Live, at_seq: int | None, secret: Secret, request: Any, call: Any) -> tuple[Any, int | None]:
        """Forks or exports at a seq. Returns the answer and where the copy was taken, None if it was refused."""
        if live.stream is not None:
            await live.stream.barrier()
        if live.known.quarantined:
            await self.hear(live)
        before, heard, hope = live.known.quarantined, live.known.next_seq, live.point
        most = heard + _TURN_STEPS if self.held is live else hope  # steps that can be applied when the engine hears of it
        if at_seq is not None:
            request.at_seq = at_seq
        answer = await self.call(ports.Fork | ports.Export, call(request))
        moves = isinstance(request, session_pb2.ExportSessionRequest) and request.close and not isinstance(answer, tuple)
        if moves:
            await self.ended(live, inference_pb2.DETACH_REASON_SESSION_MOVED, Reason.SESSION_MOVED)
        else:
            await self.hear(live)
        if (claim := _claim(live, secret)) is not None:
            assert answer == claim
            return answer, None
        wanted, now = hope if at_seq is None else at_seq, live.known.next_seq
        if isinstance(answer, tuple):
            reason, expected = answer
            legal = {
                Reason.SESSION_QUARANTINED: live.known.quarantined and (at_seq is None or at_seq <= now),
                Reason.SEQUENCE_PASSED: not before and wanted < expected and heard <= expected <= min(now, most),
                Reason.SEQUENCE_MISMATCH: wanted > expected
                and (expected == hope or (live.known.quarantined and expected == now)),
            }
            assert legal.get(reason), f"{answer} for a copy at {at_seq} of {live}, which was heard to {heard}, hoped to {hope}"
            return answer, None
        assert not before and heard <= wanted <= now and answer.next_seq == wanted, (
            f"copied at {answer.next_seq}: {at_seq}, {live}"
        )
        assert not moves or now == wanted
        return answer, wanted

    async def bring(self, moved: Moved, new_id: bool, spoil: bool) -> None:
        """Imports a snapshot, and asks for the same once more."""
        data = moved.data[:-1] + bytes([moved.data[-1] ^ 1]) if spoil else moved.data
        wanted = self.number() if new_id else moved.session.id
        request = session_pb2.ImportSessionRequest(snapshot=data, id=wanted if new_id else "")
        request.request_id = self.number()
        answer = await self.call(ports.Import, self.served.front.sessions.ImportSession(request))
        if spoil:
            assert answer == (Reason.SNAPSHOT_CORRUPT, 0), answer
            return
        if wanted in {each.id for each in self.sessions}:
            assert answer == (Reason.SESSION_EXISTS, 0), answer
            return
        assert not isinstance(answer, tuple), answer
        self.dead = [each for each in self.dead if each[0].id != wanted]
        reference = moved.session.known.copy()
        live = Live(wanted, answer.secret, reference, moved.session.idle_ttl, self.now)
        assert answer.bitwise
        self.compare(answer.session, live)
        self.sessions.append(live)
        again = await self.served.front.sessions.ImportSession(request)
        assert (again.session.id, again.secret) == (wanted, answer.secret)

    # Time and ends ---------------------------------------------------------------------------------------------------

    async def wait(self, seconds: float) -> None:
        """Lets time pass on the server, and sessions expire."""
        self.go_on()
        for live in self.sessions:
            await self.hear(live)
        self.served.clock.advance(seconds)
        asleep = session_pb2.GetSessionRequest(model=MODEL, id="nobody")  # wakes the engine
        assert await told(self.served.front.sessions.GetSession(asleep)) == (Reason.SESSION_NOT_FOUND, 0)
        for live in [each for each in self.sessions if self.now - each.used_at >= each.idle_ttl]:
            await self.ended(live, inference_pb2.DETACH_REASON_SESSION_EXPIRED, Reason.SESSION_EXPIRED)

    async def knock(self, dead: Live, reason: Reason) -> None:
        """Whoever asks for an ended session is told how it ended; closing it succeeds."""
        self.go_on()
        inference, sessions = self.served.front.inference, self.served.front.sessions
        values = {"x": inference_pb2.Values(numbers=[1])}
        assert await told(inference.Step(inference_pb2.StepRequest(model=MODEL, session_id=dead.id, inputs=values))) == (
            reason,
            0,
        )
        assert await told(sessions.ForkSession(session_pb2.ForkSessionRequest(model=MODEL, id=dead.id))) == (reason, 0)
        closed = await sessions.CloseSession(session_pb2.CloseSessionRequest(model=MODEL, id=dead.id))
        assert closed.next_seq == 0

    async def finish(self) -> None:
        """Hears everything; each session stands where the reference says, and goes on from there."""
        self.go_on()
        for live in self.sessions:
            await self.hear(live)
        listed = await self.served.front.sessions.ListSessions(session_pb2.ListSessionsRequest(model=MODEL))
        found = {each.id: each for each in listed.sessions}
        assert found.keys() == {each.id for each in self.sessions}, (found, self.dead, self.sessions)
        for live in self.sessions:
            self.compare(found[live.id], live)
        await self.gather([each for each in self.sessions if each.stream is None])
        for place in self.streams:
            if lives := list(self.at(place).values()):
                rows = [(live, Row(live.known.next_seq, (1.0,), Keep.ALL)) for live in lives]
                await self.send(self.block(place, rows, Keep.ALL, acknowledges=True))
                await self.detach(place, lives, close=True, whole=True)
        late = [
            each for stream in self.streams.values() for handle, told in stream.told.items() if handle != NOBODY for each in told
        ]
        assert {each[1:] for each in late} <= {(Reason.HANDLE_UNKNOWN, 0)}

    async def gather(self, lives: Sequence[Live]) -> None:
        """Attaches sessions that nobody holds to one stream."""
        if not lives:
            return
        handles, stream = self.handles(0, len(lives)), self.stream(0)
        asked = [
            inference_pb2.AttachSession(handle=handle, id=live.id, secret=live.secret)
            for handle, live in zip(handles, lives, strict=True)
        ]
        answers = await self.ask(stream, StreamRequest(attach=inference_pb2.Attach(model=MODEL, sessions=asked)))
        for handle, live, answer in zip(handles, lives, answers, strict=True):
            await self.taken(live, stream, handle, answer)

    def compare(self, session: session_pb2.Session, live: Live) -> None:
        """What anybody may know of a session with nothing on its way."""
        status = session_pb2.SESSION_STATUS_QUARANTINED if live.known.quarantined else session_pb2.SESSION_STATUS_OPEN
        numbers = (session.next_seq, session.acked, session.pending_steps, session.status, session.attached)
        assert numbers == (live.known.next_seq, live.known.acked, 0, status, live.stream is not None), (
            f"{session} is not {live.known}"
        )
        assert session.idle.ToTimedelta().total_seconds() == self.now - live.used_at

    def leave(self) -> None:
        """Cuts all streams."""
        self.go_on()
        for stream in self.streams.values():
            stream.cut()
        while not self.served.front.ended.empty():
            self.served.front.ended.get_nowait()


async def told(call: Awaitable[Any]) -> Any:
    """What a unary call was answered: the response, or why it was refused and the number expected."""
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        trailers = dict(error.trailing_metadata())
        status, info = Status(), ErrorInfo()
        status.ParseFromString(bytes(trailers["grpc-status-details-bin"]))
        for detail in status.details:
            detail.Unpack(info)
        return Reason[info.reason], int(info.metadata.get("expectedSeq", 0))


def _key(live: Live, secret: Secret) -> bytes:
    return {"right": live.secret, "wrong": bytes(len(live.secret)), "none": b""}[secret]


def _claim(live: Live, secret: Secret) -> Refused | None:
    """Why a caller without the right secret is turned away."""
    if secret == "wrong":
        return Reason.SECRET_MISMATCH, 0
    return (Reason.SESSION_IN_USE, 0) if secret == "none" and live.stream is not None else None


def _response(answer: Any) -> Any:
    if isinstance(answer, tuple):
        return answer
    return answer.seq, answer.next_seq, list(answer.outputs["sum"].numbers)


def _of_outcomes(first: int, outcomes: Sequence[Outcome]) -> Any:
    """What a momentary step is answered whose steps come to this."""
    for each in outcomes:
        if len(each) == 3:
            return each[1], each[2]
    return first, first + len(outcomes), [each[1] for each in outcomes if each[1] is not None]
