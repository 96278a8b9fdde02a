"""The store's own thread, with its own event loop: carries out what engines submit, in groups, and tells them.

No other thread ever waits for it. All that waits when a group begins goes into it, of all engines, up to a bound: the slower the
place, the larger the groups. What cannot be carried out is told as such, and never tried again here.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TypeVar

import structlog

from stepstream_server.engine.ports import Create, End, Outcome, StoreDone, Task, Write
from stepstream_server.spec import ModelSpec
from stepstream_server.store.counter import Counter, not_done, size
from stepstream_server.store.port import Archive, Errand, Result

# What a group takes in at most: as much as a disk writes in some tenths of a second. More waits for the next one.
_TASKS_AT_ONCE = 256
_BYTES_AT_ONCE = 1 << 24
_CLOSE_SECONDS = 30.0  # a disk that takes longer for what is left hangs, and a server that is told to end is to end

_LEVEL = {True: logging.ERROR, False: logging.INFO}  # by whether it fails

T = TypeVar("T")
_Order = tuple[Counter, Task]


class StoreThread:
    """A store that serves engines until it is closed. `wall_clock`: unix seconds."""

    def __init__(self, archive: Archive, wall_clock: Callable[[], float] = time.time) -> None:
        self._archive = archive
        self._wall_clock = wall_clock
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="store", daemon=True)
        self._opened = Future[asyncio.AbstractEventLoop]()
        self._woken = asyncio.Event()
        self._lock = threading.Lock()  # around all below
        self._waiting: deque[_Order] = deque()
        self._awake = True
        self._closing = self._ended = False
        self._failing: set[str] = set()  # of reading and writing: what does not work now; the thread's own

    @property
    def outlives(self) -> bool:
        """Tells whether records survive this process."""
        return self._archive.outlives

    def start(self) -> None:
        """Opens the store and begins to serve. Raises StoreError."""
        self._thread.start()
        self._opened.result()

    def counter(self, spec: ModelSpec, numerics: str, tell: Callable[[StoreDone], None]) -> Counter:
        """A counter for a model's engine, whose backend computes by those numerics. `tell` is called on the store's thread."""
        return Counter(spec, numerics, tell, self._submit)

    def close(self) -> None:
        """Carries out what was submitted, then ends the thread and lets go of the store. What comes later is refused. A store
        that hangs is left behind."""
        with self._lock:
            self._closing = True
        self._wake()
        self._thread.join(_CLOSE_SECONDS)
        if self._thread.is_alive():
            structlog.get_logger(__name__).error("store_hangs", store=self._archive.name, seconds=_CLOSE_SECONDS)

    def _submit(self, counter: Counter, task: Task) -> None:
        with self._lock:
            ended = self._ended
            if not ended:
                self._waiting.append((counter, task))
            asleep, self._awake = not self._awake, True
        if ended:
            counter.tell(StoreDone([not_done(task, self._archive.name, "it has been closed")]))
        elif asleep:
            self._wake()

    def _wake(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended, and so has the thread
            self._opened.result().call_soon_threadsafe(self._woken.set)

    # The thread ------------------------------------------------------------------------------------------------------

    async def _serve(self) -> None:
        try:
            await self._archive.open()
        except BaseException as error:
            self._opened.set_exception(error)
            return
        self._opened.set_result(asyncio.get_running_loop())
        while not self._ended:
            if group := self._next_group():
                await self._carry_out(group)
            elif not self._ended:
                await self._woken.wait()
                self._woken.clear()
        await self._archive.close()

    def _next_group(self) -> list[_Order]:
        """Takes the group that is carried out next; an empty one: there is nothing to do now, or ever."""
        group: list[_Order] = []
        with self._lock:
            room = _BYTES_AT_ONCE
            while self._waiting and len(group) < _TASKS_AT_ONCE and room > 0:
                group.append(self._waiting.popleft())
                room -= size(group[-1][1])
            self._awake = bool(group)
            self._ended = self._closing and not group
        return group

    async def _carry_out(self, group: Sequence[_Order]) -> None:
        began = time.perf_counter()
        laid = [_tried(counter, counter.errand, task) for counter, task in group]
        results = iter(await self._results([errand for errand in laid if isinstance(errand, Errand)]))
        seconds = time.perf_counter() - began
        told: dict[Counter, list[Outcome]] = {}
        for (counter, task), errand in zip(group, laid, strict=True):
            result = next(results) if isinstance(errand, Errand) else errand
            told.setdefault(counter, []).append(self._outcome(counter, task, errand, result, seconds))
        for counter, outcomes in told.items():
            _tell(counter, StoreDone(outcomes))

    def _outcome(
        self, counter: Counter, task: Task, errand: Errand | Exception, result: Result | Exception, seconds: float
    ) -> Outcome:
        if isinstance(errand, Exception):
            return not_done(task, self._archive.name, errand)
        if isinstance(result, Exception):
            return not_done(task, self._archive.name, result)
        outcome = _tried(counter, counter.outcome, errand, result, seconds)
        return not_done(task, self._archive.name, outcome) if isinstance(outcome, Exception) else outcome

    async def _results(self, errands: Sequence[Errand]) -> Sequence[Result | Exception]:
        """Gives what came of each errand. Where a group that writes fails, its reads are carried out by themselves."""
        writing = [isinstance(errand.task, Create | Write | End) for errand in errands]
        results = await self._attempt("writing" if any(writing) else "reading", errands)
        if not isinstance(results, Exception):
            return results
        error, reads = results, [errand for errand, writes in zip(errands, writing, strict=True) if not writes]
        if not reads or len(reads) == len(errands):
            return [error] * len(errands)
        read = await self._attempt("reading", reads)
        rest = iter([read] * len(reads) if isinstance(read, Exception) else read)
        return [error if writes else next(rest) for writes in writing]

    async def _attempt(self, operation: str, errands: Sequence[Errand]) -> Sequence[Result] | Exception:
        """Carries a group out, or says why not. The log is told when the answer is another than before."""
        try:
            results: Sequence[Result] | Exception = await self._archive.carry_out(errands, self._wall_clock())
        except Exception as error:  # whatever it is: the engines are told, and the thread goes on
            results = error
        failing = isinstance(results, Exception)
        if failing != (operation in self._failing):
            self._failing ^= {operation}
            event = "store_failing" if failing else "store_recovered"
            why = {"error": str(results), "kind": type(results).__name__} if failing else {}
            structlog.get_logger(__name__).log(_LEVEL[failing], event, store=self._archive.name, operation=operation, **why)
        return results


def _tried(counter: Counter, action: Callable[..., T], *arguments: object) -> T | Exception:
    """Carries an action out: gives its result, or the error that it raises, which is that task's trouble alone."""
    try:
        return action(*arguments)
    except Exception as error:
        structlog.get_logger(__name__).exception("store_task_failed", model=counter.space.model, version=counter.space.version)
        return error


def _tell(counter: Counter, done: StoreDone) -> None:
    """Tells an engine; one that has ended meanwhile is no reason to stop."""
    try:
        counter.tell(done)
    except Exception:
        structlog.get_logger(__name__).exception("store_untold", model=counter.space.model, version=counter.space.version)
