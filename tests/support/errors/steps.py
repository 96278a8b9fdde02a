"""Steps that are refused, or that fail. Each scenario's docstring is the situation in docs/errors.md."""

from __future__ import annotations

import asyncio
from pathlib import Path
from tempfile import TemporaryDirectory

import grpc
import numpy as np
from google.protobuf.duration_pb2 import Duration

from stepstream import Client
from stepstream_proto.v1 import common_pb2, inference_pb2, inference_pb2_grpc, session_pb2, session_pb2_grpc
from stepstream_server.bundles import write
from stepstream_server.config import DoorSettings
from support.errors.desk import POISON, VENOM, desk
from support.errors.heard import Heard
from support.models import random_model
from support.server import serving
from support.wire import WireStream, block, u32

NONE = common_pb2.OUTPUTS_NONE


async def a_gap(heard: Heard) -> None:
    """The input's number is above the next one that the session accepts."""
    async with desk() as at:
        await at.stream.step([0], [5], [1.0])
        await heard.row(at.stream)
        await heard.call(at.step(5, [1.0]))


async def behind_a_failure(heard: Heard) -> None:
    """An input that was sent before this one failed; this one has a number."""
    async with desk() as at, at.client() as client:
        session = await client.open_session("counter")
        failing, behind = asyncio.ensure_future(session.step([POISON])), asyncio.ensure_future(session.step([1.0]))
        await heard.client(behind)
        await Heard().client(failing)
        await at.stream.step([0], [1], [np.nan])
        await at.stream.step([0], [2], [1.0])
        await heard.row(at.stream, seq=2)


async def acknowledged(heard: Heard) -> None:
    """A step is repeated whose answer has been acknowledged."""
    async with desk() as at, at.client() as client:
        session = await client.open_session("counter")
        await session.step([1.0])
        await session.step([1.0])  # acknowledges the first
        again = await client.attach_session("counter", session.id, session.secret, acked=0)
        await heard.client(again.step([1.0]))
        await at.acknowledge(1)
        await at.stream.step([0], [0], [1.0])
        await heard.row(at.stream)
        await at.step(1, [1.0])
        await heard.call(at.step(0, [1.0]))


async def not_kept(heard: Heard) -> None:
    """A step is repeated that asks for more outputs than it did when it was applied."""
    async with desk() as at, at.client() as client:
        session = await client.open_session("counter")
        await session.chunk([[1.0]], outputs="none")
        again = await client.attach_session("counter", session.id, session.secret, acked=0)
        await heard.client(again.step([1.0]))
        await at.stream.step([0], [1], [1.0], outputs=NONE)
        await at.stream.step([0], [1], [1.0])
        await heard.row(at.stream)
        await at.step(1, [1.0], outputs=NONE)
        await heard.call(at.step(1, [1.0]))


async def window_full(heard: Heard) -> None:
    """The input and the answers not acknowledged are more than the window, in steps or in bytes."""
    async with desk(window_steps=2) as at:
        await at.stream.step([0], [1], [1.0, 1.0])
        await heard.row(at.stream)
        await heard.call(at.step(1, [1.0, 1.0, 1.0]))


async def queue_full(heard: Heard) -> None:
    """`engine.max_pending_steps` are waiting, or the answers kept for repeats fill `engine.cache_bytes`."""
    async with desk(max_pending_steps=1) as at, at.client() as client:
        session = await client.open_session("counter")
        await heard.client(session.chunk([[1.0], [1.0]]))
        await at.stream.step([0], [1], [1.0, 1.0])
        await heard.row(at.stream)
        await heard.call(at.step(1, [1.0, 1.0]))


async def too_late(heard: Heard) -> None:
    """The step's time was over before it began to run."""
    async with desk(DoorSettings(step_timeout_seconds=1e-9)) as at:
        await at.stream.step([0], [1], [1.0], timeout=Duration(nanos=1))
        await heard.row(at.stream)
        await heard.call(at.step(1, [1.0]))


async def not_a_number(heard: Heard) -> None:
    """An input holds NaN or infinity."""
    async with desk() as at, at.client() as client:
        session = await client.open_session("counter")
        await heard.client(session.step([np.nan]))
        await at.stream.step([0], [1], [np.nan])
        await heard.row(at.stream)
        await heard.call(at.step(1, [np.inf]))


async def no_such_token(heard: Heard) -> None:
    """A number of an input is beyond the model's `limit` or `range`."""
    with TemporaryDirectory() as folder:
        write(Path(folder) / "text", *random_model(outputs=8, tokens=8, name="text"))
        async with serving(Path(folder)) as bound, grpc.aio.insecure_channel(bound.listen) as channel:
            sessions, inference = session_pb2_grpc.SessionServiceStub(channel), inference_pb2_grpc.InferenceServiceStub(channel)
            async with WireStream(channel) as stream:
                await stream.open("text", [0])
                await stream.send(block([0], [0], [2], np.array([1, 1])))
                while not (await stream.receive()).answers.handles:
                    pass
                await stream.send(block([0], [2], [1], np.array([8])))
                await heard.row(stream)
            await sessions.OpenSession(session_pb2.OpenSessionRequest(model="text", id="a"))
            request = inference_pb2.StepRequest(model="text", session_id="a", inputs={"x": inference_pb2.Values(numbers=[1])})
            await inference.Step(request)
            request.inputs["x"].numbers[:] = [-1]
            await heard.call(inference.Step(request))
            async with Client(bound.listen) as client:
                await heard.client(client.step("text", "a", 8))


async def leaving_the_numbers(heard: Heard) -> None:
    """The step would have made the state or an output infinite or not a number."""
    async with desk() as at, at.client() as client:
        session = await client.open_session("counter")
        await heard.client(session.step([POISON]))
        await at.stream.step([0], [1], [POISON])
        await heard.row(at.stream)
        await heard.call(at.step(1, [POISON]))


async def failing(heard: Heard) -> None:
    """The model raised an error at the step."""
    async with desk() as at, at.client() as client:
        session = await client.open_session("counter")
        await heard.client(session.step([VENOM]))
        await at.stream.step([0], [1], [VENOM])
        await heard.row(at.stream)
        await heard.call(at.step(1, [VENOM]))


async def quarantined(heard: Heard) -> None:
    """A step is sent to a session that is quarantined."""
    async with desk() as at, at.client() as client:
        session = await client.open_session("counter")
        await Heard().client(session.step([POISON]))
        await heard.client(session.step([1.0]))
        await at.stream.step([0], [1], [POISON])
        await at.stream.errors(1)
        await at.stream.step([0], [1], [1.0])
        await heard.row(at.stream)
        await Heard().call(at.step(1, [POISON]))
        await heard.call(at.step(1, [1.0]))


async def unknown_handle(heard: Heard) -> None:
    """The handle stands for no session on this stream."""
    async with desk() as at:
        await at.stream.step([7], [0], [1.0])
        await heard.row(at.stream)
        await at.stream.send(inference_pb2.StreamRequest(detach=inference_pb2.Detach(handles=u32([7]))))
        await heard.detach(at.stream)


async def mixed_models(heard: Heard) -> None:
    """One block names sessions of several models."""
    async with desk() as at:
        await at.send_open([1], model="other")
        await at.stream.receive()
        await at.stream.step([0, 1], [1, 0], [1.0], [1.0])
        await heard.row(at.stream, seq=1)


SCENARIOS = (
    a_gap,
    behind_a_failure,
    acknowledged,
    not_kept,
    window_full,
    queue_full,
    too_late,
    not_a_number,
    no_such_token,
    leaving_the_numbers,
    failing,
    quarantined,
    unknown_handle,
    mixed_models,
)
