"""A store that does what a test says, when it says so: tasks wait until they are carried out, fail, or lose their reply."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from stepstream_server.engine.ports import STORE_DOOR, Inbox, Outcome, StoreDone, Task
from stepstream_server.spec import ModelSpec
from stepstream_server.store.counter import Counter, not_done
from stepstream_server.store.memory import MemoryStore


@dataclass
class Contents:
    """Records that outlive an engine: hand the same ones to its successor's store. `clock`: unix seconds."""

    archive: MemoryStore = field(default_factory=MemoryStore)
    clock: Callable[[], float] = time.time


class SteppedStore:
    """A `Store` for an engine that a test turns. Outcomes go to `inbox` under STORE_DOOR, and are returned as well.

    `tasks` holds those that wait, in order: look at them, then say of the first what becomes of it.
    """

    def __init__(
        self, spec: ModelSpec, numerics: str = "by hand", contents: Contents | None = None, inbox: Inbox | None = None
    ) -> None:
        self.contents = contents or Contents()
        self.inbox = inbox  # may be set later, when the engine is there
        self.tasks: deque[Task] = deque()
        self._counter = Counter(spec, numerics, self._tell, lambda _, task: self.tasks.append(task))

    def submit(self, task: Task) -> None:
        self._counter.submit(task)

    def step(self) -> StoreDone:
        """Carries the first task out, and tells its outcome."""
        return self._done(self._carry_out(self.tasks.popleft()))

    def step_all(self) -> StoreDone:
        """Carries all out that wait, in one group."""
        return self._done(*(self._carry_out(self.tasks.popleft()) for _ in range(len(self.tasks))))

    def fail(self, problem: str = "database or disk is full") -> StoreDone:
        """Does nothing of the first task, and says so."""
        return self._done(not_done(self.tasks.popleft(), "stepped:", problem))

    def lose_reply(self, problem: str = "connection lost") -> StoreDone:
        """Carries the first task out, and yet says that it was not done."""
        task = self.tasks.popleft()
        self._carry_out(task)
        return self._done(not_done(task, "stepped:", problem))

    def die(self) -> None:
        """Carries the first task out and tells nobody, as if the server died in between."""
        self._carry_out(self.tasks.popleft())

    def _carry_out(self, task: Task) -> Outcome:
        errand = self._counter.errand(task)
        try:
            self.contents.archive.carry_out([errand], self.contents.clock()).send(None)
        except StopIteration as end:  # memory never waits
            return self._counter.outcome(errand, end.value[0], seconds=0.0)
        raise AssertionError("expected a store in memory not to wait")

    def _done(self, *outcomes: Outcome) -> StoreDone:
        done = StoreDone(outcomes)
        self._counter.tell(done)
        return done

    def _tell(self, done: StoreDone) -> None:
        if self.inbox is not None:
            self.inbox.put((STORE_DOOR, (done,)))
