"""Questions: what an engine has asked of its store and has not been told yet, and when it asks again."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

from stepstream_server.config import StoreSettings
from stepstream_server.engine.ports import NotDone, Outcome, Store, StoreDone, Task, TurnReport

_FIRST_RETRY_SECONDS = 0.1  # a lock or a slow disk is over by then
_LAST_RETRY_SECONDS = 1.0  # a full disk is mended by hand: asking more often finds nothing new

Then = Callable[[Outcome, float, TurnReport], None]  # is told the outcome, the time (monotonic seconds) and the turn's report


@dataclass(frozen=True, slots=True)
class Keeping:
    """How an engine keeps durable sessions."""

    store: Store
    settings: StoreSettings
    always: bool  # whether sessions are durable that nobody asks to be


class Retry:
    """The time at which a store that has failed is asked again: soon, then later and later."""

    def __init__(self) -> None:
        self._pause = _FIRST_RETRY_SECONDS
        self.at = float("-inf")  # monotonic seconds

    def failed(self, now: float) -> None:
        """It has failed."""
        self.at, self._pause = now + self._pause, min(2 * self._pause, _LAST_RETRY_SECONDS)

    def worked(self) -> None:
        """It has not."""
        self._pause = _FIRST_RETRY_SECONDS


class Questions:
    """Tasks under way, each with who is to hear of its outcome, in a later turn."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._numbers = itertools.count()
        self._waiting: dict[int, Then] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def ask(self, task: Callable[[int], Task], then: Then) -> None:
        """Submits a task made for a number."""
        number = next(self._numbers)
        self._waiting[number] = then
        self._store.submit(task(number))

    def settle(self, done: StoreDone, now: float, report: TurnReport) -> None:
        """Tells who waits, in the order of the outcomes."""
        for outcome in done.outcomes:
            report.store_failures += isinstance(outcome, NotDone)
            self._waiting.pop(outcome.number)(outcome, now, report)
