"""Lines from stdin and text to stdout, by reads and writes beside the event loop.

Neither Ctrl-C nor the end of the program has to wait for them. asyncio's own pipes would make the terminal non-blocking for
everybody who shares it, and cannot read files; its executor is waited for at the end, and a read from a silent keyboard never
ends.
"""

from __future__ import annotations

import asyncio
import os
import queue
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any, TypeVar

from stepstream.cli.options import Misuse

STDIN, STDOUT = 0, 1
READ_BYTES = 1 << 16  # what a pipe holds
LINE_BYTES = 1 << 24  # a million numbers; a file without line ends is refused there rather than read into memory

Result = TypeVar("Result")


class Worker:
    """A daemon thread that makes one call after the other, to be used as a context manager."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()

    def __enter__(self) -> Worker:
        threading.Thread(target=self._work, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._calls.put(None)

    async def call(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """The function's result. If the caller is cancelled, the call goes on and its outcome is dropped."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()

        def settle(result: Result | None, error: BaseException | None) -> None:
            if future.done():
                return
            if error is None:
                future.set_result(result)  # type: ignore[arg-type]
            else:
                future.set_exception(error)

        def make() -> None:
            result, error = None, None
            try:
                result = function(*arguments)
            except Exception as raised:
                error = raised
            with suppress(RuntimeError):  # the loop has been closed meanwhile: nobody waits
                loop.call_soon_threadsafe(settle, result, error)

        self._calls.put(make)
        return await future

    def _work(self) -> None:
        while (make := self._calls.get()) is not None:
            make()


async def read_lines(reading: Worker, source: int) -> AsyncIterator[list[bytes]]:
    """Whole lines, as many at a time as have come, without their ends."""
    number, rest = 0, b""
    while data := await reading.call(os.read, source, READ_BYTES):
        *whole, rest = (rest + data).split(b"\n")
        if len(rest) > LINE_BYTES:
            raise Misuse(f"line {number + len(whole) + 1}: expected at most {LINE_BYTES} bytes, got more")
        number += len(whole)
        if whole:
            yield whole
    if rest:
        yield [rest]


def write(target: int, text: str) -> None:
    """All of it. Raises BrokenPipeError when nobody reads any more."""
    data = memoryview(text.encode())
    while data:
        data = data[os.write(target, data) :]
