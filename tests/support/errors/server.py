"""What is wrong with the request as such, or with the server. Each scenario's docstring is the situation in docs/errors.md."""

from __future__ import annotations

import asyncio
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import grpc
import numpy as np

from stepstream_proto.v1 import common_pb2, inference_pb2, inference_pb2_grpc, model_pb2
from stepstream_server.bundles import write
from stepstream_server.config import DoorSettings
from stepstream_server.engine.ports import Drain
from support.errors.desk import ALONE, Desk, desk
from support.errors.heard import Heard
from support.front_door import CountingStream, front_door, wait_for
from support.models import random_model
from support.process import server_process
from support.server import serving
from support.wire import StreamRequest, WireStream, block, u32
from support.workers import working_server


async def no_such_model(heard: Heard) -> None:
    """No model of this name and version is served."""
    async with desk() as at, at.client() as client:
        await heard.client(client.open_session("nothing"))
        await heard.call(at.get("a", model="nothing"))
        await heard.call(at.front.catalogue.GetModel(model_pb2.GetModelRequest(name="counter", version=9)))
        await at.send_open([1], model="nothing")
        await heard.attached(at.stream)


async def warming_up(heard: Heard) -> None:
    """The server is warming its models up."""
    async with front_door(publish=False) as front, CountingStream(front.channel) as stream:
        at = Desk(front, stream)
        async with at.client() as client:
            await heard.client(client.models())
        await heard.call(at.open())
        await at.send_open([0])
        await heard.attached(stream)


async def malformed(heard: Heard) -> None:
    """A field is not as it must be."""
    async with desk() as at, at.client() as client:
        await heard.client(client.open_session("counter", id="no spaces"))
        await heard.call(at.open("no spaces"))
        await heard.call(at.step(1, []))
        await at.send_open([1], ["no spaces"])
        await heard.attached(at.stream)
        await at.stream.send(block([0], [1], [2], np.zeros(1, np.float32)))
        await heard.row(at.stream)


async def unreadable(heard: Heard) -> None:
    """A message of a stream cannot be read so far that its rows could be answered one by one: the stream ends."""
    async with desk() as at:
        await at.stream.send(StreamRequest())
        await heard.call(at.stream.all_read())


async def unparsable(heard: Heard) -> None:
    """The bytes are no message of the call's type: a stream ends."""
    async with front_door() as front:
        noise, channel = b"\xff" * 9, cast("Any", front.channel)
        await heard.call(channel.unary_unary("/stepstream.v1.InferenceService/Step")(noise))
        stream = channel.stream_stream("/stepstream.v1.InferenceService/Stream")()
        await stream.write(noise)
        await heard.call(stream.read())


async def too_large(heard: Heard) -> None:
    """More steps than `door.max_block_steps`, or more sessions than 10,000, in one message."""
    async with desk(DoorSettings(max_block_steps=4)) as at:
        await heard.call(at.step(1, [1.0] * 5))
        await at.stream.step([0], [1], [1.0] * 5)
        await heard.row(at.stream)
    async with desk() as at:
        await at.send_open(range(1, 10_002))
        attached = (await at.stream.receive()).attached
        heard.session(attached.sessions[0].error)


async def answer_too_large(heard: Heard) -> None:
    """The answer to one step, all answers of a `Step`, or a snapshot would be larger than `door.max_message_bytes`."""
    small = DoorSettings(max_message_bytes=4096)
    async with desk(small) as at, at.client() as client:
        await heard.client(client.export_session("counter", ALONE))
        await heard.call(at.step(1, [1.0] * 400))
        await heard.call(at.export())
    with TemporaryDirectory() as folder:
        write(Path(folder) / "wide", *random_model(inputs=1, outputs=1200, name="wide"))
        async with (
            serving(Path(folder), door=small) as bound,
            grpc.aio.insecure_channel(bound.listen) as channel,
            WireStream(channel) as stream,
        ):
            await stream.open("wide", [0])
            request = block([0], [0], [1], np.zeros(1, np.float32))
            request.block.outputs = common_pb2.OUTPUTS_NONE
            await stream.send(request)
            await stream.receive()
            await stream.send(block([0], [1], [1], np.zeros(1, np.float32)))
            await heard.row(stream)


async def no_more_steps(heard: Heard) -> None:
    """The server is about to stop: it finishes what was admitted and takes no more steps."""
    async with desk() as at:
        await drain(at)
        await at.stream.step([0], [1], [1.0])
        await heard.row(at.stream)
        await heard.call(at.step(1, [1.0]))
        async with at.client() as client:
            await heard.client(client.step("counter", ALONE, [1.0], seq=1))


async def no_more_sessions(heard: Heard) -> None:
    """The server is about to stop: no sessions are opened or attached, no rollouts begun, and no streams."""
    async with desk() as at:
        await drain(at)
        await heard.call(at.open())
        await heard.call(at.generate())
        await at.send_open([1])
        await heard.attached(at.stream)
        async with CountingStream(at.front.channel) as late:
            await heard.call(late.receive())
        async with at.client() as client:
            await heard.client(client.open_session("counter"))


async def too_many_streams(heard: Heard) -> None:
    """All `door.max_streams` streams are in use."""
    async with desk(DoorSettings(max_streams=1)) as at, CountingStream(at.front.channel) as another:
        await heard.call(another.receive())
        async with at.client() as client:
            await heard.client(client.open_session("counter"))


async def too_many_calls(heard: Heard) -> None:
    """All `door.max_calls` calls other than streams are in use."""
    async with desk(DoorSettings(max_calls=1)) as at, at.client() as client:
        gate = at.front.models["counter"].gate
        gate.close()
        waiting = asyncio.ensure_future(at.step(1, [1.0]))
        await wait_for(gate.reached)
        await heard.call(at.get(ALONE))
        await heard.client(client.models())
        gate.open()
        await waiting


async def replaced(heard: Heard) -> None:
    """A newer stream of the same client, by the metadata `stepstream-client`, has taken this one's place: it ends."""
    async with desk() as at:
        older, newer = (at.front.inference.Stream(metadata=place(number)) for number in "12")
        await older.initial_metadata()
        await newer.initial_metadata()
        await heard.call(older.read())
        newer.cancel()


def place(number: str) -> tuple[tuple[str, str], ...]:
    """The metadata of one client's stream."""
    return ("stepstream-client", "somebody"), ("stepstream-stream", number)


async def replaced_elsewhere(heard: Heard) -> None:
    """A newer stream of the same client has opened or attached sessions over another worker: this one gets none."""
    with TemporaryDirectory() as folder:
        write(Path(folder) / "small", *random_model(name="small"))
        async with working_server(Path(folder), 2) as server:
            stubs = [inference_pb2_grpc.InferenceServiceStub(each.channel) for each in await server.connect_to_each()]
            older, newer = (stub.Stream(metadata=place(number)) for stub, number in zip(stubs, "12", strict=True))
            request = StreamRequest(open=inference_pb2.OpenOnStream(model="small", handles=u32([0])))
            await newer.write(request)
            assert (await newer.read()).attached.sessions[0].id
            await older.write(request)
            heard.session((await older.read()).attached.sessions[0].error)
            for call in (older, newer):
                call.cancel()


async def unread(heard: Heard) -> None:
    """More than `door.max_unread_bytes` wait to be read by clients, and most of them on this stream, which ends."""
    async with front_door(settings=DoorSettings(max_unread_bytes=1)) as front, CountingStream(front.channel) as stream:
        await heard.call(stream.open("counter", [0]))


async def broken(heard: Heard) -> None:
    """What computes the model has failed: every call and stream of it ends, and then the server."""
    async with desk() as at, at.client() as client:
        await client.model("counter")
        at.front.models["counter"].backend.broken = True
        await heard.call(at.step(1, [1.0]))
        await heard.call(at.stream.receive())
        await heard.call(at.open())
        await heard.client(client.get_session("counter", ALONE))


async def lost(heard: Heard) -> None:
    """The process that computes has ended, and its sessions with it: every call and stream of its workers ends."""
    with TemporaryDirectory() as folder:
        write(Path(folder) / "small", *random_model(name="small"))
        async with (
            server_process(Path(folder), "--workers", "1") as server,
            grpc.aio.insecure_channel(server.listen) as channel,
            WireStream(channel) as stream,
        ):
            await stream.open("small", [0])
            server.process.kill()
            await heard.call(stream.receive())
            await server.ended()


async def drain(at: Desk) -> None:
    """As the server does it: engines first, then the streams are told."""
    for model in at.front.models.values():
        await model.door.ask(Drain)
    at.front.rpc.streams.drain(30.0)
    assert (await at.stream.receive()).HasField("drain")


SCENARIOS = (
    no_such_model,
    warming_up,
    malformed,
    unreadable,
    unparsable,
    too_large,
    answer_too_large,
    no_more_steps,
    no_more_sessions,
    too_many_streams,
    too_many_calls,
    unread,
    replaced,
    replaced_elsewhere,
    broken,
    lost,
)
