"""A StepStream server as a process of its own: started on free ports, stopped by SIGTERM, its log at hand when it fails."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

START_SECONDS = 120.0  # it starts in some seconds; the first time it compiles its rules, which takes half a minute on a slow core
STOP_SECONDS = 30.0  # it stops at once when nothing is under way
LOG_LINES = 15  # of the log, shown when something went wrong


class ServerFailed(Exception):
    """The server did not start."""


@dataclass(slots=True)
class Server:
    """A running server, and afterwards how it ended."""

    address: str  # HOST:PORT for clients
    metrics: str  # URL for Prometheus
    pid: int
    exit_code: int | None = None  # None while it runs


@asynccontextmanager
async def running_server(models: Path, *flags: str) -> AsyncIterator[Server]:
    """Serves the bundles of a folder until the block ends, however it ends. flags: more of them. Raises ServerFailed.

    An error that leaves the block carries the last lines of the server's log as a note.
    """
    with tempfile.TemporaryDirectory() as scratch:
        log = Path(scratch) / "server.log"
        process = await _start(models, flags, log)
        server = None
        try:
            server = Server(*await _addresses(process), process.pid)
            yield server
        except Exception as error:
            error.add_note(f"The server's log ends with:\n{_last_lines(log)}")
            raise
        finally:
            exit_code = await _stop(process)
            if server is not None:
                server.exit_code = exit_code


async def _start(models: Path, flags: Sequence[str], log: Path) -> Process:
    addresses = ["--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0"]  # port 0: any free one
    command = ["-m", "stepstream_server", "serve", "--models", str(models), *addresses, "--log.format", "console", *flags]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("STEPSTREAM_")}
    with log.open("wb") as stderr:
        # A session of its own: Ctrl-C in the terminal reaches the demo alone, which then stops the server in good order.
        return await asyncio.create_subprocess_exec(
            sys.executable, *command, stdin=DEVNULL, stdout=PIPE, stderr=stderr, env=environment, start_new_session=True
        )


async def _addresses(process: Process) -> tuple[str, str]:
    """What the server prints once it serves: `listening HOST:PORT`, then `metrics URL`."""
    found: dict[str, str] = {}
    try:
        async with asyncio.timeout(START_SECONDS):
            while len(found) < 2 and (line := await _line(process)):
                key, _, value = line.partition(" ")
                found[key] = value.strip()
    except TimeoutError:
        raise ServerFailed(f"the server was not ready after {START_SECONDS:.0f} s") from None
    if found.keys() != {"listening", "metrics"}:
        raise ServerFailed(f"the server ended before it was ready, with exit code {await process.wait()}")
    return found["listening"], found["metrics"]


async def _line(process: Process) -> str:
    """The next line of stdout, or "" at its end."""
    return (await process.stdout.readline()).decode() if process.stdout else ""


async def _stop(process: Process) -> int:
    """SIGTERM, and SIGKILL for a server that does not heed it. Returns the exit code."""
    if process.returncode is None:
        process.send_signal(signal.SIGTERM)
    try:
        return await asyncio.wait_for(process.wait(), STOP_SECONDS)
    except TimeoutError:
        process.kill()
        return await process.wait()


def _last_lines(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-LOG_LINES:])
