"""The listener for probes: they find room there whatever clients do at the other one, and nothing but the health."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import grpc
import pytest

from stepstream_proto.v1.model_pb2 import ListModelsRequest
from stepstream_proto.v1.model_pb2_grpc import ModelServiceStub
from stepstream_server.config import DoorSettings, Settings, split_address
from stepstream_server.rpc import Models, RpcServer
from stepstream_server.rpc.server import PROBE_CONNECTIONS
from support.front_door import FrontDoor, front_door
from support.health import NOT_SERVING, SERVING, Watch, every_health, health
from support.hostile.frames import hello
from support.workers import PATIENCE

REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
OIP = "/inference.GRPCInferenceService/ServerLive"


@asynccontextmanager
async def strangers(address: str, connections: int) -> AsyncIterator[None]:
    """Holds so many connections, on each of which the server has begun to speak."""
    held = [await asyncio.open_connection(*split_address(address)) for _ in range(connections)]
    for reader, writer in held:
        writer.write(hello())
        assert await reader.read(9)  # the server's settings
    yield
    for _, writer in held:
        writer.transport.abort()


async def refused(address: str) -> bool:
    """Tells whether another connection is closed at once."""
    reader, writer = await asyncio.open_connection(*split_address(address))
    writer.write(hello())
    try:
        return await reader.read() == b""
    except ConnectionResetError:
        return True
    finally:
        writer.transport.abort()


async def probed(address: str) -> int:
    """Readiness as a probe finds it, which connects anew."""
    async with grpc.aio.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        return await health(channel, "readiness")


async def test_probes_have_room_while_all_connections_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """A newcomer to the other address is closed, and a probe is answered."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (6, 6))
    async with front_door(probes=True) as front, strangers(front.address, 3), asyncio.timeout(PATIENCE):
        assert await refused(front.address)
        assert await probed(front.health) == SERVING


async def test_clients_have_room_while_all_connections_of_probes_are_taken() -> None:
    """These are few: who takes them all keeps probes alone away."""
    async with front_door(probes=True) as front, strangers(front.health, PROBE_CONNECTIONS), asyncio.timeout(PATIENCE):
        assert await refused(front.health)
        await front.catalogue.ListModels(ListModelsRequest())


async def test_nothing_else_is_served_to_probes() -> None:
    """Calls of other services are UNIMPLEMENTED; those of the health are answered and counted."""
    async with front_door(probes=True) as front, grpc.aio.insecure_channel(front.health) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ModelServiceStub(channel).ListModels(ListModelsRequest())
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        for path in (REFLECTION, OIP):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await cast("Any", channel).unary_unary(path)(b"")
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        assert await health(channel, "readiness") == SERVING
        assert await every_health(channel) == await every_health(front.channel)
        assert await front.ended.get() == ("grpc.health.v1.Health", "Check", "OK")


async def test_probes_hear_of_a_drain() -> None:
    """They are answered to the end."""
    async with front_door(probes=True) as front, grpc.aio.insecure_channel(front.health) as channel:
        watch = Watch(channel, "readiness")
        assert await watch.status() == SERVING
        await front.rpc.drain(0)
        assert await watch.status() == NOT_SERVING
        assert await probed(front.health) == NOT_SERVING


async def test_silent_connections_of_probes_are_let_go_of() -> None:
    """They are treated like those of clients: whoever has taken all of them must say something."""
    async with front_door(settings=DoorSettings(silent_connection_seconds=0.1), probes=True) as front, asyncio.timeout(PATIENCE):
        silent = [await asyncio.open_connection(*split_address(front.health)) for _ in range(PROBE_CONNECTIONS)]
        for reader, writer in silent:
            await reader.read()
            writer.close()
        assert await probed(front.health) == SERVING


async def test_a_probe_that_says_much_is_refused() -> None:
    """A request names a service: no more is read."""
    async with front_door(probes=True) as front, grpc.aio.insecure_channel(front.health) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await health(channel, "x" * 5000)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_without_an_address_there_is_no_listener(front: FrontDoor) -> None:
    """There is none by default; one that is taken names its setting."""
    assert (front.health, Settings().health) == ("", "")
    second = RpcServer(Models(), DoorSettings(), lambda *_: None, "0.0.0")
    with pytest.raises(OSError, match=f"^health: cannot listen on {front.address}"):
        await second.start("127.0.0.1:0", front.address)
