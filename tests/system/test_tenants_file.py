"""The file of tenants while a server runs: whoever is taken out of it is refused; one that cannot be used changes nothing."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest

from stepstream_proto.v1 import session_pb2, session_pb2_grpc
from support.front_door import CountingStream
from support.hostile.models import SMALL, write_models
from support.tenants import Tenants, showing
from support.workers import PATIENCE, WorkingServer, scraped, working_server


def write(path: Path, text: str) -> None:
    """Puts a file in the place of the former one, so that nobody sees half of it."""
    new = path.with_suffix(".new")
    new.write_text(text)
    new.replace(path)


async def code(channel: grpc.aio.Channel, **fields: Any) -> str:
    """How a session is opened."""
    try:
        await session_pb2_grpc.SessionServiceStub(channel).OpenSession(session_pb2.OpenSessionRequest(model=SMALL, **fields))
    except grpc.aio.AioRpcError as error:
        return error.code().name
    return "OK"


async def until(expected: str, channels: list[grpc.aio.Channel]) -> None:
    """Waits until a session is opened so over each of them. Raises TimeoutError."""
    async with asyncio.timeout(PATIENCE):
        for channel in channels:
            while await code(channel) != expected:
                pass


async def connections(server: WorkingServer) -> list[grpc.aio.Channel]:
    """One to each process that speaks gRPC."""
    if server.workers():
        return [each.channel for each in await server.connect_to_each()]
    server.channels.append(grpc.aio.insecure_channel(server.server.listen))
    return server.channels


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
async def test_the_file_is_read_anew(tmp_path: Path, workers: int) -> None:
    """Over every process: a token that is gone is refused and its streams end, others go on, limits change; a broken file is
    logged, repeats no secret, and what it was before holds; a worker that begins later knows the file as it is then."""
    tenants, path = Tenants(a={}, b={}), tmp_path / "tenants.toml"
    write(path, tenants.toml())
    flags = ["--door.tokens", str(path), "--log.format", "json"]
    token, admin, other = tenants.token("a"), tenants.token("a", "admin"), tenants.token("b")
    async with working_server(write_models(tmp_path / "models"), workers, *flags, token=other) as server:
        bare = await connections(server)
        mine, admins, others = ([showing(each, token=who) for each in bare] for who in (token, admin, other))
        await until("OK", [*mine, *admins, *others])
        assert [await code(each) for each in bare] == ["UNAUTHENTICATED"] * len(bare)
        streams, theirs = [CountingStream(each) for each in mine], CountingStream(others[0])
        for stream in (*streams, theirs):
            await stream.open(SMALL, [0])
        write(path, tenants.toml(token, a={"sessions": 1}))
        await until("UNAUTHENTICATED", mine)
        for stream in streams:
            assert (await stream.end())[0] is grpc.StatusCode.UNAUTHENTICATED
        assert [await code(each) for each in admins] == ["RESOURCE_EXHAUSTED"] * len(bare)
        write(path, f"{tenants.toml()}\n[[tenants.a.tokens]]\nsha256 = '{token}'")
        kept = await server.logged("tenants_kept")
        assert "tenants.toml: tenants.a.tokens.2.sha256: expected the SHA-256 of a token" in kept["error"]
        assert [await code(each) for each in (*mine, *others)] == [*["UNAUTHENTICATED"] * len(bare), *["OK"] * len(bare)]
        if workers:
            await server.kill(server.workers()[-1])
            bare = await connections(server)
            assert [await code(showing(each, token=token)) for each in bare] == ["UNAUTHENTICATED"] * workers
        write(path, tenants.toml())
        await until("OK", [showing(each, token=token) for each in bare])
        await theirs.open(SMALL, [1])
        theirs.cut()
        await scraped(server.server.metrics)
