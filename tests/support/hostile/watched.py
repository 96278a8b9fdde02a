"""A server that somebody attacks, watched from outside: its processes, memory, descriptors and every line of its log."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks.process import children, vitals
from stepstream import Client, ClientOptions
from stepstream_server.config import split_address
from support import planted
from support.process import COMMAND, ServerProcess, server_process
from support.workers import PATIENCE, scraped

MIB = 1 << 20
_CLOSED_AT_ONCE = 64  # sessions
_PLAIN = ClientOptions()
_AT_REST = ("stepstream_sessions_open", "stepstream_streams", "stepstream_pending_steps", "stepstream_rollouts_active")


@dataclass
class Watched:
    """A running server."""

    server: ServerProcess
    stderr: Path
    pids: list[int]  # of all its processes, as they were when it began
    options: ClientOptions  # with which its sessions can be seen

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of gRPC."""
        return split_address(self.server.listen)

    @property
    def metrics_address(self) -> tuple[str, int]:
        """Host and port of the metrics."""
        return split_address(urlsplit(self.server.metrics).netloc)

    def resident(self) -> int:
        """Bytes of memory that are in RAM and its own."""
        return sum(vitals(pid).own for pid in self.pids)

    def descriptors(self) -> int:
        """Files and sockets that it has open."""
        return sum(vitals(pid).descriptors for pid in self.pids)

    def lives(self) -> bool:
        """Tells whether all processes of the beginning run, and no other."""
        return self.server.process.returncode is None and _processes(self.server) == self.pids

    async def until(self, condition: Callable[[], bool]) -> None:
        """Waits for what is seen of its processes or its log. Raises TimeoutError."""
        async with asyncio.timeout(PATIENCE):
            while not condition():
                await self.metrics()

    async def close_sessions(self, keep: Sequence[str] = ()) -> int:
        """Closes all sessions but some. Returns how many there were."""
        async with Client(self.server.listen, self.options) as client:
            found = [session async for session in client.list_sessions() if session.id not in keep]
            for first in range(0, len(found), _CLOSED_AT_ONCE):
                some = found[first : first + _CLOSED_AT_ONCE]
                await asyncio.gather(*(client.close_session(each.model, each.id, version=each.version) for each in some))
        return len(found)

    async def metrics(self) -> dict[str, float]:
        """Scrapes the metrics: values by name and labels."""
        return await scraped(self.server.metrics)

    async def at_rest(self) -> None:
        """Waits until its gauges say that nobody is there. Raises TimeoutError."""
        async with asyncio.timeout(PATIENCE):
            while any(value for name, value in (await self.metrics()).items() if name.partition("{")[0] in _AT_REST):
                pass

    async def ended_well(self) -> list[str]:
        """Tells it to stop; returns the lines of its log once it has, with 0."""
        self.server.process.send_signal(signal.SIGTERM)
        assert await self.server.process.wait() == 0
        return self.lines()

    def lines(self) -> list[str]:
        """Lines that it has written to stderr, cut where a reader of lines cuts it. Raises UnicodeDecodeError."""
        written = self.stderr.read_bytes()
        planted.check(written)
        *lines, rest = written.decode().split("\n")
        assert rest == ""
        return lines


@asynccontextmanager
async def watched(
    models: Path, stderr: Path, *flags: str, program: Sequence[str] = COMMAND, options: ClientOptions = _PLAIN
) -> AsyncIterator[Watched]:
    """Serves until the block ends. stderr: the file for what it writes there. options: of clients who see its sessions."""
    with stderr.open("wb") as file:
        async with server_process(models, *flags, program=program, stderr=file.fileno()) as server:
            yield Watched(server, stderr, _processes(server), options)


def events(lines: Sequence[str]) -> list[dict[str, Any]]:
    """The events of a log for collectors. Raises AssertionError for a line that is none of ours."""
    found = []
    for line in lines:
        found.append(json.loads(line))
        assert isinstance(found[-1], dict), line
        assert found[-1].keys() >= {"event", "level", "logger", "timestamp"}, line
    return found


def calm(lines: Sequence[str]) -> None:
    """Raises AssertionError for a log that tells of a failure."""
    for event, line in zip(events(lines), lines, strict=True):
        assert event["level"] in ("debug", "info"), line
        assert "Traceback" not in line, line


def _processes(server: ServerProcess) -> list[int]:
    return [server.process.pid, *sorted(children(server.process.pid))]
