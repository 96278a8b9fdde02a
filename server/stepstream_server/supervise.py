"""Starting the server again when it has failed: a process that does nothing else, in front of the one that computes.

Kubernetes, systemd and the like do this better and see more; it is for where there is none of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial

import structlog

from stepstream_server import parent, process
from stepstream_server.addresses import learn

_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.5, 30.0  # before starting again; doubled for a server that fails soon
_SOON_SECONDS = 60.0

log = structlog.get_logger(__name__)


def supervised(flags: Sequence[str]) -> list[str]:
    """This process's own command with other flags behind it, which count more."""
    return [sys.executable, *sys.orig_argv[1:], *flags]


class Supervisor:
    """Runs one command for as long as it serves."""

    def __init__(self, command: Sequence[str], on_hang_up: Callable[[], object]) -> None:
        """on_hang_up: hears of each SIGHUP, which the command is told as well."""
        self._command = list(command)
        self._on_hang_up = on_hang_up
        self._bound: dict[str, str] = {}  # flag -> address, so that one that the system chose stays
        self._stopping = asyncio.Event()
        self._process: asyncio.subprocess.Process | None = None

    async def run(self) -> int:
        """Starts the command until it ends well, is told to stop, or ends without ever having listened. Returns its exit code."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        process.heed_hang_ups(loop, self._hang_up)
        pause = _FIRST_PAUSE_SECONDS
        while True:
            begun = time.monotonic()
            code = await self._run_once()
            if code == 0 or self._stopping.is_set() or not self._bound:
                return code if code >= 0 else 128 - code  # as a shell has it
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS) if time.monotonic() - begun < _SOON_SECONDS else _FIRST_PAUSE_SECONDS
            log.error("server_failed", code=code, again_in_seconds=pause)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause)
                return 0

    async def _run_once(self) -> int:
        """Passes on what the command prints, which is where it listens."""
        flags = [part for flag, address in self._bound.items() for part in (flag, address)]
        with process.hang_ups_held():
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                *flags,
                stdout=asyncio.subprocess.PIPE,
                start_new_session=True,  # what a terminal sends to all is for this process: told twice, a server ends at once
                preexec_fn=partial(parent.end_with_parent, os.getpid()),  # a server that goes on alone would hold the address
            )
        if self._stopping.is_set():
            self._process.terminate()
        if self._process.stdout is not None:  # it is a pipe
            async for line in self._process.stdout:
                sys.stdout.write(line.decode())
                sys.stdout.flush()
                self._bound |= learn(line.decode())
        return await self._process.wait()

    def _hang_up(self) -> None:
        self._on_hang_up()
        self._tell(signal.SIGHUP)

    def _stop(self) -> None:
        """The command is told, and ends when it has finished what it accepted; told again, it ends at once."""
        self._stopping.set()
        self._tell(signal.SIGTERM)

    def _tell(self, number: signal.Signals) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)
