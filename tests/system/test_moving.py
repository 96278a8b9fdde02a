"""Clients move their sessions off a server that is about to stop: it stays until they have, and no longer."""

from __future__ import annotations

import json
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from stepstream_proto.v1.inference_pb2 import (
    DETACH_REASON_REQUESTED,
    DETACH_REASON_SESSION_MOVED,
    Acknowledge,
    AttachedSession,
    Detach,
    StreamRequest,
)
from stepstream_proto.v1.model_pb2 import GetModelRequest
from stepstream_proto.v1.model_pb2_grpc import ModelServiceStub
from stepstream_proto.v1.session_pb2 import (
    CloseSessionRequest,
    ExportSessionRequest,
    ExportSessionResponse,
    ForkSessionRequest,
    GetSessionRequest,
    ImportSessionRequest,
    ListSessionsRequest,
    OpenSessionRequest,
)
from stepstream_proto.v1.session_pb2_grpc import SessionServiceStub
from support import crashing_server
from support.front_door import CountingStream
from support.health import NOT_SERVING, SERVING, health
from support.process import COMMAND, FLAGS, ServerProcess, server_process
from support.wire import block, read_to_end, steps_of, u32, u64
from support.workers import working_server

# Who speaks gRPC: the process that computes, or workers. On which thread it computes is of no matter here.
FRONTS = {name: flags for name, flags in FLAGS.items() if name != "on the thread"}
FOREVER = ("--door.drain_seconds", "3600")  # who waits for the end of that fails


@dataclass
class Draining:
    """A server that has been told to stop, and a stream whose client has heard of it."""

    server: ServerProcess
    channel: grpc.aio.Channel
    stream: CountingStream
    sessions: list[AttachedSession]  # that it holds, under handles from 0 on, each after two steps

    async def log(self) -> list[dict[str, Any]]:
        """Waits for the server's good end."""
        code, log = await self.server.ended()
        assert code == 0
        return [json.loads(line) for line in log.splitlines()]


async def hold(stream: CountingStream, sessions: int) -> list[AttachedSession]:
    """Opens so many sessions on a stream, and takes two steps of each."""
    handles = range(sessions)
    await stream.open_stream()
    opened = await stream.open("small", handles) if sessions else []
    readings = np.random.default_rng(0).normal(size=(2 * sessions, 2)).astype(np.float32)
    await stream.send(block(handles, [0] * sessions, [2] * sessions, readings))
    answered = 0
    while answered < 4 * sessions:  # bytes of handles
        answered += len((await stream.receive()).answers.handles)
    return opened


@asynccontextmanager
async def draining(models: Path, sessions: int, *flags: str, program: tuple[str, ...] = COMMAND) -> AsyncIterator[Draining]:
    """A server that is told to stop while a stream holds so many sessions."""
    async with (
        server_process(models, *flags, program=program) as server,
        grpc.aio.insecure_channel(server.listen) as channel,
        CountingStream(channel) as stream,
    ):
        opened = await hold(stream, sessions)
        server.process.send_signal(signal.SIGTERM)
        assert (await stream.receive()).HasField("drain")
        yield Draining(server, channel, stream, opened)


async def export(channel: grpc.aio.Channel, session: AttachedSession, *, close: bool = True) -> ExportSessionResponse:
    """A snapshot of a session."""
    request = ExportSessionRequest(model="small", id=session.id, secret=session.secret, close=close)
    response: ExportSessionResponse = await SessionServiceStub(channel).ExportSession(request)
    return response


async def detached(stream: CountingStream) -> list[int]:
    """Reads that sessions have moved; returns their handles."""
    message = (await stream.receive()).detached
    assert message.reason == DETACH_REASON_SESSION_MOVED
    return list(np.frombuffer(message.handles, "<u4"))


@pytest.mark.parametrize("flags", FRONTS.values(), ids=list(FRONTS))
async def test_a_client_moves_all_of_its_sessions(models: Path, flags: list[str]) -> None:
    """One after the other, over connections of its own, to a server that goes on with them; then this one ends."""
    async with (
        server_process(models) as other,
        grpc.aio.insecure_channel(other.listen) as there,
        draining(models, 200, *flags, *FOREVER) as here,
    ):
        moved = list[int]()
        for session in here.sessions:
            async with grpc.aio.insecure_channel(here.server.listen) as channel:
                snapshot = (await export(channel, session)).snapshot
            imported = await SessionServiceStub(there).ImportSession(ImportSessionRequest(snapshot=snapshot))
            assert (imported.session.id, imported.session.next_seq, imported.bitwise) == (session.id, 2, True)
            moved += await detached(here.stream)
        assert moved == list(range(200))
        await here.stream.half_close()
        assert await here.stream.end() == (grpc.StatusCode.OK, "")
        events = (await here.log())[-2:]
    assert [(each["event"], each["level"]) for each in events] == [("draining", "info"), ("drained", "info")]
    assert (events[0]["streams"], events[0]["sessions"]) == (1, 200)
    assert (events[1]["complete"], events[1]["sessions_lost"]) == (True, 0)


@pytest.mark.parametrize("flags", FRONTS.values(), ids=list(FRONTS))
async def test_what_moving_needs_is_there(models: Path, flags: list[str]) -> None:
    """On connections made before and after the signal: models, health, sessions to look at, to copy and to close."""
    async with draining(models, 4, *flags, *FOREVER) as here, grpc.aio.insecure_channel(here.server.listen) as new:
        for place, channel in enumerate((here.channel, new)):
            sessions, (copied, *_) = SessionServiceStub(channel), here.sessions
            assert (await health(channel, "readiness"), await health(channel, "liveness")) == (NOT_SERVING, SERVING)
            assert (await ModelServiceStub(channel).GetModel(GetModelRequest(name="small"))).model.name == "small"
            assert (await sessions.GetSession(GetSessionRequest(model="small", id=copied.id))).session.attached
            assert len((await sessions.ListSessions(ListSessionsRequest(model="small"))).sessions) == 4 - place
            assert (await export(channel, copied, close=False)).next_seq == 2
            closed = here.sessions[1 + place]
            await sessions.CloseSession(CloseSessionRequest(model="small", id=closed.id, secret=closed.secret))
            assert (await here.stream.receive()).detached.handles == u32([1 + place])
        await here.stream.half_close()
        assert await here.stream.end() == (grpc.StatusCode.OK, "")
        assert (await here.log())[-1]["sessions_lost"] == 2


async def test_a_stream_that_waits_to_move_is_served(models: Path) -> None:
    """Kept answers come again, acknowledgements are heard, and who detaches is let go; nothing else begins."""
    async with draining(models, 2, *FOREVER) as here:
        stream, sessions = here.stream, SessionServiceStub(here.channel)
        first, second = here.sessions
        await stream.send(block([0], [0], [2], np.zeros((2, 2), np.float32)))
        assert len(steps_of((await stream.receive()).answers)[0]) == 2
        await stream.send(StreamRequest(acknowledge=Acknowledge(handles=u32([0]), counts=u64([2]))))
        await stream.send(block([0], [2], [1], np.zeros((1, 2), np.float32)))
        (row,) = (await stream.receive()).answers.errors
        (opened,) = await stream.open("small", [5])
        (attached,) = (await stream.attach("small", 6, second.id, second.secret)).sessions
        forked = await sessions.ForkSession(ForkSessionRequest(model="small", id=first.id, secret=first.secret))
        refused = [each.error.reason for each in (row, opened, attached, *forked.sessions)]
        assert refused == ["SERVER_DRAINING"] * 4
        snapshot = (await export(here.channel, first, close=False)).snapshot
        for call in (
            sessions.ImportSession(ImportSessionRequest(snapshot=snapshot, id="another")),
            SessionServiceStub(here.channel).OpenSession(OpenSessionRequest(model="small")),
        ):
            assert await call.code() is grpc.StatusCode.UNAVAILABLE
        assert (await sessions.GetSession(GetSessionRequest(model="small", id=first.id))).session.acked == 2
        await stream.send(StreamRequest(detach=Detach(handles=u32([0, 1]))))
        assert (await stream.receive()).detached.reason == DETACH_REASON_REQUESTED
        assert await stream.end() == (grpc.StatusCode.OK, "")  # though it has not half-closed
        await here.log()


@pytest.mark.parametrize("flags", FRONTS.values(), ids=list(FRONTS))
async def test_a_client_that_never_lets_go_is_not_waited_for_for_ever(models: Path, flags: list[str]) -> None:
    """Its stream ends when the time is over; the log warns of what is lost."""
    async with draining(models, 3, *flags, "--door.drain_seconds", "0.2") as here:
        assert await here.stream.end() == (grpc.StatusCode.OK, "")
        last = (await here.log())[-1]
    assert (last["event"], last["level"], last["sessions_lost"]) == ("drained", "warning", 3)


@pytest.mark.parametrize("flags", FRONTS.values(), ids=list(FRONTS))
async def test_a_stream_without_sessions_holds_nobody_up(models: Path, flags: list[str]) -> None:
    """Though its client neither half-closes nor leaves."""
    async with draining(models, 0, *flags, *FOREVER) as here:
        assert await here.stream.end() == (grpc.StatusCode.OK, "")
        assert (await here.log())[-1]["complete"]


async def test_all_workers_are_there_until_the_last_session_has_moved(models: Path) -> None:
    """A client that waits at one worker is served by the other, too."""
    async with working_server(models, 2, *FOREVER) as running:
        first, second = [each.channel for each in await running.connect_to_each()]
        stream = CountingStream(first)
        sessions = await hold(stream, 2)
        running.server.process.send_signal(signal.SIGTERM)
        assert (await stream.receive()).HasField("drain")
        for session in sessions:
            await export(second, session)
            await detached(stream)
        assert await stream.end() == (grpc.StatusCode.OK, "")
        code, log = await running.server.ended()
        assert code == 0
        assert json.loads(log.splitlines()[-1])["complete"]


@pytest.mark.parametrize(
    ("flags", "code"),
    [(["--workers", "0"], -signal.SIGTERM), (["--workers", "2"], -signal.SIGTERM), (["--on_failure", "restart"], 128 + 15)],
    ids=["alone", "2 workers", "supervised"],
)
async def test_a_second_signal_ends_at_once_what_waits_for_its_clients(models: Path, flags: list[str], code: int) -> None:
    """Whoever does not want to wait need not."""
    async with draining(models, 1, *flags, *FOREVER) as here:
        await export(here.channel, here.sessions[0], close=False)
        here.server.process.send_signal(signal.SIGTERM)
        _, log = await here.server.ended()
        assert here.server.process.returncode == code
        assert "Traceback" not in log


async def test_an_engine_that_crashes_meanwhile(models: Path) -> None:
    """Who waits to move sessions hears of it, and the exit code is 1."""
    async with draining(models, 1, *FOREVER, program=(crashing_server.__file__,)) as here:
        with pytest.raises(grpc.aio.AioRpcError, match="has failed"):
            await export(here.channel, here.sessions[0])
        _, end = await read_to_end(here.stream)
        assert "the engine of model 'small' has failed" in end
        assert (await here.server.ended())[0] == 1


async def test_the_process_that_computes_is_lost_meanwhile(models: Path) -> None:
    """Who waits to move sessions hears ENGINE_LOST from its worker."""
    async with draining(models, 1, "--workers", "2", *FOREVER) as here:
        here.server.process.kill()
        _, end = await read_to_end(here.stream)
        assert "the process that computes has ended" in end
        await here.server.ended()
