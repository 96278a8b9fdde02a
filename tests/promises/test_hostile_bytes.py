"""Bytes that are no calls, on both ports, and connections that say nothing: an honest client notices none of them."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import numpy as np
import pytest

from stepstream import Client, Session
from stepstream_server import bundles
from support.hostile.connection import write_to
from support.hostile.frames import client_hello, strangers
from support.hostile.watched import MIB, Watched, calm, watched
from support.hostile.wild import FORGED
from support.models import random_model

PATH = "/stepstream.v1.ModelService/ListModels"
SEED = 18
IDLE = 2000  # connections
ROOM = 500  # descriptors beside them
GROWTH = 64 * MIB
AT_ONCE = 16  # strangers
BORNE = ("--door.silent_connection_seconds", "3600")  # however long it takes to connect them all


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of one small model."""
    folder = tmp_path_factory.mktemp("models")
    bundles.write(folder / "small", *random_model(name="small"))
    return folder


@asynccontextmanager
async def attacked(models: Path, tmp_path: Path, *flags: str) -> AsyncIterator[tuple[Watched, Session]]:
    """A server and an honest session on it. Afterwards all must be as before, and nothing in the log."""
    async with watched(models, tmp_path / "log", "--log.format", "json", *flags) as server:
        async with Client(server.server.listen) as client, client.open_session("small") as session:
            await served(server, session)
            memory, descriptors = server.resident(), server.descriptors()
            yield server, session
            await served(server, session)
            await server.until(lambda: server.descriptors() <= descriptors)
            assert server.lives()
            assert server.resident() < memory + GROWTH
        await server.at_rest()
        calm(await server.ended_well())


async def served(server: Watched, session: Session) -> None:
    """The session is stepped, and the metrics are told."""
    assert np.isfinite((await session.step(np.ones(2, np.float32)))["y"]).all()
    assert (await server.metrics())['stepstream_sessions_open{model="small",version="1"}'] == 1


async def test_bytes_that_are_no_calls(models: Path, tmp_path: Path) -> None:
    """Noise, other protocols, and frames that lie, in the wrong order or cut: each connection ends, and nothing else."""
    async with attacked(models, tmp_path, "--workers", "2") as (server, session):
        gate, address = asyncio.Semaphore(AT_ONCE), server.address

        async def write(name: str, data: bytes) -> None:
            async with gate:
                try:
                    await write_to(address, data)
                except TimeoutError:
                    raise AssertionError(f"{name}: still connected, seed {SEED}: {data[:200].hex()}") from None

        writes = asyncio.gather(*(write(*each) for each in strangers(SEED, PATH).items()))
        while not writes.done():
            await served(server, session)
        await writes


METRICS_REQUESTS = {
    "nothing": b"",
    "noise": np.random.default_rng(SEED).bytes(5000),
    "TLS": client_hello("localhost"),
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/0.9": b"GET /metrics\r\n",
    "HTTP/9": b"GET /metrics HTTP/9.9\r\n\r\n",
    "three words": b"GET /metrics /metrics HTTP/1.1\r\n\r\n",
    "an endless path": b"GET /" + b"a" * 200_000,
    "an endless header": b"GET /metrics HTTP/1.1\r\nX: " + b"a" * 200_000,
    "200 headers": b"GET /metrics HTTP/1.1\r\n" + b"X: y\r\n" * 200 + b"\r\n",
    "headers of noise": b"GET /metrics HTTP/1.1\r\n\0\xff: \xfe\x1b\r\nno colon\r\n\r\n",
    "a wrong length": b"POST /metrics HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
    "no number": b"POST /metrics HTTP/1.1\r\nContent-Length: x\r\n\r\n",
    "an unknown method": b"\x1b[2J" + FORGED.encode() + b" /metrics HTTP/1.1\r\n\r\n",
    "a version that is none": b"GET /metrics HTTP/1.1\r\nAccept: text/plain; version=forged\r\n\r\n",
    "a version beyond": b"GET /metrics HTTP/1.1\r\nAccept: application/openmetrics-text; version=9..; escaping=\x1b\r\n\r\n",
    "a query of noise": b"GET /metrics?name[]=%00%ff&&=;%%%&name[]=\xff HTTP/1.1\r\n\r\n",
    "an empty name": b"GET /metrics?name[]= HTTP/1.1\r\n\r\n",
    "half an escape": b"GET /%f HTTP/1.1\r\n\r\n",
    "no path": b"GET  HTTP/1.1\r\n\r\n",
    "a URL": b"GET http://[::1/metrics HTTP/1.1\r\nHost: [\r\n\r\n",
    "expects": b"GET /metrics HTTP/1.1\r\nExpect: 100-continue\r\n\r\n",
    "encodings": b"GET /metrics HTTP/1.1\r\nAccept-Encoding: gzip;q=x, \0\r\n\r\n",
}


async def test_bytes_that_are_no_scrapes(models: Path, tmp_path: Path) -> None:
    """Requests of any form, whole, cut in the middle and given slowly: scrapes go on, and nobody learns of it from the log."""
    async with (
        attacked(models, tmp_path, "--workers", "0", "--log.level", "debug") as (server, session),
        AsyncExitStack() as open_,
    ):
        address = server.metrics_address
        for _ in range(20):
            _, slow = await asyncio.open_connection(*address)
            open_.callback(slow.close)
            slow.write(b"GET /metrics HTTP/1.1\r\nX: ")
            await slow.drain()
        for data in METRICS_REQUESTS.values():
            await write_to(address, data)
            await write_to(address, data[: len(data) // 2])
        await served(server, session)
        await open_.aclose()


@contextmanager
def descriptors(wanted: int) -> Iterator[None]:
    """This process and those that it starts may have so many; skips where that is not to be had."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip(f"{wanted} descriptors are needed, and a process may have {hard} here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_connections_that_say_nothing(models: Path, tmp_path: Path) -> None:
    """Two thousand at once: others are served meanwhile, and each is let go of when it goes."""
    with descriptors(IDLE + ROOM):
        async with attacked(models, tmp_path, "--workers", "0", *BORNE) as (server, session):
            before = server.descriptors()
            writers = [(await asyncio.open_connection(*server.address))[1] for _ in range(IDLE)]
            try:
                await server.until(lambda: server.descriptors() >= before + IDLE)
                for _ in range(20):
                    await served(server, session)
            finally:
                for writer in writers:
                    writer.transport.abort()
