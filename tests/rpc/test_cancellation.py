"""A caller goes away at every stage of a step, over real gRPC: queued, cut, computing, settling, being written.

Batch-mates finish with the right answers; steps, credits, handles, streams and whoever waited return to where they were.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any

import grpc
import pytest
import pytest_asyncio

from stepstream_proto.v1 import inference_pb2, session_pb2
from stepstream_server.engine.ports import Attach, Block, Call, CallersLeft, Close, Detach, Open, StreamEnded
from stepstream_server.rpc.stream.stream import Stream
from support.front_door import Arrivals, CountingStream, front_door, wait_for
from support.scene import STEPS, HeldMail, Scene
from support.wire import u32, u64

SUMS = {step: float(step + 1) for step in range(STEPS)}
STAGES = ["queued", "cut", "computing", "settling"]


@pytest_asyncio.fixture
async def scene(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Scene]:
    """A scene whose gates are open, in the end too."""
    arrivals = Arrivals()
    async with front_door(tap=arrivals) as front:
        scene = Scene(front, arrivals, HeldMail(front.models["counter"].door, monkeypatch))
        try:
            yield scene
        finally:
            scene.go_on()


async def by_cutting(scene: Scene, stream: CountingStream, session: inference_pb2.AttachedSession) -> None:
    """The connection breaks."""
    gone = scene.arrivals.next(StreamEnded)
    stream.cut()
    await gone


async def by_detaching(scene: Scene, stream: CountingStream, session: inference_pb2.AttachedSession) -> None:
    """The stream lets the session go."""
    gone = scene.arrivals.next(Detach)
    await stream.send(inference_pb2.StreamRequest(detach=inference_pb2.Detach(handles=u32([0]))))
    await gone


async def by_losing(scene: Scene, stream: CountingStream, session: inference_pb2.AttachedSession) -> None:
    """Another stream takes the session over, and is gone before it hears of it."""
    taken, gone = scene.arrivals.next(Attach), scene.arrivals.next(StreamEnded)
    thief = CountingStream(scene.front.channel)
    await thief.send_attach("counter", 0, session.id, session.secret)
    await taken
    thief.cut()
    await gone


async def by_closing(scene: Scene, stream: CountingStream, session: inference_pb2.AttachedSession) -> None:
    """The stream closes the session."""
    gone = scene.arrivals.next(Detach)
    await stream.send(inference_pb2.StreamRequest(detach=inference_pb2.Detach(handles=u32([0]), close=True)))
    await gone


async def by_closing_elsewhere(scene: Scene, stream: CountingStream, session: inference_pb2.AttachedSession) -> None:
    """Somebody closes the session by id, and does not wait for the answer."""
    gone = scene.arrivals.next(Close)
    request = session_pb2.CloseSessionRequest(model="counter", id=session.id, secret=session.secret)
    call = scene.front.sessions.CloseSession(request)
    await gone
    call.cancel()
    with suppress(asyncio.CancelledError):
        await call


Leave = Callable[[Scene, CountingStream, inference_pb2.AttachedSession], Awaitable[None]]


async def leave_at(scene: Scene, stage: str, leave: Leave) -> tuple[CountingStream, inference_pb2.AttachedSession]:
    """A stream that leaves its session while steps of it are at that stage. Its mates never notice."""
    victim = CountingStream(scene.front.channel)
    (session,) = await victim.open("counter", [0])

    async def send() -> None:
        await victim.step([0], [0], [1.0] * STEPS)
        await victim.all_read()

    await scene.queue(send)
    await scene.reach(stage)
    await leave(scene, victim, session)
    scene.go_on()
    await scene.check_mates()
    return victim, session


@pytest.mark.parametrize("leave", [by_cutting, by_detaching, by_losing])
@pytest.mark.parametrize("stage", STAGES)
async def test_whoever_leaves_finds_in_the_session_what_was_cut(scene: Scene, stage: str, leave: Leave) -> None:
    """What was queued is dropped, the rest settles: the next stream is sent its answers and goes on from there."""
    victim, session = await leave_at(scene, stage, leave)
    applied = 0 if stage == "queued" else STEPS
    found = await scene.get(session.id)
    assert (found.next_seq, found.acked, found.pending_steps, found.attached) == (applied, 0, 0, False)
    heir = CountingStream(scene.front.channel)
    await heir.send_attach("counter", 4, session.id, session.secret)
    assert (await heir.receive()).attached.sessions[0].next_seq == applied
    assert await heir.sums(applied) == {(4, step): SUMS[step] for step in range(applied)}
    await heir.step([4], [0], [1.0] * STEPS)
    assert await heir.sums(STEPS) == {(4, step): value for step, value in SUMS.items()}
    if leave is by_cutting:
        await scene.check_nothing_leaks(heir)
        return
    while (message := await victim.receive()).WhichOneof("message") != "detached":
        assert message.answers.handles == u32([0])
    assert message.detached.handles == u32([0])
    assert len(await victim.open("counter", [0])) == 1  # the handle is free again
    await scene.check_nothing_leaks(heir, victim)


@pytest.mark.parametrize("leave", [by_closing, by_closing_elsewhere])
@pytest.mark.parametrize("stage", STAGES)
async def test_a_session_closed_under_its_steps_leaves_nothing_behind(scene: Scene, stage: str, leave: Leave) -> None:
    """Its launch ends as any other; its stream hears that it is closed, and goes on with other sessions."""
    victim, session = await leave_at(scene, stage, leave)
    while (message := await victim.receive()).WhichOneof("message") != "detached":
        assert message.answers.handles == u32([0])
    assert message.detached.reason == inference_pb2.DETACH_REASON_SESSION_CLOSED
    with pytest.raises(grpc.aio.AioRpcError, match="was closed"):
        await scene.get(session.id)
    assert len(await victim.open("counter", [0])) == 1
    await scene.check_nothing_leaks(victim)


def step(session_id: str) -> inference_pb2.StepRequest:
    """The victim's steps as a one-shot call that can be repeated."""
    inputs = {"x": inference_pb2.Values(numbers=[1.0] * STEPS)}
    return inference_pb2.StepRequest(model="counter", session_id=session_id, seq=0, inputs=inputs)


async def check_repeat(scene: Scene, session_id: str) -> None:
    """The call made again is answered as if it had never been given up."""
    response = await scene.front.inference.Step(step(session_id))
    assert list(response.outputs["sum"].numbers) == list(SUMS.values())


@pytest.mark.parametrize("stage", STAGES)
async def test_a_call_that_is_cancelled_can_be_made_again(scene: Scene, stage: str) -> None:
    """Queued, it has not happened; from the cut on, its answer is kept."""
    opened = await scene.front.sessions.OpenSession(session_pb2.OpenSessionRequest(model="counter"))
    calls: list[Any] = []

    async def send() -> None:
        arrived = scene.arrivals.next(Call)
        calls.append(scene.front.inference.Step(step(opened.session.id)))
        await arrived

    await scene.queue(send)
    await scene.reach(stage)
    gone = scene.arrivals.next(CallersLeft)
    calls[0].cancel()
    await gone
    scene.go_on()
    await scene.check_mates()
    assert (await scene.get(opened.session.id)).next_seq == (0 if stage == "queued" else STEPS)
    await check_repeat(scene, opened.session.id)
    await scene.check_nothing_leaks()


@pytest.mark.parametrize("stage", STAGES)
async def test_a_call_whose_time_is_over_can_be_made_again(scene: Scene, stage: str) -> None:
    """Its caller hears DEADLINE_EXCEEDED whatever the engine does; the repeat finds the step, or runs it, once."""
    opened = await scene.front.sessions.OpenSession(session_pb2.OpenSessionRequest(model="counter"))
    calls: list[Any] = []
    gone: list[asyncio.Future[None]] = []

    async def send() -> None:
        arrived = scene.arrivals.next(Call)
        gone.append(scene.arrivals.next(CallersLeft))
        calls.append(scene.front.inference.Step(step(opened.session.id), timeout=0.3))
        await arrived

    await scene.queue(send)
    await scene.reach(stage)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await calls[0]
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await gone[0]
    scene.go_on()
    await scene.check_mates()
    await check_repeat(scene, opened.session.id)
    await scene.check_nothing_leaks()


async def test_a_stream_cut_while_its_answers_are_written_keeps_them_in_its_sessions(scene: Scene) -> None:
    """A client that does not read blocks its own stream in the middle of a write; cutting it there loses nothing."""
    sessions, steps = 16, 1024  # 128 KiB of answers to one block
    for other in (scene.mates, scene.busy):
        await other.open_stream()
    others = set(scene.front.rpc.streams._open)
    victim = CountingStream(scene.front.channel)
    opened = await victim.open("counter", range(sessions))
    (written,) = set(scene.front.rpc.streams._open) - others
    assert isinstance(written, Stream)
    rounds = 0
    while not rounds or not written._credits.in_flight:  # until flow control lets no more answers pass unread
        sent, counts = scene.arrivals.next(Block), [rounds * steps] * sessions
        await victim.step(range(sessions), counts, *[[1.0] * steps] * sessions, acked=u64(counts))
        await sent
        for each in opened:  # a snapshot of what is admitted waits for it
            request = session_pb2.ExportSessionRequest(model="counter", id=each.id, secret=each.secret)
            await scene.front.sessions.ExportSession(request)
        rounds += 1
    end = rounds * steps
    gone = scene.arrivals.next(StreamEnded)
    victim.cut()
    await gone
    while (call := await asyncio.wait_for(scene.front.ended.get(), 60))[1] != "Stream":
        pass
    assert call[2] == "CANCELLED"  # not a fault of the server's, whatever it was writing
    heir = CountingStream(scene.front.channel)
    asked = [
        inference_pb2.AttachSession(handle=handle, id=each.id, secret=each.secret, acked=end - 2)
        for handle, each in enumerate(opened)
    ]
    await heir.send(inference_pb2.StreamRequest(attach=inference_pb2.Attach(model="counter", sessions=asked)))
    attached = (await heir.receive()).attached
    assert [each.next_seq for each in attached.sessions] == [end] * sessions
    kept = await heir.sums(2 * sessions)
    assert kept == {(handle, seq): seq + 1.0 for handle in range(sessions) for seq in (end - 2, end - 1)}
    await scene.check_nothing_leaks(heir)


async def test_what_was_sent_to_a_session_that_had_ended_is_not_told_to_the_next_one(scene: Scene) -> None:
    """A handle may be used again once its detach was heard, though inputs sent before that are still on their way."""
    stream = CountingStream(scene.front.channel)
    (session,) = await stream.open("counter", [0])
    await scene.engage()

    async def arrives(kind: type, sending: Awaitable[Any]) -> None:
        arrived = scene.arrivals.next(kind)
        await sending
        await arrived

    request = session_pb2.CloseSessionRequest(model="counter", id=session.id, secret=session.secret)
    closed = scene.arrivals.next(Close)
    closing = asyncio.ensure_future(scene.front.sessions.CloseSession(request))
    await closed
    await arrives(Block, scene.busy.step([0], [1], [1.0]))  # for the turn that closes the session
    await scene.reach("computing")
    scene.mail.close()
    scene.launching.close()
    await arrives(Block, scene.busy.step([0], [2], [1.0]))  # for the turn after
    scene.computing.open()
    await wait_for(scene.launching.reached)
    await arrives(Block, stream.step([0], [0], [5.0]))  # the event loop has not been told yet
    scene.mail.open()
    assert (await stream.receive()).detached.handles == u32([0])
    await arrives(Open, stream.send_open("counter", [0]))
    scene.launching.open()
    assert (await stream.receive()).attached.sessions[0].handle == 0
    await stream.step([0], [0], [7.0])
    assert await stream.sums(1) == {(0, 0): 7.0}
    await closing
    assert await scene.busy.sums(3) == {(0, step): step + 1.0 for step in range(3)}
    await scene.check_nothing_leaks(stream)
