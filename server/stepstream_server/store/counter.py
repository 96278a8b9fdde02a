"""A store's counter for one model: tasks of an engine become errands about bytes, and results become outcomes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

from stepstream_server.engine.ports import (
    Browse,
    Browsed,
    Create,
    Created,
    End,
    Ended,
    Ending,
    Find,
    FindOverdue,
    Found,
    NotDone,
    Outcome,
    Overdue,
    Record,
    StoreDone,
    Task,
    Write,
    Written,
)
from stepstream_server.errors import Reason, ServerFault, StepStreamError
from stepstream_server.spec import ModelSpec
from stepstream_server.store.layout import Layout, decoded_heads, dues, encoded_heads
from stepstream_server.store.port import Added, Errand, Kept, Result, Row, Space

_READ_BYTES = 4096  # of a record that is read: the state of H = 512, or of less and some answers
_RETRY_SECONDS = 0.1  # advice to whoever is refused: a lock or a moment of a full disk is over soon


class Counter:
    """One engine's. Its tasks are carried out in the order in which they are submitted."""

    def __init__(
        self, spec: ModelSpec, numerics: str, tell: Callable[[StoreDone], None], queue: Callable[[Counter, Task], None]
    ) -> None:
        self.space = Space(spec.name, spec.version)
        self.tell = tell
        self._layout = Layout(spec, numerics)
        self._queue = queue

    def submit(self, task: Task) -> None:
        """Queues a task. Never waits, never raises."""
        self._queue(self, task)

    def errand(self, task: Task) -> Errand:
        """The task with its sessions as rows. Raises what a group that cannot be laid out raises."""
        if not isinstance(task, Create | Write):
            return Errand(self.space, task)
        group = task.group
        columns = (group.keys, dues(group.heads), encoded_heads(group.heads), self._layout.encode(group))
        return Errand(self.space, task, [Row(*row) for row in zip(*columns, strict=True)])

    def outcome(self, errand: Errand, result: Result, seconds: float) -> Outcome:
        """The outcome of an errand that took so long."""
        task = errand.task
        match task:
            case Find():
                return Found(task.number, self._sessions(task.keys, cast(Sequence[Kept], result)))
            case Create():
                return self._created(task.number, cast(Added, result))
            case Write():
                return Written(task.number, sum(len(row.record) for row in errand.rows), seconds)
            case End():
                return Ended(task.number)
            case FindOverdue():
                return Overdue(task.number, cast(Sequence[str], result))
            case Browse():
                page = cast(Sequence[tuple[str, bytes]], result)
                return Browsed(task.number, [key for key, _ in page], decoded_heads([head for _, head in page]))

    def _created(self, number: int, added: Added) -> Created:
        if added.before is None:
            return Created(number, added.taken)
        what, until, made = added.before
        keys = [key for key, _ in made]
        sessions = self._sessions(keys, [kept for _, kept in made])
        return Created(number, before=(what, until, list(zip(keys, sessions, strict=True))))

    def _sessions(self, keys: Sequence[str], found: Sequence[Kept]) -> list[Record | Ending | StepStreamError | None]:
        return [
            self._layout.decode(key, kept) if isinstance(kept, bytes) else kept for key, kept in zip(keys, found, strict=True)
        ]


def size(task: Task) -> int:
    """Bytes that a task keeps in memory, or brings there, nearly."""
    if isinstance(task, Find):
        return _READ_BYTES * len(task.keys)
    return task.group.bytes + task.group.heads.nbytes if isinstance(task, Create | Write) else 0


def not_done(task: Task, store: str, problem: object) -> NotDone:
    """The outcome of a task that could not be carried out."""
    message = f"store {store}: {_WORDS[type(task)]} failed: {problem}"
    return NotDone(task.number, ServerFault(Reason.STORE_UNAVAILABLE, message, retry_delay_seconds=_RETRY_SECONDS))


_WORDS: dict[type[Task], str] = {
    Find: "reading sessions",
    Create: "adding sessions",
    Write: "writing sessions",
    End: "removing sessions",
    FindOverdue: "looking for idle sessions",
    Browse: "listing sessions",
}
