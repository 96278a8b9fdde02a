"""A TCP proxy that misbehaves as networks do, by a seed: between a client and a server of this process.

It cuts connections after random numbers of bytes, holds bytes back until others have passed, turns connections away for a while,
and leaves ghosts: a connection that is gone for the client while the server still has it, and gets what the client had written
to it only when the client's next connection is up. After so many cuts it behaves.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

CHUNK_BYTES = 16 << 10  # read at once: several messages, or a part of a large one
HELD_BACK = 0.1  # share of reads that are held back
MOST_TURNS = 40  # of the event loop, for which bytes are held back while nothing else passes
HAUNTED = 0.3  # chance of a ghost to be raised by what the server says on a newer connection
GHOST_TURNS = 200  # for which the server's side of a cut connection outlives the delivery of what was held back


@dataclass
class Mischief:
    """What a proxy does to connections. It is done with when `cuts` have been made."""

    seed: int
    cuts: int  # connections to be cut
    mean_bytes: int  # that pass in one direction before a cut, on average
    ghosts: float = 0.7  # share of cuts after which the server's side stays for a while
    most_turned_away: int = 2  # connections after a cut
    cuts_made: int = field(default=0, init=False)
    haunted: int = field(default=0, init=False)  # ghosts that delivered something
    turned_away: int = field(default=0, init=False)


class Proxy:
    """Listens on a free port of 127.0.0.1 and passes on to the server."""

    def __init__(self, target: str, mischief: Mischief) -> None:
        self._host, _, port = target.rpartition(":")
        self._port = int(port)
        self._mischief = mischief
        self._random = random.Random(mischief.seed)
        self._to_turn_away = 0
        self._traffic = 0  # reads so far, over all connections
        self._ghosts: list[_Connection] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection of a client, to its end."""
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        if self._to_turn_away:
            self._to_turn_away -= 1
            self._mischief.turned_away += 1
            writer.transport.abort()
            return
        try:
            with suppress(OSError, asyncio.CancelledError):  # cancelled by `close` alone; asyncio would log it
                upstream = await asyncio.open_connection(self._host, self._port)
                await _Connection(self, (reader, writer), upstream, self._plan()).run()
        finally:
            writer.transport.abort()

    async def close(self) -> None:
        """Ends what is open."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        for ghost in self._ghosts:
            ghost.bury()

    def _plan(self) -> tuple[int, int]:
        """After how many bytes to cut each direction of a connection; the one that comes first counts."""
        mean = self._mischief.mean_bytes
        return int(self._random.expovariate(1 / mean)), int(self._random.expovariate(1 / mean))

    async def hold_back(self) -> None:
        """Now and then waits until something else has passed, or for some turns of the loop."""
        if self._mischief.cuts_made >= self._mischief.cuts or self._random.random() >= HELD_BACK:
            return
        enough, turns = self._traffic + self._random.randint(1, 3), self._random.randint(1, MOST_TURNS)
        while self._traffic < enough and turns:
            turns -= 1
            await asyncio.sleep(0)

    def passed(self) -> None:
        """Something was read, from whomever."""
        self._traffic += 1

    def may_cut(self) -> bool:
        """Counts a cut, unless there were enough."""
        if self._mischief.cuts_made >= self._mischief.cuts:
            return False
        self._mischief.cuts_made += 1
        self._to_turn_away = self._random.randint(0, self._mischief.most_turned_away)
        return True

    def wants_ghost(self) -> bool:
        """Whether a cut leaves a ghost."""
        return self._random.random() < self._mischief.ghosts

    def leave(self, ghost: _Connection) -> None:
        """Keeps the server's side of a connection that the client has lost."""
        self._ghosts.append(ghost)

    async def raise_ghosts(self) -> None:
        """A new connection is up, and has said something or a lot: now the server gets what was held back on former ones."""
        while self._ghosts and self._random.random() < HAUNTED:
            ghost = self._ghosts.pop(0)
            self._mischief.haunted += bool(ghost.held)
            await ghost.haunt()


_Side = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class _Connection:
    """A client's connection and the one to the server that belongs to it."""

    def __init__(self, proxy: Proxy, client: _Side, server: _Side, cut_after: tuple[int, int]) -> None:
        self._proxy = proxy
        self._client = client
        self._server = server
        self._up, self._down = cut_after  # bytes left, to the server and to the client
        self.held = b""

    async def run(self) -> None:
        """Passes bytes in both directions until one of them ends."""
        up = asyncio.create_task(self._pass_up())
        down = asyncio.create_task(self._pass_down())
        try:
            await asyncio.wait([up, down], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (up, down):
                task.cancel()
            ghost = False
            try:
                ghost = (await asyncio.gather(up, down, return_exceptions=True))[0] is True
            finally:  # also where the proxy is closed meanwhile
                self._client[1].transport.abort()
                if ghost:
                    self._proxy.leave(self)
                else:
                    self.bury()

    def bury(self) -> None:
        """Cuts the server's side."""
        self._server[1].transport.abort()

    async def haunt(self) -> None:
        """Delivers what was held back, and goes after a while."""
        try:
            self._server[1].write(self.held)
            with suppress(OSError):
                await self._server[1].drain()
            for _ in range(GHOST_TURNS):
                await asyncio.sleep(0)
        finally:
            self.bury()

    async def _pass_up(self) -> bool:
        """Client to server. Returns whether a ghost is to be left."""
        reader, writer = self._client[0], self._server[1]
        while data := await reader.read(CHUNK_BYTES):
            self._proxy.passed()
            await self._proxy.hold_back()
            self._up -= len(data)
            if self._up < 0 and self._proxy.may_cut():
                writer.write(data[: self._up])
                self.held = data[self._up :]
                if self._proxy.wants_ghost():
                    await self._hold_more(reader)
                    return True
                return False
            writer.write(data)
            await writer.drain()
        return False

    async def _hold_more(self, reader: asyncio.StreamReader) -> None:
        """Reads on, and passes nothing on, so that the client believes to have sent it."""
        reading: asyncio.Task[bytes] | None = None
        for _ in range(MOST_TURNS):
            reading = reading or asyncio.create_task(reader.read(CHUNK_BYTES))
            await asyncio.sleep(0)
            if reading.done():
                self.held += reading.result()
                reading = None
        if reading is not None:
            reading.cancel()
            with suppress(asyncio.CancelledError):
                self.held += await reading

    async def _pass_down(self) -> None:
        """Server to client."""
        reader, writer = self._server[0], self._client[1]
        while data := await reader.read(CHUNK_BYTES):
            self._proxy.passed()
            await self._proxy.hold_back()
            self._down -= len(data)
            if self._down < 0 and self._proxy.may_cut():
                writer.write(data[: self._down])
                return
            writer.write(data)
            await writer.drain()
            await self._proxy.raise_ghosts()


@asynccontextmanager
async def proxied(target: str, mischief: Mischief) -> AsyncIterator[str]:
    """A proxy in front of a server. Gives its address."""
    proxy = Proxy(target, mischief)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await proxy.close()
        await server.wait_closed()
