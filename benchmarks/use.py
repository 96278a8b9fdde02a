"""A use of the server: what it is given, how its answers are checked, and the network that it may cut."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import grpc
from numpy.typing import NDArray

from stepstream import (
    Client,
)

LEFT_SECONDS = 6.0  # after which sessions expire that nobody closes: longer than a busy machine pauses


@dataclass
class Scene:
    """Means of a feature: a client that lives as long as the process, and a plain channel."""

    address: str
    client: Client
    channel: grpc.aio.Channel
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def name(self) -> str:
        """An id that no session had before."""
        return f"{uuid4().hex}-{next(self.numbers)}"


Feature = Callable[[Scene], Awaitable[None]]


def same(what: str, found: object, expected: object) -> None:
    """Raises ValueError where an answer is not what it must be."""
    if found != expected:
        raise ValueError(f"{what}: expected {expected!r}, got {found!r}")


def shape(outputs: NDArray[Any], *expected: int) -> None:
    """Raises ValueError where outputs are not of this shape."""
    same("shape", outputs.shape, expected)


async def refused(call: Awaitable[Any], kind: type[Exception]) -> None:
    """Waits for an error that must come. Raises ValueError if none does."""
    try:
        await call
    except kind:
        return
    raise ValueError(f"expected {kind.__name__}, got an answer")


@asynccontextmanager
async def network(address: str) -> AsyncIterator[tuple[str, Callable[[], None]]]:
    """Something between client and server that passes bytes on; its address, and what cuts all connections."""
    host, _, port = address.rpartition(":")
    writers: set[asyncio.StreamWriter] = set()
    tasks: set[asyncio.Task[Any]] = set()

    async def passes(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):  # cut
            while data := await reader.read(1 << 16):
                writer.write(data)
        writer.close()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.current_task())  # type: ignore[arg-type]  # runs as a task
        there, here = await asyncio.open_connection(host, int(port))
        writers.update((writer, here))
        await asyncio.gather(passes(reader, here), passes(there, writer))

    def cut() -> None:
        for writer in writers:
            writer.transport.abort()

    async with await asyncio.start_server(connected, "127.0.0.1", 0) as server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}", cut
        cut()
        await asyncio.gather(*tasks)
