"""`stepstream`, or another program, at a terminal of its own, as somebody sits before it: keys in, a screen out, Ctrl-C as the
terminal has it."""

from __future__ import annotations

import asyncio
import codecs
import fcntl
import os
import re
import struct
import sys
import termios
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

from support.command import SCRIPT, environment

CTRL_C, CTRL_D, UP, HOME = "\x03", "\x04", "\x1b[A", "\x1b[H"
ROWS = 50
# Where the cursor goes and in which style: of no account to who reads the text.
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[=>]|\r|\x07")

# A session of its own whose controlling terminal is stdin, so that keys become signals.
_SIT_DOWN = """
import fcntl, os, sys, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


class Terminal:
    """A terminal with a command running."""

    def __init__(self, keyboard: int, process: asyncio.subprocess.Process) -> None:
        self._keyboard = keyboard
        self._process = process
        self._shown = ""  # all that has been written, with control sequences
        self._screen = ""  # the text of it
        self._seen = 0  # of it, what was waited for
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._changed = asyncio.Condition()
        self._reader = asyncio.create_task(self._read())

    def type(self, keys: str) -> None:
        """Presses keys; a surrogate is a byte that is no text."""
        os.write(self._keyboard, keys.encode(errors="surrogateescape"))

    async def until(self, text: str) -> str:
        """Waits until it is shown, behind what was waited for before. Returns what is shown since then."""
        async with self._changed:
            await self._changed.wait_for(lambda: text in self._screen[self._seen :] or self._reader.done())
        place = self._screen.find(text, self._seen)
        if place < 0:
            raise AssertionError(f"{text!r} is not shown after {self._screen[self._seen :]!r}")
        shown, self._seen = self._screen[self._seen : place + len(text)], place + len(text)
        return shown

    @property
    def shown(self) -> str:
        """All that has been written, with control sequences."""
        return self._shown

    async def end(self) -> int:
        """Waits until the command has ended; returns its exit code."""
        return await self._process.wait()

    async def end_by(self, keys: str) -> int:
        """Presses them again and again, as people do, since signals that come at once are one; returns its exit code."""
        ending = asyncio.ensure_future(self.end())
        while not ending.done():
            self.type(keys)
            await asyncio.wait([ending], timeout=2.0)
        return ending.result()

    async def _read(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            with suppress(OSError):  # nobody is at the other side any more
                while data := await loop.run_in_executor(None, os.read, self._keyboard, 1 << 16):
                    self._shown += self._decoder.decode(data)
                    self._screen = _CONTROL.sub("", self._shown)
                    await self._tell()
        finally:
            loop.call_soon(lambda: asyncio.ensure_future(self._tell()))

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()


@asynccontextmanager
async def terminal(
    server: str, *arguments: str, program: Sequence[str] = (str(SCRIPT),), columns: int = 120, **more: str
) -> AsyncIterator[Terminal]:
    """Runs the command at a terminal; if it has not ended by then, it is killed in the end. more: environment variables."""
    keyboard, line = os.openpty()
    fcntl.ioctl(line, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, columns, 0, 0))
    # It does not report where its cursor is, which programs may ask.
    env = environment(server, **{"TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1", **more})
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _SIT_DOWN, *program, *arguments, stdin=line, stdout=line, stderr=line, env=env
    )
    os.close(line)
    try:
        yield Terminal(keyboard, process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        os.close(keyboard)
