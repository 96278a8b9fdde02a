"""How a front door stops: streams that hold sessions are waited for, then ended, and calls that are under way are answered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import grpc
import pytest

from stepstream_proto.v1.inference_pb2 import AttachedSession, Detach, StreamRequest
from stepstream_proto.v1.session_pb2 import (
    CloseSessionRequest,
    CloseSessionResponse,
    ExportSessionRequest,
    ExportSessionResponse,
    GetSessionRequest,
    OpenSessionRequest,
)
from stepstream_server import snapshots
from stepstream_server.engine.ports import Command, Drain
from stepstream_server.rpc import server
from stepstream_server.rpc.boundary import Boundary
from support.front_door import CountingStream, FrontDoor, Gate, front_door, wait_for
from support.wire import u32

DETACH = StreamRequest(detach=Detach(handles=u32([0])))


async def export(front: FrontDoor, session: AttachedSession, *, close: bool = True) -> ExportSessionResponse:
    """A snapshot of a session."""
    request = ExportSessionRequest(model="counter", id=session.id, secret=session.secret, close=close)
    response: ExportSessionResponse = await front.sessions.ExportSession(request)
    return response


def close(front: FrontDoor, session: AttachedSession) -> Awaitable[CloseSessionResponse]:
    """Closes a session."""
    request = CloseSessionRequest(model="counter", id=session.id, secret=session.secret)
    response: Awaitable[CloseSessionResponse] = front.sessions.CloseSession(request)
    return response


@asynccontextmanager
async def lingering() -> AsyncIterator[tuple[FrontDoor, asyncio.Task[bool], CountingStream, AttachedSession]]:
    """A front door that waits for a stream which holds a session and has been told so."""
    waiting = asyncio.Event()

    def tap(command: Command) -> None:
        if isinstance(command, Drain) and command.until_let_go:
            waiting.set()

    async with front_door(tap=tap) as front, CountingStream(front.channel) as stream:
        (session,) = await stream.open("counter", [0])
        draining = asyncio.create_task(front.rpc.drain(3600))
        assert (await stream.receive()).HasField("drain")
        await waiting.wait()
        yield front, draining, stream, session


@pytest.mark.parametrize(
    "let_go",
    [
        pytest.param(lambda front, stream, session: export(front, session), id="exported"),
        pytest.param(lambda front, stream, session: close(front, session), id="closed"),
        pytest.param(lambda front, stream, session: stream.send(DETACH), id="detached"),
        pytest.param(lambda front, stream, session: stream.half_close(), id="half-closed"),
    ],
)
async def test_a_stream_that_holds_sessions_is_waited_for(
    let_go: Callable[[FrontDoor, CountingStream, AttachedSession], Awaitable[object]],
) -> None:
    """Until it lets go of the last one, in whatever way."""
    async with lingering() as (front, draining, stream, session):
        await export(front, session, close=False)
        assert (await front.sessions.GetSession(GetSessionRequest(model="counter", id=session.id))).session.attached
        await stream.all_read()  # it is served
        assert not draining.done()
        await let_go(front, stream, session)
        assert await draining


async def test_a_connection_that_breaks_lets_go() -> None:
    """Its sessions are held by nobody."""
    async with lingering() as (_, draining, stream, _):
        stream.cut()
        assert await draining


async def test_a_crash_is_not_waited_through() -> None:
    """Streams of an engine that has crashed end, and hold nobody up."""
    async with lingering() as (front, draining, stream, session):
        model = front.models["counter"]
        model.backend.read = None  # type: ignore[assignment]  # so that nobody can call it
        with pytest.raises(grpc.aio.AioRpcError, match="has failed"):
            await export(front, session)
        assert (await stream.end())[0] is grpc.StatusCode.INTERNAL
        assert await draining
        assert len(model.crashes) == 1


@pytest.fixture
def encoding(monkeypatch: pytest.MonkeyPatch) -> Gate:
    """Holds snapshots that are about to become bytes."""
    gate, encode = Gate(), snapshots.encode

    def held(snapshot: snapshots.Snapshot) -> bytes:
        gate()
        return encode(snapshot)

    monkeypatch.setattr(snapshots, "encode", held)
    return gate


@pytest.fixture
def all_but_calls(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Set once nothing but calls under way is waited for."""
    event, answered = asyncio.Event(), Boundary.answered

    async def spy(self: Boundary, seconds: float) -> bool:
        event.set()
        return await answered(self, seconds)

    monkeypatch.setattr(Boundary, "answered", spy)
    return event


async def test_a_call_under_way_is_answered_before_the_end(
    front: FrontDoor, encoding: Gate, all_but_calls: asyncio.Event
) -> None:
    """An export by a client without any stream; gRPC does not begin to stop before."""
    opened = await front.sessions.OpenSession(OpenSessionRequest(model="counter"))

    async def stop() -> bool:
        complete = await front.rpc.drain(3600)
        await front.rpc.stop(0)  # whatever is under way now is cut off
        return complete

    encoding.close()
    exporting = asyncio.create_task(export(front, AttachedSession(id=opened.session.id, secret=opened.secret)))
    await wait_for(encoding.reached)
    stopping = asyncio.create_task(stop())
    await all_but_calls.wait()
    encoding.open()
    assert snapshots.decode((await exporting).snapshot).id == opened.session.id
    assert await stopping


async def test_a_call_that_takes_too_long_is_given_up(front: FrontDoor, encoding: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the time for stopping is over."""
    monkeypatch.setattr(server, "_LEAST_SECONDS", 0.001)
    opened = await front.sessions.OpenSession(OpenSessionRequest(model="counter"))
    encoding.close()
    exporting = asyncio.create_task(export(front, AttachedSession(id=opened.session.id, secret=opened.secret)))
    await wait_for(encoding.reached)
    assert not await front.rpc.drain(0)
    encoding.open()
    await exporting
