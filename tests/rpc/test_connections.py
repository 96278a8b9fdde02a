"""Connections: how many there may be, what they hear beyond that, and when a silent one is let go of."""

from __future__ import annotations

import asyncio
import resource
import socket
from collections.abc import Iterator

import grpc
import pytest
from structlog.testing import capture_logs

from stepstream_proto.v1.model_pb2 import ListModelsRequest
from stepstream_proto.v1.model_pb2_grpc import ModelServiceStub
from stepstream_server.config import DoorSettings
from stepstream_server.rpc import connections
from stepstream_server.rpc.connections import Connections, most_connections
from stepstream_server.rpc.server import server_options
from support.front_door import front_door
from support.workers import PATIENCE


def granted(monkeypatch: pytest.MonkeyPatch, descriptors: int) -> None:
    """The system grants so many descriptors."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (descriptors, descriptors))


@pytest.mark.parametrize(
    ("descriptors", "most"),
    [(resource.RLIM_INFINITY, 28_192), (1 << 20, 28_192), (20_000, 19_872), (1024, 896), (200, 100), (2, 1)],
)
def test_connections_leave_descriptors_to_others(monkeypatch: pytest.MonkeyPatch, descriptors: int, most: int) -> None:
    """Twice as many as streams and calls, but 128 descriptors are kept, or half of them where there are so few."""
    granted(monkeypatch, descriptors)
    assert most_connections(DoorSettings()) == most
    assert dict(server_options(DoorSettings()))["grpc.max_allowed_incoming_connections"] == most


def test_the_log_tells_once_when_there_is_no_more_room() -> None:
    """The log also tells once when there is room again; what was open before there were connections does not count."""
    counts: Iterator[int] = iter([50, 50, 149, 150, 170, 149, 150])
    watch = Connections(100, lambda: next(counts))
    told = []
    for _ in range(6):
        with capture_logs() as events:
            watch.look()
        told.append([(each["event"], each["most"]) for each in events])
    refused, taken = [("connections_refused", 100)], [("connections_taken_again", 100)]
    assert told == [[], [], refused, [], taken, refused]


def test_descriptors_are_counted() -> None:
    """A socket is one."""
    before = connections._open_descriptors()
    with socket.socket():
        assert connections._open_descriptors() == before + 1
    assert connections._open_descriptors() == before


async def test_a_connection_too_many_is_closed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections that there are go on, and another one is taken when one has gone."""
    granted(monkeypatch, 6)
    async with front_door() as front:
        honest = ModelServiceStub(front.channel)
        await honest.ListModels(ListModelsRequest())
        host, port = front.address.split(":")
        others = [await asyncio.open_connection(host, port) for _ in range(2)]
        for reader, _ in others:
            assert await reader.read(9)  # the server's settings
        reader, writer = await asyncio.open_connection(host, port)
        async with asyncio.timeout(PATIENCE):
            assert await reader.read() == b""
        await honest.ListModels(ListModelsRequest())
        writer.close()
        for _, each in others:
            each.close()
        async with grpc.aio.insecure_channel(front.address) as channel:
            await ModelServiceStub(channel).ListModels(ListModelsRequest(), wait_for_ready=True, timeout=PATIENCE)


@pytest.mark.parametrize("said", [b"", b"PRI * HTTP", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"])
async def test_a_connection_that_says_nothing_is_let_go_of(said: bytes) -> None:
    """A connection must say enough to be one of HTTP/2. gRPC's two minutes would be too long for this test."""
    async with front_door(settings=DoorSettings(silent_connection_seconds=0.1)) as front:
        reader, writer = await asyncio.open_connection(*front.address.split(":"))
        writer.write(said)
        async with asyncio.timeout(PATIENCE):
            await reader.read()
        writer.close()
        await ModelServiceStub(front.channel).ListModels(ListModelsRequest())
