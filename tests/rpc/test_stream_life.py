"""A stream from its first metadata to its end: merging, credits, half-close, drain, crash."""

from __future__ import annotations

import asyncio

import grpc
import numpy as np

from stepstream_proto.v1 import common_pb2
from stepstream_server.config import DoorSettings
from support.front_door import CountingStream, FrontDoor, front_door, wait_for
from support.wire import u32


async def test_metadata_come_before_anything_else(front: FrontDoor) -> None:
    """Initial metadata are sent at once, so that nothing in between replays what a client has already sent."""
    call = front.inference.Stream()
    assert await call.initial_metadata() is not None
    call.cancel()


async def test_what_is_ready_together_leaves_together(front: FrontDoor, stream: CountingStream) -> None:
    """Blocks that were sent one by one are answered in one message if one turn computes them, here the second of two."""
    gate = front.models["counter"].gate
    await stream.open("counter", range(9))
    gate.close()
    await stream.step([8], [0], [1])
    await wait_for(gate.reached)
    for handle in range(8):
        await stream.step([handle], [0], [float(handle)])
    await stream.all_read()
    gate.open()
    handles = b""
    messages = []
    while len(handles) < 4 * 9:
        messages.append((await stream.receive()).answers)
        handles += messages[-1].handles
    assert handles == u32([8, *range(8)])
    assert len(messages) <= 2
    assert np.frombuffer(messages[-1].outputs[0], "<f4").tolist()[-8:] == list(range(8))


async def test_two_models_share_a_stream() -> None:
    """Answers of each model come in messages of their own, with its outputs."""
    async with front_door("one", "two") as front, CountingStream(front.channel) as stream:
        await stream.open("one", [0])
        await stream.open("two", [1])
        for seq in range(3):
            await stream.step([0], [seq], [1])
            await stream.step([1], [seq], [10])
        answers = await stream.sums(6)
        assert answers == {**{(0, seq): seq + 1 for seq in range(3)}, **{(1, seq): 10 * seq + 10 for seq in range(3)}}


async def test_half_close_waits_for_what_is_outstanding(front: FrontDoor, stream: CountingStream) -> None:
    """The server answers all it has read, then ends the stream with OK, and lets the sessions go."""
    gate = front.models["counter"].gate
    await stream.open("counter", [0])
    gate.close()
    await stream.step([0], [0], [1, 2, 3])
    await stream.half_close()
    await wait_for(gate.reached)
    gate.open()
    assert await stream.sums(3) == {(0, 0): 1, (0, 1): 3, (0, 2): 6}
    assert await stream.end() == (grpc.StatusCode.OK, "")
    assert await front.ended.get() == ("stepstream.v1.InferenceService", "Stream", "OK")


async def test_half_close_after_a_takeover_does_not_wait_for_ever(front: FrontDoor, stream: CountingStream) -> None:
    """Inputs whose session was taken have no outcome here: they are not waited for."""
    gate = front.models["counter"].gate
    first, _ = await stream.open("counter", [0, 1])
    gate.close()
    await stream.step([1], [0], [1])
    await wait_for(gate.reached)
    await stream.step([0], [0], [1, 2, 3])
    await stream.all_read()
    await stream.half_close()
    async with CountingStream(front.channel) as other:
        await other.send_attach("counter", 0, first.id, first.secret)
        await other.all_read()
        gate.open()
        assert (await other.receive()).attached.sessions[0].next_seq == 0
        assert await stream.sums(1) == {(1, 0): 1}
        assert (await stream.receive()).detached.handles == u32([0])
        assert await stream.end() == (grpc.StatusCode.OK, "")


async def test_a_stream_out_of_credit_is_not_read() -> None:
    """While as many steps are in flight as allowed nothing more is taken, though it could be answered at once."""
    async with (
        front_door(settings=DoorSettings(stream_credit_steps=4)) as front,
        CountingStream(front.channel) as stream,
        CountingStream(front.channel) as other,
    ):
        gate = front.models["counter"].gate
        await stream.open("counter", [0])
        gate.close()
        await stream.step([0], [0], [1, 1, 1, 1])
        await wait_for(gate.reached)
        await stream.step([7], [0], [1])
        reading = asyncio.create_task(stream.receive())
        await other.all_read()
        assert not reading.done()
        gate.open()
        assert not (await reading).answers.errors
        assert await stream.errors(1) == [(7, 0, 1, "HANDLE_UNKNOWN", 0)]


async def test_credits_return_whatever_the_outcome() -> None:
    """Refusals, resets, unknown handles, detaches and kept answers sent again: none of them uses credit up for good."""
    async with front_door(settings=DoorSettings(stream_credit_steps=2)) as front, CountingStream(front.channel) as stream:
        (opened,) = await stream.open("counter", [0])
        for round_ in range(3):
            await stream.step([0], [99], [1, 1])
            await stream.step([5], [0], [1, 1])
            await stream.step([0], [round_], [float("nan")])
            assert len(await stream.errors(3)) == 3
            await stream.step([0], [round_], [1], outputs=common_pb2.OUTPUTS_NONE)
            assert (await stream.receive()).answers.kept == u32([0])
        await stream.attach("counter", 1, opened.id, opened.secret)
        messages = [await stream.receive() for _ in range(2)]  # the former handle is detached, the kept answers come again
        assert {each.WhichOneof("message") for each in messages} == {"detached", "answers"}
        await stream.half_close()
        assert (await stream.end())[0] is grpc.StatusCode.OK


async def test_draining_is_told_on_every_stream(front: FrontDoor, stream: CountingStream) -> None:
    """Streams hear when they will be ended, new ones are refused, and what was read is answered before the end."""
    gate = front.models["counter"].gate
    await stream.open("counter", [0])
    gate.close()
    await stream.step([0], [0], [1])
    await wait_for(gate.reached)
    async with CountingStream(front.channel) as other:
        await other.open_stream()
        front.rpc.streams.drain(12.5)
        for each in (stream, other):
            assert (await each.receive()).drain.deadline.ToTimedelta().total_seconds() == 12.5
        finishing = asyncio.create_task(front.rpc.streams.finish(60, goodbye_seconds=0))
        assert await other.end() == (grpc.StatusCode.OK, "")
        async with CountingStream(front.channel) as late:
            code, _ = await late.end()
            assert code is grpc.StatusCode.UNAVAILABLE
        gate.open()
        assert await stream.sums(1) == {(0, 0): 1}
        assert await stream.end() == (grpc.StatusCode.OK, "")
        assert await finishing


async def test_a_client_that_says_goodbye_is_waited_for(front: FrontDoor, stream: CountingStream) -> None:
    """A stream that is about to be ended is read on until its client half-closes, and so ends as any other."""
    await stream.open("counter", [0])
    front.rpc.streams.drain(60)
    finishing = asyncio.create_task(front.rpc.streams.finish(60, goodbye_seconds=30))
    assert (await stream.receive()).HasField("drain")
    for seq in range(3):
        await stream.step([0], [seq], [1])
        assert await stream.sums(1) == {(0, seq): seq + 1}
    await stream.half_close()
    assert await stream.end() == (grpc.StatusCode.OK, "")
    assert await finishing


async def test_finishing_gives_up_after_its_time(front: FrontDoor, stream: CountingStream) -> None:
    """Streams whose steps do not end in time are left to the server's stop."""
    gate = front.models["counter"].gate
    await stream.open("counter", [0])
    gate.close()
    await stream.step([0], [0], [1])
    await wait_for(gate.reached)
    assert not await front.rpc.streams.finish(0.001)


async def test_an_engine_crash_ends_its_streams(front: FrontDoor, stream: CountingStream) -> None:
    """Whoever waits hears ENGINE_FAILED; so does whoever comes later."""
    model = front.models["counter"]
    await stream.open("counter", [0])
    model.backend.broken = True
    await stream.step([0], [0], [1])
    code, details = await stream.end()
    assert code is grpc.StatusCode.INTERNAL
    assert "counter" in details
    async with CountingStream(front.channel) as late:
        await late.send_open("counter", [0])
        opened = await late.receive()
        assert [each.error.reason for each in opened.attached.sessions] == ["ENGINE_FAILED"]
    assert [str(crash) for crash in model.crashes] == ["the device fell off the bus"]


async def test_streams_are_bounded() -> None:
    """Beyond the limit a stream is refused; an ended one makes room."""
    async with front_door(settings=DoorSettings(max_streams=1)) as front:
        async with CountingStream(front.channel) as first:
            await first.open("counter", [0])
            async with CountingStream(front.channel) as second:
                assert (await second.end())[0] is grpc.StatusCode.RESOURCE_EXHAUSTED
            await front.ended.get()
            await first.half_close()
            assert (await first.end())[0] is grpc.StatusCode.OK
        async with CountingStream(front.channel) as third:
            assert len(await third.open("counter", [0])) == 1
