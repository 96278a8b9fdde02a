"""A background thread with an event loop, on which other threads have things done. Knows nothing of sessions."""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections.abc import AsyncIterator, Awaitable, Coroutine, Generator
from concurrent.futures import Future, wait
from contextlib import AbstractAsyncContextManager, aclosing, suppress
from typing import Any, Generic, Protocol, TypeVar

from stepstream._errors import ConnectionLost

AHEAD = 64  # items that share a change of threads, which takes about as long as ten of them take the loop

Item = TypeVar("Item")
Given_co = TypeVar("Given_co", covariant=True)


class Source(Protocol[Given_co]):
    """What is iterated and closed in the end: a generator, a rollout."""

    def __aiter__(self) -> AsyncIterator[Given_co]: ...

    def aclose(self) -> Awaitable[object]: ...


class Ahead(Generic[Item]):
    """A source and what it has given and nobody has taken. Made anywhere, used on the loop."""

    def __init__(self, source: Source[Item]) -> None:
        self._source = source
        self._items: asyncio.Queue[Item | None] = asyncio.Queue(AHEAD)  # None: the end
        self._error: Exception | None = None  # that it ended with
        self._task: asyncio.Task[None] | None = None

    async def take(self) -> list[Item]:
        """What is there, at least one item; none at the end. Raises the source's error after the items before it."""
        if self._task is None:
            self._task = asyncio.create_task(self._fill(), name="stepstream items ahead")
        taken: list[Item] = []
        while not taken or not self._items.empty():
            if (item := await self._items.get()) is None:
                self._items.put_nowait(None)  # for the next call
                if self._error is not None and not taken:
                    raise self._error
                break
            taken.append(item)
        return taken

    def cancel(self) -> None:
        """Nothing more is wanted."""
        if self._task is not None:
            self._task.cancel()

    async def close(self) -> None:
        """Cancels, and waits until the source has ended."""
        self.cancel()
        if self._task is not None:
            await asyncio.wait([self._task])

    async def _fill(self) -> None:
        try:
            async with aclosing(self._source) as source:
                async for item in source:
                    await self._items.put(item)
        except Exception as error:
            self._error = error
        await self._items.put(None)


EXIT_SECONDS = 5.0  # that a client which was never closed may hold the interpreter's exit up; closing takes milliseconds

Result = TypeVar("Result")


class LoopThread:
    """Keeps an async context open on a thread of its own, from the first `run` to `stop`.

    The thread is a daemon: it never keeps the interpreter from ending.
    """

    def __init__(self, context: AbstractAsyncContextManager[Any]) -> None:
        self._context = context
        self._lock = threading.Lock()  # of what follows
        self._process = 0  # where the thread runs; 0: it was not started
        self._stopped = False
        self._thread = threading.Thread(target=self._main, name="stepstream client", daemon=True)
        self._started: Future[None] = Future()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None

    def run(self, work: Awaitable[Result]) -> Result:
        """Has it awaited on the loop and waits for its result. Interrupted (Ctrl-C), it cancels the work and waits for its end.

        Raises ConnectionLost after `stop`, and RuntimeError where it would wait for ever: on the loop's own thread and in a
        forked process.
        """
        job = self._submit(work)
        try:
            return job.outcome.result()
        except BaseException:
            if not job.outcome.done():
                with suppress(RuntimeError):  # the loop has ended meanwhile, and the work with it
                    self._running().call_soon_threadsafe(job.cancel)
                wait([job.outcome])
            raise

    def submit(self, work: Awaitable[Result]) -> Future[Result]:
        """Has it awaited on the loop. Raises as `run`."""
        return self._submit(work).outcome

    def iterate(self, source: Source[Result]) -> Generator[Result, None, None]:
        """The items of an async generator or the like, taken ahead of their use by a few."""
        ahead = Ahead(source)
        try:
            while items := self.run(ahead.take()):
                yield from items
        finally:
            self._finish(ahead)

    def stop(self, patience_seconds: float | None = None) -> None:
        """Leaves the context and ends the thread. Calls that still wait end with an error. Waits for the thread's end."""
        with self._lock:
            first, self._stopped = not self._stopped, True
            if self._process != os.getpid():
                return
            with suppress(Exception):  # it never got so far, as whoever started it was told
                self._started.result()
                if first and self._stop is not None:
                    self._running().call_soon_threadsafe(self._stop.set)
        if threading.current_thread() is not self._thread:
            self._thread.join(patience_seconds)

    # ------------------------------------------------------------------------------------------------------------------

    def _submit(self, work: Awaitable[Result]) -> _Job[Result]:
        job = _Job(work)
        try:
            self._start(job)
        except BaseException:
            job.drop()
            raise
        return job

    def _start(self, job: _Job[Any]) -> None:
        if threading.current_thread() is self._thread:
            raise RuntimeError("called on the client's own thread, which would wait for itself")
        with self._lock:
            if self._stopped:
                raise ConnectionLost("the client was closed")
            if self._process == 0:
                self._process = os.getpid()
                self._thread.start()
            if self._process != os.getpid():
                raise RuntimeError("the client belongs to the process that this one was forked from; make another one here")
            self._started.result()
            self._running().call_soon_threadsafe(job.start)

    def _running(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            raise RuntimeError("the thread has not been started")
        return self._loop

    def _finish(self, ahead: Ahead[Any]) -> None:
        """Ends a generator that is not wanted any more."""
        if threading.current_thread() is self._thread:  # the garbage collector came upon it there
            ahead.cancel()
            return
        with suppress(ConnectionLost, RuntimeError):  # it has ended with the loop, or was left behind by a fork
            self.run(ahead.close())

    def _main(self) -> None:
        with asyncio.Runner() as runner:  # cancels on leaving what is still under way
            try:
                runner.run(self._serve())
            except BaseException as error:
                if not self._started.done():
                    self._started.set_exception(error)

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        async with self._context:
            self._started.set_result(None)
            await self._stop.wait()


class Blocking:
    """What a blocking client and all that it gives out hold: has work done on the client's loop and waits for it.

    The thread ends by `close`, when nothing holds this any more, or at the interpreter's exit.
    """

    def __init__(self, context: AbstractAsyncContextManager[Any]) -> None:
        self._thread = LoopThread(context)
        weakref.finalize(self, self._thread.stop, EXIT_SECONDS)

    def run(self, work: Awaitable[Result]) -> Result:
        """As `LoopThread.run`."""
        return self._thread.run(work)

    async def elsewhere(self, work: Awaitable[Result]) -> Result:
        """Has it awaited on this loop while another one goes on, which is the one that this is called in."""
        return await asyncio.wrap_future(self._thread.submit(work))

    def iterate(self, source: Source[Result]) -> Generator[Result, None, None]:
        """As `LoopThread.iterate`."""
        return self._thread.iterate(source)

    def close(self) -> None:
        """Ends the thread, and with an error whatever waits for it."""
        self._thread.stop()


class _Job(Generic[Result]):
    """Something to be awaited on the loop, and its outcome for another thread."""

    def __init__(self, work: Awaitable[Result]) -> None:
        self._work = work
        self._task: asyncio.Task[Result] | None = None
        self.outcome: Future[Result] = Future()

    def start(self) -> None:
        """On the loop's thread."""
        self._task = asyncio.ensure_future(_await(self._work))
        self._task.add_done_callback(self._settle)

    def cancel(self) -> None:
        """On the loop's thread."""
        if self._task is not None:
            self._task.cancel()

    def drop(self) -> None:
        """It will not be started."""
        if isinstance(self._work, Coroutine):
            self._work.close()

    def _settle(self, task: asyncio.Task[Result]) -> None:
        if not self.outcome.set_running_or_notify_cancel():  # nobody waits for it
            return
        if task.cancelled():
            self.outcome.set_exception(ConnectionLost("the client was closed"))
        elif (error := task.exception()) is not None:
            self.outcome.set_exception(error)
        else:
            self.outcome.set_result(task.result())


async def _await(work: Awaitable[Result]) -> Result:
    return await work
