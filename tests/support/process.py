"""The server as its users run it: a process of its own, told to stop by signals."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from support import planted

COMMAND = ("-m", "stepstream_server")

# Flags by the ways in which a step can come to its engine.
FLAGS = {
    "on the loop": ["--workers", "0"],
    "on the thread": ["--workers", "0", "--engine.max_wait_seconds", "1e-9"],
    "2 workers": ["--workers", "2"],
}


@dataclass
class ServerProcess:
    """A running `stepstream-server serve`."""

    process: asyncio.subprocess.Process
    listen: str
    metrics: str  # URL
    health: str = ""  # for probes alone, where it says so in JSON

    async def listening(self) -> None:
        """Waits until it says where it listens."""
        assert self.process.stdout is not None
        line = (await self.process.stdout.readline()).decode()
        if line.startswith("{"):
            told = json.loads(line)
        else:  # for people, on two lines
            told = dict([line.split(), (await self.process.stdout.readline()).decode().split()])
        self.listen, self.metrics, self.health = told["listening"], told["metrics"], told.get("health", "")

    async def ended(self) -> tuple[int, str]:
        """Waits for its end: exit code and what it logged."""
        _, stderr = await self.process.communicate()
        return self.process.returncode or 0, stderr.decode()


def state(pid: int) -> str:
    """The state of a process: R(unning), S(leeping), T (stopped) and the like (proc(5)). Raises OSError."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def environment() -> dict[str, str]:
    """This process's, without settings of the server."""
    return {name: value for name, value in os.environ.items() if not name.startswith("STEPSTREAM_")}


def overhear(stream: asyncio.StreamReader | None) -> bytearray:
    """All that comes through a pipe from now on, whoever reads it."""
    heard = bytearray()
    if stream is not None:
        feed = stream.feed_data

        def feed_data(data: bytes) -> None:
            heard.extend(data)
            feed(data)

        stream.feed_data = feed_data  # type: ignore[method-assign, assignment]  # of this one
    return heard


async def launch(
    models: Path, *flags: str, program: Sequence[str] = COMMAND, own_group: bool = False, stderr: int = asyncio.subprocess.PIPE
) -> asyncio.subprocess.Process:
    """Starts the command with ports chosen by the system, unless flags say otherwise. own_group: of processes. stderr: where it
    goes, a descriptor."""
    given = ["serve", "--models", str(models), "--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0", *flags]
    group = 0 if own_group else None
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *program,
        *given,
        stdout=asyncio.subprocess.PIPE,
        stderr=stderr,
        env=environment(),
        process_group=group,
    )


@asynccontextmanager
async def server_process(
    models: Path, *flags: str, program: Sequence[str] = COMMAND, own_group: bool = False, stderr: int = asyncio.subprocess.PIPE
) -> AsyncIterator[ServerProcess]:
    """Serves until the block ends; what is still running then is killed. What it wrote on pipes may hold no planted secret."""
    process = await launch(models, *flags, program=program, own_group=own_group, stderr=stderr)
    written = [overhear(process.stdout), overhear(process.stderr)]
    try:
        server = ServerProcess(process, "", "")
        await server.listening()
        yield server
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()
        for each in written:
            planted.check(bytes(each))
