"""Blocking reads and writes beside the event loop, which neither Ctrl-C nor the end of the program has to wait for.

asyncio's own pipes would make the terminal non-blocking for everybody who shares it, and cannot read files; its executor is
waited for at the end, and a read from a silent keyboard never ends.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

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
