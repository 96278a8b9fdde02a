"""A server on an event loop of its own thread, for tests of what blocks."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import Any, Generic, TypeVar

Value = TypeVar("Value")
Result = TypeVar("Result")


class Background(Generic[Value]):
    """What runs there. value: what the context gave."""

    def __init__(self, value: Value) -> None:
        self.value = value
        self._loop = asyncio.get_running_loop()

    def call(self, function: Callable[[], Result]) -> Result:
        """Has it called there."""

        async def called() -> Result:
            return function()

        return self.wait(called())

    def wait(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Has it awaited there."""
        return self.start(work).result()

    def start(self, work: Coroutine[Any, Any, Result]) -> Future[Result]:
        """Begins to await it there."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)


@contextmanager
def in_background(context: AbstractAsyncContextManager[Value]) -> Iterator[Background[Value]]:
    """Keeps an async context open on another thread until the block ends; raises what it raises."""
    begun: Future[tuple[Background[Value], asyncio.Event]] = Future()

    async def keep() -> None:
        stop = asyncio.Event()
        async with context as value:
            begun.set_result((Background(value), stop))
            await stop.wait()

    ended: Future[None] = Future()

    def main() -> None:
        try:
            asyncio.run(keep())
        except BaseException as error:
            (ended if begun.done() else begun).set_exception(error)
        else:
            ended.set_result(None)

    thread = threading.Thread(target=main, name="background")
    thread.start()
    background, stop = begun.result()
    try:
        yield background
    finally:
        background.call(stop.set)
        thread.join()
    ended.result()
