"""Clients that misbehave, over real gRPC: the others never notice, and nothing that they make grow grows without bound."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc.error_details_pb2 import RetryInfo
from grpc_status import rpc_status

from stepstream_proto.v1 import common_pb2, inference_pb2, session_pb2, session_pb2_grpc
from stepstream_proto.v1.inference_pb2 import (
    Acknowledge,
    Attach,
    AttachSession,
    Block,
    Detach,
    OpenOnStream,
    Reset,
    StreamRequest,
)
from stepstream_server.config import DoorSettings
from stepstream_server.rpc.stream.flow_control import Credits, Lookahead
from support.backend import FakeBackend
from support.front_door import CountingStream, FrontDoor, front_door, wait_for
from support.holding_client import __file__ as HOLDING_CLIENT
from support.waits import waits
from support.wide import WideBackend, wide_spec
from support.wire import block, steps_of, u32, u64

STREAM = ("stepstream.v1.InferenceService", "Stream")
WIDTH = 1 << 16  # numbers of a wide output: 256 KiB per step
MIB = 1 << 20
MANY = range(1, 300)  # handles that stand for nothing


@asynccontextmanager
async def wide_door(sessions: int = 64, settings: DoorSettings | None = None, **engine: Any) -> AsyncIterator[FrontDoor]:
    """A front door of one model, `wide`, whose steps give 256 KiB each."""
    async with front_door(
        "wide", settings=settings, backend=lambda: WideBackend(slots=sessions, width=WIDTH), spec=wide_spec(WIDTH), **engine
    ) as front:
        yield front


@pytest.fixture
def out_of_credit(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Set once some stream has used its credits up and is not read any more."""
    return waits(monkeypatch, Credits)


@pytest.fixture
def too_far_ahead(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Set once some stream has said more than its engine has heard, and is not read any more."""
    return waits(monkeypatch, Lookahead)


async def steps_on(stream: CountingStream, handle: int, first: int, count: int) -> None:
    """Makes steps one by one; each is answered."""
    for seq in range(first, first + count):
        await stream.step([handle], [seq], [1.0], acked=u64([seq]))
        answers = (await stream.receive()).answers
        assert [int(each) for each in steps_of(answers)[1]] == [seq], answers.errors


@asynccontextmanager
async def meanwhile(work: Any) -> AsyncIterator[asyncio.Task[None]]:
    """Something goes on until the block ends."""
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError, grpc.aio.AioRpcError, asyncio.InvalidStateError):
            await task


async def write_without_end(stream: CountingStream, handles: Sequence[int], *, acknowledge: bool) -> None:
    """A step of each session, again and again, without waiting for anything."""
    seq = 0
    while True:
        acked = {"acked": u64([seq] * len(handles))} if acknowledge else {}
        await stream.step(handles, [seq] * len(handles), *[[1.0]] * len(handles), **acked)
        seq += 1


# Growing -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("acknowledge", [True, False])
async def test_a_client_that_never_reads_costs_its_credits(out_of_credit: asyncio.Event, acknowledge: bool) -> None:
    """It is not read any more once 16 MiB of its answers are in flight, whatever it acknowledges; the others go on."""
    async with wide_door() as front, CountingStream(front.channel) as greedy, CountingStream(front.channel) as honest:
        await greedy.open("wide", range(32))
        await honest.open("wide", [0])
        async with meanwhile(write_without_end(greedy, range(32), acknowledge=acknowledge)):
            await out_of_credit.wait()
            await steps_on(honest, 0, 0, 20)
            assert front.rpc.streams.unread_bytes < 16 * MIB + 32 * 300_000
            assert front.models["wide"].engine.stats().pending_steps <= 64 + 32
        greedy.cut()
        await steps_on(honest, 0, 20, 5)
        await honest.half_close()
        assert await front.rpc.streams.finish(60)
        assert front.rpc.streams.unread_bytes == 0


async def test_who_leaves_most_unread_is_let_go_of(out_of_credit: asyncio.Event) -> None:
    """Beyond the limit of all streams together the greediest stream ends; its sessions live on, with their answers."""
    settings = DoorSettings(max_unread_bytes=2 * MIB)
    async with wide_door(settings=settings) as front, CountingStream(front.channel) as honest:
        greedy = CountingStream(front.channel)
        (first, *_) = await greedy.open("wide", range(8))
        await honest.open("wide", [0])
        await greedy.step(range(8), [0] * 8, *[[1.0, 2.0]] * 8)
        await greedy.step(range(8), [2] * 8, *[[1.0, 2.0]] * 8)
        code, details = await greedy.end()
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "has no room for more unread answers" in details
        await steps_on(honest, 0, 0, 5)
        attached = await honest.attach("wide", 1, first.id, first.secret)
        (session,) = attached.sessions
        assert session.acked == 0
        found = 0
        while found < session.next_seq:
            found += len(steps_of((await honest.receive()).answers)[0])
        assert front.rpc.streams.unread_bytes == 0


async def test_attaching_again_and_again_without_reading_is_bounded(out_of_credit: asyncio.Event) -> None:
    """Each attach has a megabyte of kept answers sent again: they take credit though nobody paid for them."""
    async with wide_door() as front, CountingStream(front.channel) as honest:
        await honest.open("wide", [0])
        greedy = CountingStream(front.channel)
        opened = await greedy.open("wide", range(8))
        await greedy.step(range(8), [0] * 8, *[[1.0, 1.0, 1.0]] * 8)
        wanted = [AttachSession(handle=8 + each.handle, id=each.id, secret=each.secret) for each in opened]
        request = StreamRequest(attach=Attach(model="wide", sessions=wanted))

        async def attach_without_end() -> None:
            while True:
                await greedy.send(request)
                for each in wanted:
                    each.handle = (each.handle + 8) % 256
                request.attach.CopyFrom(Attach(model="wide", sessions=wanted))

        async with meanwhile(attach_without_end()):
            await out_of_credit.wait()
            await steps_on(honest, 0, 0, 10)
            assert front.rpc.streams.unread_bytes < 64 * MIB
        greedy.cut()
        await steps_on(honest, 0, 10, 5)


async def test_a_flood_of_acknowledgements_waits_for_the_engine(too_far_ahead: asyncio.Event) -> None:
    """They have no answer, but are not read faster than the engine takes them in; afterwards the stream goes on and ends well."""
    async with (
        front_door() as front,
        CountingStream(front.channel) as stream,
        CountingStream(front.channel) as other,
    ):
        model = front.models["counter"]
        await stream.open("counter", [0])
        await other.open("counter", [0])
        model.gate.close()
        await other.step([0], [0], [1])
        await wait_for(model.gate.reached)
        request = StreamRequest(acknowledge=Acknowledge(handles=u32([0]), counts=u64([0])))
        flood = asyncio.create_task(send_all(stream, [request] * 5000))
        await too_far_ahead.wait()
        assert model.engine.inbox.qsize() <= 16  # envelopes
        model.gate.open()
        await flood
        await stream.step([0], [0], [7])
        assert await stream.sums(1) == {(0, 0): 7}
        await stream.half_close()
        assert (await stream.end())[0] is grpc.StatusCode.OK


async def send_all(stream: CountingStream, requests: Sequence[StreamRequest]) -> None:
    """One after the other."""
    for request in requests:
        await stream.send(request)


@pytest.mark.parametrize(
    "request_",
    [
        StreamRequest(open=OpenOnStream(model="x" * 2000)),
        StreamRequest(open=OpenOnStream(model="none", handles=u32(MANY))),
        StreamRequest(attach=Attach(model="counter", sessions=[AttachSession(handle=each, id="x") for each in MANY])),
        StreamRequest(detach=Detach(handles=u32(range(1, 5000)))),
        StreamRequest(reset=Reset(handles=u32(MANY), seqs=u64([0] * len(MANY)))),
        StreamRequest(block=Block(handles=u32(MANY), first_seqs=b"?")),
        StreamRequest(block=Block(handles=u32([0]), first_seqs=u64([9]), lengths=u32([150]), inputs=[bytes(600)])),
    ],
)
async def test_whatever_is_answered_takes_credit(out_of_credit: asyncio.Event, request_: StreamRequest) -> None:
    """A message that cannot succeed, sent without end and never read: the server stops reading it, too."""
    async with front_door(settings=DoorSettings(stream_credit_steps=100)) as front, CountingStream(front.channel) as honest:
        await honest.open("counter", [0])
        greedy = CountingStream(front.channel)
        await greedy.open("counter", [0])

        async def flood() -> None:
            while True:
                await greedy.send(request_)

        async with meanwhile(flood()):
            await out_of_credit.wait()
            await steps_on(honest, 0, 0, 20)
            assert front.rpc.streams.unread_bytes < MIB
        greedy.cut()


async def test_a_client_that_writes_without_end_leaves_room() -> None:
    """Others are answered meanwhile, and what is pending stays within the flood's credits."""
    async with front_door() as front, CountingStream(front.channel) as flood, CountingStream(front.channel) as honest:
        await flood.open("counter", range(8))
        await honest.open("counter", [0])

        async def read() -> None:
            while True:
                await flood.receive()

        async with meanwhile(write_without_end(flood, range(8), acknowledge=True)), meanwhile(read()):
            for first in range(0, 60, 20):
                await steps_on(honest, 0, first, 20)
                assert front.models["counter"].engine.stats().pending_steps <= 8192 + 8


# Too many ------------------------------------------------------------------------------------------------------------


async def test_more_streams_than_there_may_be() -> None:
    """Beyond the limit each hears QUEUE_FULL; whoever was there goes on, and all room comes back when the client is gone."""
    async with front_door(settings=DoorSettings(max_streams=100)) as front, CountingStream(front.channel) as honest:
        await honest.open("counter", [0])
        async with grpc.aio.insecure_channel(front.address) as channel:
            greedy = [CountingStream(channel) for _ in range(1000)]
            refused = Counter(await asyncio.gather(*[begin(each) for each in greedy]))
            assert refused == {None: 99, grpc.StatusCode.RESOURCE_EXHAUSTED: 901}
            await steps_on(honest, 0, 0, 10)
        for _ in range(1000):
            service, method, _code = await front.ended.get()
            assert (service, method) == STREAM
        async with CountingStream(front.channel) as late:
            assert len(await late.open("counter", range(8))) == 8
        await steps_on(honest, 0, 10, 10)
        await honest.half_close()
        assert await front.rpc.streams.finish(60)
        assert len(front.rpc.streams) == 0
        request = session_pb2.ListSessionsRequest()
        assert not any(each.attached for each in (await front.sessions.ListSessions(request)).sessions)


async def begin(stream: CountingStream) -> grpc.StatusCode | None:
    """Why a stream could not be had, if so: its first message is the answer to an opening of nothing."""
    try:
        await stream.open("counter", [])
    except grpc.aio.AioRpcError as error:
        return error.code()
    return None


async def test_more_calls_than_there_may_be() -> None:
    """Beyond the limit a call hears QUEUE_FULL with a delay at once, while the others wait for their steps."""
    async with front_door(settings=DoorSettings(max_calls=2)) as front, CountingStream(front.channel) as stream:
        model = front.models["counter"]
        for id in ("a", "b"):
            await front.sessions.OpenSession(session_pb2.OpenSessionRequest(model="counter", id=id))
        await stream.open("counter", [0])
        model.gate.close()
        await stream.step([0], [0], [1])
        await wait_for(model.gate.reached)
        inputs = {"x": inference_pb2.Values(numbers=[1.0])}
        calls = [front.inference.Step(inference_pb2.StepRequest(model="counter", session_id=id, inputs=inputs)) for id in "abab"]
        codes = asyncio.as_completed([outcome(call) for call in calls])
        assert [await next(codes) for _ in range(2)] == [grpc.StatusCode.RESOURCE_EXHAUSTED] * 2
        model.gate.open()
        assert [await each for each in codes] == [grpc.StatusCode.OK] * 2


async def outcome(call: Any) -> grpc.StatusCode:
    """How a call ends."""
    code: grpc.StatusCode = await call.code()
    return code


async def test_more_sessions_than_there_is_room_for() -> None:
    """RESOURCE_EXHAUSTED with a delay, opened one by one or on a stream; closing one makes room for one."""
    async with front_door(capacity=8, backend=lambda: FakeBackend(slots=8)) as front, CountingStream(front.channel) as stream:
        opened = await stream.open("counter", range(10))
        assert [each.error.reason for each in opened] == [""] * 8 + ["SESSION_CAPACITY"] * 2
        assert {each.error.retry_delay_ms for each in opened[8:]} == {1000}
        call = front.sessions.OpenSession(session_pb2.OpenSessionRequest(model="counter"))
        assert await outcome(call) is grpc.StatusCode.RESOURCE_EXHAUSTED
        status = await rpc_status.aio.from_call(call)
        assert status is not None
        assert any(detail.Is(RetryInfo.DESCRIPTOR) for detail in status.details)
        await stream.send(StreamRequest(detach=Detach(handles=u32([3]), close=True)))
        assert (await stream.receive()).detached.handles == u32([3])
        assert [each.error.reason for each in await stream.open("counter", [3, 8])] == ["", "SESSION_CAPACITY"]


async def test_a_thousand_sessions_at_once() -> None:
    """In one message, and one by one from twenty connections."""
    async with (
        front_door(capacity=2000, backend=lambda: FakeBackend(slots=2000)) as front,
        CountingStream(front.channel) as stream,
    ):
        opened = await stream.open("counter", range(1000))
        assert len({each.id for each in opened}) == 1000
        channels = [grpc.aio.insecure_channel(front.address, options=[("grpc.use_local_subchannel_pool", 1)]) for _ in range(20)]
        stubs = [session_pb2_grpc.SessionServiceStub(channel) for channel in channels]
        request = session_pb2.OpenSessionRequest(model="counter")
        singles = await asyncio.gather(*[stub.OpenSession(request) for stub in stubs for _ in range(50)])
        assert len({each.session.id for each in singles}) == 1000
        for channel in channels:
            await channel.close()
        await stream.send(block(range(1000), [0] * 1000, [1] * 1000, np.arange(1000, dtype=np.float32)))
        assert await stream.sums(1000) == {(handle, 0): handle for handle in range(1000)}


# Too large -----------------------------------------------------------------------------------------------------------


async def test_a_message_too_large_costs_its_stream_alone() -> None:
    """gRPC ends the stream that it came on; the session is as it was, and goes on on another."""
    settings = DoorSettings(max_message_bytes=64 << 10)
    async with front_door(settings=settings) as front, CountingStream(front.channel) as honest:
        await honest.open("counter", [0])
        async with CountingStream(front.channel) as stream:
            (session,) = await stream.open("counter", [0])
            await stream.step([0], [0], [1.0])
            await stream.sums(1)
            await stream.step([0], [1], [1.0] * (64 << 10))
            assert (await stream.end())[0] is grpc.StatusCode.RESOURCE_EXHAUSTED
        (attached,) = (await honest.attach("counter", 1, session.id, session.secret, acked=1)).sessions
        assert attached.next_seq == 1
        await honest.step([0, 1], [0, 1], [5.0], [5.0])
        assert await honest.sums(2) == {(0, 0): 5, (1, 1): 6}


async def test_answers_larger_than_a_message_come_in_several() -> None:
    """A row of 32 steps of 256 KiB, of which LAST and NONE keep fewer; sent again to a stream that attaches, they do so, too."""
    async with wide_door(window_bytes=64 * MIB) as front, CountingStream(front.channel) as stream:
        (session,) = await stream.open("wide", [0])
        await stream.step([0], [0], [1.0] * 32)
        assert await wide_sums(stream, 32) == {seq: seq + 1 for seq in range(32)}
        async with CountingStream(front.channel) as other:
            await other.attach("wide", 3, session.id, session.secret, acked=2)
            assert await wide_sums(other, 30) == {seq: seq + 1 for seq in range(2, 32)}


async def wide_sums(stream: CountingStream, steps: int) -> dict[int, float]:
    """The first of each step's many equal sums, by number."""
    found: dict[int, float] = {}
    while len(found) < steps:
        message = await stream.receive()
        assert message.ByteSize() < 4 * MIB
        assert not message.answers.errors
        sums = np.frombuffer(message.answers.outputs[0], "<f4").reshape(-1, WIDTH)
        assert (sums == sums[:, :1]).all()
        seqs = steps_of(message.answers)[1].tolist()
        found.update(zip(seqs, sums[:, 0].tolist(), strict=True))
    return found


async def test_an_answer_that_could_never_be_told_is_not_begun() -> None:
    """One step's outputs beyond a message, or a row's beyond the window: refused before it runs, and fewer go well."""
    settings = DoorSettings(max_message_bytes=128 << 10)
    async with wide_door(settings=settings) as front, CountingStream(front.channel) as stream:
        (session,) = await stream.open("wide", [0])
        await stream.step([0], [0], [1.0])
        assert await stream.errors(1) == [(0, 0, 1, "BLOCK_TOO_LARGE", 0)]
        inputs = {"x": inference_pb2.Values(numbers=[1.0])}
        request = inference_pb2.StepRequest(model="wide", session_id=session.id, secret=session.secret, inputs=inputs)
        assert await outcome(front.inference.Step(request)) is grpc.StatusCode.RESOURCE_EXHAUSTED
        request.outputs = common_pb2.OUTPUTS_NONE
        assert (await front.inference.Step(request)).next_seq == 1
    async with wide_door() as front, CountingStream(front.channel) as stream:
        await stream.open("wide", [0])
        await stream.step([0], [0], [1.0] * 5)
        assert [row[3] for row in await stream.errors(1)] == ["WINDOW_FULL"]
        await stream.step([0], [0], [1.0] * 3)
        assert len(await wide_sums(stream, 3)) == 3


async def test_ids_of_any_size_are_answered() -> None:
    """Ten thousand sessions that do not exist, under the longest ids there are, and ids of megabytes: told, one by one."""
    async with front_door() as front, CountingStream(front.channel) as stream:
        wanted = [AttachSession(handle=handle, id=f"{handle:05d}" + "x" * 123) for handle in range(10_000)]
        await stream.send(StreamRequest(attach=Attach(model="counter", sessions=wanted)))
        attached = (await stream.receive()).attached
        assert {each.error.reason for each in attached.sessions} == {"SESSION_NOT_FOUND"}
        large = "x" * (3 * MIB)
        await stream.send(StreamRequest(open=OpenOnStream(model="counter", handles=u32([0]), ids=[large])))
        assert [each.error.reason for each in (await stream.receive()).attached.sessions] == ["INVALID_ARGUMENT"]
        await stream.send(StreamRequest(open=OpenOnStream(model=large, handles=u32([0]))))
        assert [each.error.reason for each in (await stream.receive()).attached.sessions] == ["MODEL_NOT_FOUND"]
        get = front.sessions.GetSession(session_pb2.GetSessionRequest(model="counter", id=large))
        assert await outcome(get) is grpc.StatusCode.INVALID_ARGUMENT
        get = front.sessions.GetSession(session_pb2.GetSessionRequest(model=large, id="x"))
        assert await outcome(get) is grpc.StatusCode.NOT_FOUND
        assert len(await stream.open("counter", [0])) == 1


# Garbage -------------------------------------------------------------------------------------------------------------


def garbage(rng: np.random.Generator) -> StreamRequest:
    """A message whose columns are of any length and hold anything, some of it nearly right."""

    def column(*good: bytes) -> bytes:
        return good[rng.integers(len(good))] if rng.random() < 0.6 and good else rng.bytes(int(rng.integers(0, 20)))

    handles = column(u32([0]), u32([0, 1]), u32([0, 0]), u32([2**32 - 1]))
    numbers = column(u64([0]), u64([0, 0]), u64([2**63]), u64([2**64 - 1, 0]))
    lengths = column(b"", u32([1]), u32([1, 2]), u32([2**32 - 1]), u32([0]))
    inputs = [column(bytes(4), bytes(8), np.full(1, np.nan, "<f4").tobytes()) for _ in range(rng.integers(0, 3))]
    kinds = [
        StreamRequest(block=Block(handles=handles, first_seqs=numbers, lengths=lengths, inputs=inputs, acked=column(b""))),
        StreamRequest(reset=Reset(handles=handles, seqs=numbers)),
        StreamRequest(acknowledge=Acknowledge(handles=handles, counts=numbers)),
        StreamRequest(detach=Detach(handles=handles)),
        StreamRequest(open=OpenOnStream(model="counter", handles=handles, request_id=column(b"\x00", b"r").decode("latin-1"))),
        StreamRequest(),
    ]
    return kinds[rng.choice(len(kinds), p=[0.5, 0.1, 0.1, 0.1, 0.15, 0.05])]


async def test_garbage_is_refused_and_harms_nobody() -> None:
    """Whatever columns hold: a stream goes on or ends with INVALID_ARGUMENT, the server never fails, and others go on."""
    rng = np.random.default_rng(7)
    async with (
        front_door(capacity=4096, backend=lambda: FakeBackend(slots=4096)) as front,
        CountingStream(front.channel) as honest,
    ):
        await honest.open("counter", [0])
        ends: Counter[str] = Counter()
        for round_ in range(150):
            async with CountingStream(front.channel) as stream:
                await stream.open("counter", [0, 1])
                with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):  # where the stream ends under a write
                    for _ in range(5):
                        await stream.send(garbage(rng))
                    await stream.half_close()
                await stream.end()
            ends[(await front.ended.get())[2]] += 1
            await steps_on(honest, 0, round_, 1)
        assert ends.keys() == {"OK", "INVALID_ARGUMENT"}, ends
        assert not front.models["counter"].crashes


# Storms and sudden ends ----------------------------------------------------------------------------------------------


async def test_half_closing_at_once_ends_well() -> None:
    """With nothing sent, and with a hundred steps just sent: all are answered before the end."""
    async with front_door() as front:
        async with CountingStream(front.channel) as stream:
            await stream.half_close()
            assert await stream.end() == (grpc.StatusCode.OK, "")
        async with CountingStream(front.channel) as stream:
            await stream.open("counter", [0])
            for seq in range(100):
                await stream.step([0], [seq], [1.0])
            await stream.half_close()
            assert len(await stream.sums(100)) == 100
            assert await stream.end() == (grpc.StatusCode.OK, "")


async def test_storms_of_resets_and_detaches_leave_nothing_behind() -> None:
    """Steps, resets and detaches sent ahead, five hundred times: each outcome comes, every handle is free again."""
    async with (
        front_door(capacity=1000, backend=lambda: FakeBackend(slots=1000)) as front,
        CountingStream(front.channel) as stream,
    ):
        await stream.open("counter", range(500))

        async def storm() -> None:
            for handle in range(500):
                await stream.step([handle], [0], [1.0, 2.0])
                await stream.send(StreamRequest(reset=Reset(handles=u32([handle]), seqs=u64([2]))))
                await stream.step([handle], [3], [5.0])
                await stream.send(StreamRequest(detach=Detach(handles=u32([handle]), close=handle % 2 == 0)))
                await stream.send(StreamRequest(detach=Detach(handles=u32([handle]))))

        sending = asyncio.create_task(storm())
        detached: Counter[int] = Counter()
        unknown: Counter[int] = Counter()
        while detached.total() < 500 or unknown.total() < 500:
            message = await stream.receive()
            into = unknown if message.detached.HasField("error") else detached
            into.update(np.frombuffer(message.detached.handles, "<u4").tolist())
        await sending
        assert set(detached) == set(unknown) == set(range(500))
        assert [each.error.reason for each in await stream.open("counter", range(500))] == [""] * 500
        assert front.models["counter"].engine.stats().sessions == 750
        await stream.half_close()
        assert await stream.end() == (grpc.StatusCode.OK, "")


async def test_a_killed_client_leaves_its_sessions_to_others() -> None:
    """After kill -9 its stream ends, its sessions are attached to nobody, and whoever has their secrets goes on with them."""
    async with front_door() as front:
        path = os.pathsep.join(sys.path)
        command = [sys.executable, HOLDING_CLIENT, front.address, "counter", "3"]
        client = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, env={**os.environ, "PYTHONPATH": path}
        )
        assert client.stdout is not None
        held = [(await client.stdout.readline()).decode().split() for _ in range(3)]
        client.send_signal(signal.SIGKILL)
        await client.wait()
        assert (await front.ended.get())[:2] == STREAM
        for id, _ in held:
            info = (await front.sessions.GetSession(session_pb2.GetSessionRequest(model="counter", id=id))).session
            assert (info.next_seq, info.attached) == (1, False)
        async with CountingStream(front.channel) as stream:
            for handle, (id, secret) in enumerate(held):
                (session,) = (await stream.attach("counter", handle, id, bytes.fromhex(secret), acked=1)).sessions
                assert session.next_seq == 1
            await stream.step([0, 1, 2], [1, 1, 1], [1.0], [2.0], [3.0])
            assert await stream.sums(3) == {(0, 1): 2, (1, 1): 3, (2, 1): 4}
