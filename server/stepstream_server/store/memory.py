"""A store in the server's own memory: it dies with the server, and is for trying things out and for tests."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from stepstream_server.engine.ports import Browse, Create, End, Ending, FindOverdue
from stepstream_server.store.port import Added, Errand, Kept, Result, Row, Space, carry_out
from stepstream_server.tenancy import tenant_of

_LOOKED_AT = 64  # of what is remembered, with every group: as many as a group usually adds, so that it does not heap up


class _Requested(NamedTuple):
    """A request that has opened sessions."""

    what: bytes
    keys: Sequence[str]
    until: float


class _Ended(NamedTuple):
    """Why a session is gone."""

    ending: Ending
    until: float


@dataclass
class _Shelf:
    """All of one model, by key."""

    rows: dict[str, Row] = field(default_factory=dict)
    endings: dict[str, _Ended] = field(default_factory=dict)
    requests: dict[str, _Requested] = field(default_factory=dict)


class MemoryStore:
    """Records in dictionaries."""

    name = "memory:"
    outlives = False

    def __init__(self) -> None:
        self._shelves: dict[Space, _Shelf] = {}

    async def open(self) -> None:
        """Has nothing to do."""

    async def close(self) -> None:
        """Has nothing to do."""

    async def carry_out(self, errands: Sequence[Errand], now: float) -> Sequence[Result]:
        results = [carry_out(self, errand, now) for errand in errands]
        for shelf in self._shelves.values():
            _forget(shelf, now)
        return results

    def read(self, space: Space, keys: Sequence[str], now: float) -> list[Kept]:
        shelf = self._shelf(space)
        return [_kept(shelf, key, now) for key in keys]

    def add(self, space: Space, rows: Sequence[Row], task: Create, now: float) -> Added:
        shelf, request = self._shelf(space), task.request
        if request is not None and (made := shelf.requests.get(request.id)) is not None and made.until > now:
            return Added(before=(made.what, made.until, [(key, _kept(shelf, key, now)) for key in made.keys]))
        if taken := [row.key for row in rows if row.key in shelf.rows]:
            return Added(taken)
        self.put(space, rows)
        if request is not None and rows:
            shelf.requests[request.id] = _Requested(request.what, [row.key for row in rows], request.until)
        return Added()

    def put(self, space: Space, rows: Sequence[Row]) -> None:
        self._shelf(space).rows.update((row.key, row) for row in rows)

    def remove(self, space: Space, task: End) -> None:
        shelf = self._shelf(space)
        for key in task.keys:
            shelf.rows.pop(key, None)
            shelf.endings.pop(key, None)  # so that it stands behind those which were remembered before
            shelf.endings[key] = _Ended(task.ending, task.until)

    def overdue(self, space: Space, task: FindOverdue) -> list[str]:
        late = sorted((row.due, key) for key, row in self._shelf(space).rows.items() if row.due < task.now)
        return [key for _, key in late[: task.most]]

    def page(self, space: Space, task: Browse) -> list[tuple[str, bytes]]:
        rows = self._shelf(space).rows
        keys = sorted(key for key in rows if key > task.after and tenant_of(key) == task.tenant)
        return [(key, rows[key].head) for key in keys[: task.most]]

    def _shelf(self, space: Space) -> _Shelf:
        return self._shelves.setdefault(space, _Shelf())


def _kept(shelf: _Shelf, key: str, now: float) -> Kept:
    if (row := shelf.rows.get(key)) is not None:
        return row.record
    ended = shelf.endings.get(key)
    return ended.ending if ended is not None and ended.until > now else None


def _forget(shelf: _Shelf, now: float) -> None:
    """Forgets what need not be remembered any more, among the oldest."""
    for remembered in (shelf.endings, shelf.requests):
        for key in list(itertools.islice(remembered, _LOOKED_AT)):
            if remembered[key].until <= now:
                del remembered[key]
