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

    async def listening(self) -> None:
        """Waits until it says where it listens."""
        assert self.process.stdout is not None
        told = json.loads(await self.process.stdout.readline())
        self.listen, self.metrics = told["listening"], told["metrics"]

    async def ended(self) -> tuple[int, str]:
        """Waits for its end: exit code and what it logged."""
        _, stderr = await self.process.communicate()
        return self.process.returncode or 0, stderr.decode()


def environment() -> dict[str, str]:
    """This process's, without settings of the server."""
    return {name: value for name, value in os.environ.items() if not name.startswith("STEPSTREAM_")}


async def launch(
    models: Path, *flags: str, program: Sequence[str] = COMMAND, own_group: bool = False
) -> asyncio.subprocess.Process:
    """Starts the command with ports chosen by the system, unless flags say otherwise. own_group: of processes."""
    given = ["serve", "--models", str(models), "--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0", *flags]
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(
        sys.executable, *program, *given, stdout=pipe, stderr=pipe, env=environment(), process_group=0 if own_group else None
    )


@asynccontextmanager
async def server_process(
    models: Path, *flags: str, program: Sequence[str] = COMMAND, own_group: bool = False
) -> AsyncIterator[ServerProcess]:
    """Serves until the block ends; what is still running then is killed."""
    process = await launch(models, *flags, program=program, own_group=own_group)
    try:
        server = ServerProcess(process, "", "")
        await server.listening()
        yield server
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()
