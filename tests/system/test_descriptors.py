"""A server that has few descriptors: connections use up what is theirs, and everything else goes on."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import numpy as np

from stepstream import Client
from stepstream_server import bundles
from support.hostile.frames import hello
from support.hostile.watched import events, watched
from support.models import random_model
from support.workers import PATIENCE

GRANTED = 400
MOST = 272  # connections: 128 fewer
LIMITED = (
    "import resource, runpy\n"
    f"resource.setrlimit(resource.RLIMIT_NOFILE, (100, {GRANTED}))\n"  # what is granted is taken, whatever is usual
    "runpy.run_module('stepstream_server', run_name='__main__', alter_sys=True)\n"
)


async def test_connections_without_end_leave_room(tmp_path: Path) -> None:
    """Beyond as many as may be they are closed at once, and the log says so. Who is connected is served, health among it, the
    metrics are told, and when strangers have gone newcomers are served."""
    bundles.write(tmp_path / "models" / "small", *random_model(name="small"))
    stderr = tmp_path / "log"
    async with (
        watched(tmp_path / "models", stderr, "--workers", "0", "--log.format", "json", program=("-c", LIMITED)) as server,
        Client(server.server.listen) as client,
        client.open_session("small") as session,
    ):
        x = np.ones(2, np.float32)
        await session.step(x)
        async with AsyncExitStack() as ending:
            strangers = [await connected(server.address, ending) for _ in range(MOST + 100)]
            await server.until(lambda: "connections_refused" in stderr.read_text())
            async with asyncio.timeout(PATIENCE):
                with suppress(ConnectionResetError):  # it had said something by then
                    assert await strangers[-1][0].read() == b""
                await session.step(x)
                assert (await server.metrics())['stepstream_sessions_open{model="small",version="1"}'] == 1
            assert server.descriptors() < GRANTED
        await server.until(lambda: "connections_taken_again" in stderr.read_text())
        async with Client(server.server.listen) as newcomer:
            assert await newcomer.models()
        lines = events(server.lines())
        assert [each["most"] for each in lines if each["event"] == "connections_refused"] == [MOST]


async def connected(address: tuple[str, int], ending: AsyncExitStack) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection that begins to speak HTTP/2 and asks for nothing; it lasts as long as somebody holds both ends of it."""
    reader, writer = await asyncio.open_connection(*address)
    ending.callback(writer.transport.abort)
    writer.write(hello())
    return reader, writer
