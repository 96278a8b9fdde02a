"""Stopping, looked at closely: a server in this process whose computing a test can hold up."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import numpy as np
import pytest

from stepstream_proto.v1 import session_pb2, session_pb2_grpc
from stepstream_server.app import serve
from stepstream_server.config import Settings
from support.front_door import CountingStream, wait_for
from support.gated_server import Running, running
from support.health import NOT_SERVING, SERVING, health
from support.wire import WireStream, block


async def step_held(server: Running, stream: WireStream) -> None:
    """Opens session 0 and sends it a step, which the gate holds."""
    await stream.open("small", [0])
    server.gate.close()
    await stream.send(block([0], [0], [1], np.ones((1, 2), np.float32)))
    await wait_for(server.gate.reached)


async def test_a_draining_server_finishes_and_begins_nothing(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a step is still computed: not ready but alive, no new sessions or streams; then it is answered and all ends."""
    async with running(models, monkeypatch) as server, grpc.aio.insecure_channel(server.bound.listen) as channel:
        async with CountingStream(channel) as stream:
            await step_held(server, stream)
            await stream.send_open("small", [1])
            await stream.all_read()
            server.stop.set()
            assert (await stream.receive()).drain.deadline.ToTimedelta().total_seconds() == 30
            opening = session_pb2_grpc.SessionServiceStub(channel).OpenSession(session_pb2.OpenSessionRequest(model="small"))
            assert await health(channel, "readiness") == NOT_SERVING
            assert await health(channel, "liveness") == SERVING
            await stream.send_open("small", [2])
            async with CountingStream(channel) as late:
                assert (await late.end())[0] is grpc.StatusCode.UNAVAILABLE
            assert not server.code.done()
            server.gate.open()
            messages = [await stream.receive() for _ in range(3)]
            answers = [message.answers for message in messages if message.HasField("answers")]
            attached = [message.attached.sessions[0] for message in messages if message.HasField("attached")]
            assert len(answers) == 1
            assert [(each.handle, each.error.reason) for each in attached] == [(1, ""), (2, "SERVER_DRAINING")]
            await stream.half_close()
            assert (await stream.end())[0] is grpc.StatusCode.OK
        assert await opening.code() is grpc.StatusCode.UNAVAILABLE
        assert await server.code == 0


async def test_draining_gives_up_in_time(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes longer than `drain_seconds` is cut off, and the server ends all the same."""
    async with running(models, monkeypatch, drain_seconds=0) as server:
        async with grpc.aio.insecure_channel(server.bound.listen) as channel, CountingStream(channel) as stream:
            await step_held(server, stream)
            server.stop.set()
            assert (await stream.receive()).HasField("drain")
            code, _ = await stream.end()
            assert code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
            server.gate.open()
        assert await server.code == 0


async def test_a_stop_before_the_models_are_warm_is_heeded(models: Path) -> None:
    """A server that is told to stop while it starts ends well, without a drain that finds nothing."""
    stop = asyncio.Event()
    stop.set()
    given = {"models": models, "listen": "127.0.0.1:0", "metrics": "127.0.0.1:0"}
    assert await serve(Settings.model_validate(given), stop=stop, on_started=lambda bound: None) == 0
