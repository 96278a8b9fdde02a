"""The port of places that keep records: they carry out errands, in groups. It knows keys and bytes, not sessions.

An errand is a task of an engine with its sessions as rows, beside the model that they are of. Errands are carried out in their
order, each entirely or not at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from stepstream_server.engine.ports import Browse, Create, End, Ending, Find, FindOverdue, Task, Write


class StoreError(Exception):
    """A store cannot be opened. The message names it, and says what was expected and what was found."""


class Space(NamedTuple):
    """The part of a store in which a model's sessions are."""

    model: str
    version: int


class Row(NamedTuple):
    """A session as a store keeps it."""

    key: str
    due: float  # unix seconds from when on it has been idle for longer than it may
    head: bytes  # of HEAD, by itself for who browses
    record: bytes


Kept = bytes | Ending | None  # what there is under a key: a record, how it ended, or nothing


class Errand(NamedTuple):
    """A task, and the rows of its group if it has one."""

    space: Space
    task: Task
    rows: Sequence[Row] = ()


@dataclass(frozen=True, slots=True)
class Added:
    """The fate of a Create: the raw form of `Created`."""

    taken: Sequence[str] = ()
    before: tuple[bytes, float, Sequence[tuple[str, Kept]]] | None = None


# By task: Find: what there is under each key; Create: Added; FindOverdue: keys; Browse: keys with heads; Write and End: None.
Result = Sequence[Kept] | Added | Sequence[str] | Sequence[tuple[str, bytes]] | None


class Archive(Protocol):
    """A place that keeps records. All is called on one thread, the store's, one call after the other."""

    name: str  # for messages
    outlives: bool  # whether records survive this process

    async def open(self) -> None:
        """Gets ready. Raises StoreError."""

    async def carry_out(self, errands: Sequence[Errand], now: float) -> Sequence[Result]:
        """Carries errands out, one result each. now: unix seconds; what was to be remembered until then is forgotten.

        Raises what the place raises: then nothing was changed, or nobody knows. The next call begins afresh.
        """

    async def close(self) -> None:
        """Lets go of everything."""


class Shelf(Protocol):
    """A place in this process: each errand is a call, and somebody else sees to it that they stand or fall together."""

    def read(self, space: Space, keys: Sequence[str], now: float) -> list[Kept]:
        """Gives what there is under each key; a record comes before an ending."""

    def add(self, space: Space, rows: Sequence[Row], task: Create, now: float) -> Added:
        """Adds rows and the request, or nothing."""

    def put(self, space: Space, rows: Sequence[Row]) -> None:
        """Writes rows, whether there are some under their keys or not."""

    def remove(self, space: Space, task: End) -> None:
        """Removes rows and remembers why."""

    def overdue(self, space: Space, task: FindOverdue) -> list[str]:
        """Keys of rows that were due before, the longest overdue first."""

    def page(self, space: Space, task: Browse) -> list[tuple[str, bytes]]:
        """Keys and heads of a tenant's rows."""


def carry_out(shelf: Shelf, errand: Errand, now: float) -> Result:
    """Carries an errand out on a shelf. now: unix seconds."""
    space, task, rows = errand
    match task:
        case Find():
            return shelf.read(space, task.keys, now)
        case Create():
            return shelf.add(space, rows, task, now)
        case Write():
            shelf.put(space, rows)
        case End():
            shelf.remove(space, task)
        case FindOverdue():
            return shelf.overdue(space, task)
        case Browse():
            return shelf.page(space, task)
    return None
