"""The process that `driver.py` is: commands go in and what came of them comes out, one after the other."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

DRIVER = Path(__file__).with_name("driver.py")


class Driver:
    """A process with `tritonclient`."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._busy = False

    async def do(self, command: Mapping[str, Any]) -> Any:
        """What came of a command."""
        self._busy = True
        line = await asyncio.to_thread(self._exchange, json.dumps(command))
        assert line, "the process with tritonclient has ended: its stderr tells why"
        self._busy = False
        return json.loads(line)

    @property
    def usable(self) -> bool:
        """Whether it would do another command: not while it does one that nobody waits for any more, nor when it has ended."""
        return not self._busy and self._process.poll() is None

    def end(self) -> None:
        """Ends it; fails if it does not end well."""
        if self._busy:
            self._process.kill()
        self._process.communicate()
        assert self._busy or self._process.returncode == 0

    def _exchange(self, command: str) -> str:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(f"{command}\n")
        self._process.stdin.flush()
        return self._process.stdout.readline()


class Drivers:
    """Processes for one test after the other, since each takes a moment to start."""

    def __init__(self) -> None:
        self._free: list[Driver] = []

    @asynccontextmanager
    async def one(self) -> AsyncIterator[Driver]:
        """A process that nobody else uses until the block ends."""
        driver = self._free.pop() if self._free else _start()
        try:
            yield driver
        finally:
            if driver.usable:
                self._free.append(driver)
            else:
                driver.end()

    def end(self) -> None:
        """Ends all; fails if one does not end well."""
        for driver in self._free:
            driver.end()


def _start() -> Driver:
    command = [sys.executable, "-W", "error", str(DRIVER)]
    return Driver(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
