"""Stdin and stdout, read and written beside the event loop, however they were opened: closed, or non-blocking by a neighbour.

Neither Ctrl-C nor the end of the program has to wait for them. asyncio's own pipes would make the terminal non-blocking for
everybody who shares it, and cannot read files; its executor is waited for at the end, and a read from a silent keyboard never
ends.
"""

from __future__ import annotations

import asyncio
import fcntl
import io
import os
import queue
import select
import sys
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import suppress
from typing import Any, TypeVar

from stepstream.cli.options import Misuse

STDIN, STDOUT, STDERR = 0, 1, 2
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


# The standard streams ------------------------------------------------------------------------------------------------


def settle() -> None:
    """Makes the standard streams what the command expects, however the process was started.

    A descriptor that is closed is taken by /dev/null, open the wrong way round: no socket gets its number and is read or written
    in its place, and `require` finds it. What typer and others print waits as `write` does.
    """
    for descriptor, flags in ((STDIN, os.O_WRONLY), (STDOUT, os.O_RDONLY), (STDERR, os.O_WRONLY)):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, flags)  # gets the lowest number that is free, which is this one
    sys.stdout, sys.stderr = _waiting(sys.stdout), _waiting(sys.stderr)


def require(descriptor: int) -> None:
    """Raises Misuse for a stdin that cannot be read, a stdout that cannot be written."""
    name, use, other = ("stdin", "reading", os.O_WRONLY) if descriptor == STDIN else ("stdout", "writing", os.O_RDONLY)
    if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == other:
        raise Misuse(f"{name}: expected to be open for {use}, got it closed")


async def pieces(reading: Worker) -> AsyncIterator[bytes]:
    """Stdin as it comes. Raises Misuse if it is closed."""
    require(STDIN)
    while data := await reading.call(_when_ready, select.POLLIN, os.read, STDIN, READ_BYTES):
        yield data


async def read_all() -> bytes:
    """Stdin to its end."""
    with Worker() as reading:
        return b"".join([piece async for piece in pieces(reading)])


async def read_lines(reading: Worker) -> AsyncGenerator[list[bytes], None]:
    """Whole lines of stdin, as many at a time as have come, without their ends."""
    number, size = 0, 0
    begun: list[bytes] = []  # pieces of a line whose end has not come, `size` bytes together
    async for data in pieces(reading):
        first, *more = data.split(b"\n")
        begun.append(first)
        size += len(first)
        if more:
            yield [b"".join(begun), *more[:-1]]
            number += len(more)
            begun, size = [more[-1]], len(more[-1])
        if size > LINE_BYTES:
            raise Misuse(f"line {number + 1}: expected at most {LINE_BYTES} bytes, got more")
    if size:
        yield [b"".join(begun)]


def write(data: bytes) -> None:
    """All of it, to stdout. Raises BrokenPipeError when nobody reads any more."""
    rest = memoryview(data)
    while rest:
        rest = rest[_when_ready(select.POLLOUT, os.write, STDOUT, rest) :]


def _when_ready(event: int, call: Callable[[int, Any], Result], descriptor: int, argument: Any) -> Result:
    """A read or a write that waits for its turn, also where a neighbour in the pipeline has set O_NONBLOCK on what it shares."""
    while True:
        try:
            return call(descriptor, argument)
        except BlockingIOError:
            ready = select.poll()
            ready.register(descriptor, event)
            ready.poll()


class _Waiting(io.FileIO):
    """The end of a text stream at its descriptor."""

    def write(self, data: Any, /) -> int:
        return _when_ready(select.POLLOUT, os.write, self.fileno(), data)


def _waiting(stream: Any) -> Any:
    """Makes a stream's writes wait. None, as Python has a stream whose descriptor was closed, stays None."""
    if stream is None:
        return None
    buffer = io.BufferedWriter(_Waiting(stream.fileno(), "wb", closefd=False))
    how = {"encoding": stream.encoding, "errors": stream.errors, "line_buffering": stream.line_buffering}
    return io.TextIOWrapper(buffer, **how, write_through=stream.write_through)
