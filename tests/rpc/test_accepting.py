"""Calls are taken whatever their callers name: gRPC's own loop ends at a path that is not UTF-8."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import grpc
import pytest

from benchmarks.http2 import DATA, END_HEADERS, END_STREAM, HEADERS, RST_STREAM, frame, prefixed
from stepstream_proto.v1.model_pb2 import ListModelsRequest
from stepstream_server.config import DoorSettings
from stepstream_server.rpc import boundary
from stepstream_server.rpc.accepting import Server
from support.front_door import FrontDoor, front_door
from support.health import SERVING, health
from support.hostile.connection import ask
from support.hostile.frames import call, headers, hello
from support.workers import PATIENCE

PATH = b"/\xff\xfe\xc0/x"
STEP = "/stepstream.v1.InferenceService/Step"
LIST = "/stepstream.v1.ModelService/ListModels"


def address(told: str) -> tuple[str, int]:
    """HOST:PORT, taken apart."""
    host, _, port = told.rpartition(":")
    return host, int(port)


async def test_a_path_of_noise_is_an_unknown_method(front: FrontDoor) -> None:
    """Such calls are refused, one or many at once, and no matter for anybody else."""
    for _ in range(3):
        await ask(address(front.address), hello(*(call(stream, PATH) for stream in range(1, 41, 2))))
    await front.catalogue.ListModels(ListModelsRequest())


async def test_unknown_methods_are_not_implemented(front: FrontDoor) -> None:
    """Methods are unknown of services that there are, and of others."""
    for path in ("/stepstream.v1.ModelService/Nothing", "/nobody/Nothing", "noise", "/unknown", "unknown"):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await cast("Any", front.channel).unary_unary(path)(b"")
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_calls_whose_requests_do_not_come_are_bounded() -> None:
    """Two streams, two watches, a call and a hundred reflections may be open: the next is refused, and probes are answered."""
    async with (
        front_door(settings=DoorSettings(max_streams=2, max_calls=1)) as front,
        connected(front, *(frame(HEADERS, END_HEADERS, stream, headers(STEP)) for stream in range(1, 2 * 105, 2))),
    ):
        with pytest.raises(grpc.aio.AioRpcError, match="Concurrent RPC limit exceeded") as caught:
            async with asyncio.timeout(PATIENCE):
                while True:  # until the stranger's calls have been taken
                    await front.catalogue.ListModels(ListModelsRequest())
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert await health(front.channel, "readiness") == SERVING


async def test_a_request_must_come_whole(front: FrontDoor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within half a minute, for which this test does not wait; its call then ends, and is counted."""
    monkeypatch.setattr(boundary, "MESSAGE_SECONDS", 0.001)
    part = frame(DATA, 0, 1, b"\0\0\x40\0\0half")
    async with connected(front, frame(HEADERS, END_HEADERS, 1, headers(STEP)), part):
        assert await front.ended.get() == ("stepstream.v1.InferenceService", "Step", "DEADLINE_EXCEEDED")


async def test_of_too_many_requests_that_do_not_come_whole_the_oldest_are_given_up() -> None:
    """Each may take the memory of a message; a request that is whole is answered all the while."""
    settings = DoorSettings(max_unread_bytes=1 << 20, max_message_bytes=1 << 18)
    halves = [
        frame(HEADERS, END_HEADERS, each, headers(STEP)) + frame(DATA, 0, each, b"\0\0\0\x40\0half") for each in (1, 3, 5, 7, 9)
    ]
    async with front_door(settings=settings) as front, connected(front, *halves):
        assert await front.ended.get() == ("stepstream.v1.InferenceService", "Step", "DEADLINE_EXCEEDED")
        await front.catalogue.ListModels(ListModelsRequest())
        assert await front.ended.get() == ("stepstream.v1.InferenceService", "Step", "DEADLINE_EXCEEDED")
        assert await front.ended.get() == ("stepstream.v1.ModelService", "ListModels", "OK")


async def test_requests_of_strangers_drive_out_none_of_callers() -> None:
    """Whoever may ask for the health alone can begin as many calls without a request as they like."""
    settings = DoorSettings(max_unread_bytes=1 << 20, max_message_bytes=1 << 18)
    late = frame(HEADERS, END_HEADERS, 1, headers(LIST))
    asked = [frame(HEADERS, END_HEADERS, stream, headers("/grpc.health.v1.Health/Check")) for stream in range(3, 3 + 2 * 65, 2)]
    async with front_door(settings=settings) as front, connected(front, late, *asked) as stranger:
        assert await front.ended.get() == ("grpc.health.v1.Health", "Check", "DEADLINE_EXCEEDED")
        stranger.write(frame(DATA, END_STREAM, 1, prefixed(b"")))
        assert await front.ended.get() == ("stepstream.v1.ModelService", "ListModels", "OK")


async def test_a_call_without_a_request_is_refused(front: FrontDoor) -> None:
    """One is expected, and none comes."""
    async with connected(front, frame(HEADERS, END_HEADERS | END_STREAM, 1, headers(STEP))):
        assert await front.ended.get() == ("stepstream.v1.InferenceService", "Step", "INVALID_ARGUMENT")


@asynccontextmanager
async def connected(front: FrontDoor, *frames: bytes) -> AsyncIterator[asyncio.StreamWriter]:
    """A stranger who has sent these frames, and may send others."""
    _, writer = await asyncio.open_connection(*address(front.address))
    writer.write(hello(*frames))
    yield writer
    writer.transport.abort()


async def test_calls_that_die_before_they_are_taken_are_no_matter(front: FrontDoor) -> None:
    """Reset as soon as they are begun, thousands of them."""
    resets = (
        frame(HEADERS, END_HEADERS, each, headers(STEP)) + frame(RST_STREAM, 0, each, bytes(4)) for each in range(1, 6001, 2)
    )
    async with connected(front, *resets):
        await front.catalogue.ListModels(ListModelsRequest())


async def test_the_installed_grpc_still_ends_at_such_a_path(caplog: pytest.LogCaptureFixture) -> None:
    """The library's own server may take the place of ours once this fails."""
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    await ask(("127.0.0.1", port), hello(call(1, PATH)))
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(UnicodeDecodeError):
            await server.wait_for_termination()


async def test_a_server_that_was_never_started_stops() -> None:
    """A server stops that nobody has started, and one that was started and has no callers."""
    await Server([]).stop(None)
    server = Server([])
    server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with asyncio.timeout(PATIENCE):
        await server.stop(None)
        await server.wait_for_termination()
