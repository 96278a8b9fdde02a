"""An engine's side of a store, for tests: groups of sessions to keep, and who asks and waits for the outcome."""

from __future__ import annotations

import itertools
import queue
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from stepstream_server.engine.ports import (
    HEAD,
    Browse,
    Create,
    End,
    Ending,
    Find,
    FindOverdue,
    Group,
    Outcome,
    Record,
    Request,
    StoreDone,
    Task,
    Tensor,
    Write,
)
from stepstream_server.spec import ModelSpec
from stepstream_server.store import StoreThread
from support.backend import counter_spec

PATIENCE = 60.0  # seconds after which an outcome is believed never to come
LATER = 4e9  # unix seconds, long after any test


def group(
    keys: Sequence[str],
    spec: ModelSpec | None = None,
    *,
    next_seq: int = 10,
    unacknowledged: int = 0,
    seed: int = 0,
    drawn: dict[int, Tensor] | None = None,
    **numbers: float,
) -> Group:
    """Sessions as they might stand, with states and outputs by a seed. Every second unacknowledged step keeps its outputs."""
    spec, count, chance = spec or counter_spec(), len(keys), np.random.default_rng(seed)
    heads = np.zeros(count, HEAD)
    heads["next_seq"], heads["acked"], heads["idle_ttl"], heads["used_at"] = next_seq, next_seq - unacknowledged, 60.0, 1e9
    for name, value in numbers.items():
        heads[name] = value
    held = np.arange(count * unacknowledged) % 2 == 0
    return Group(
        keys=list(keys),
        heads=heads,
        secrets=chance.integers(0, 256, (count, 32), np.uint8),
        states={each.name: _values(chance, (count, *each.shape), each.dtype) for each in spec.states},
        held=held,
        outputs=tuple(_values(chance, (int(held.sum()), *each.shape), each.dtype) for each in spec.outputs),
        drawn=drawn or {},
    )


def _values(chance: np.random.Generator, shape: tuple[int, ...], dtype: str) -> Tensor:
    return chance.integers(0, 2 if dtype == "bool" else 1000, shape).astype(dtype)


class Customer:
    """Asks a store as the engine of one model does."""

    def __init__(self, store: StoreThread, spec: ModelSpec | None = None, numerics: str = "by hand") -> None:
        self.spec = spec or counter_spec()
        self.told = queue.Queue[StoreDone]()
        self._counter = store.counter(self.spec, numerics, self.told.put)
        self._numbers = itertools.count()

    def submit(self, task: Callable[[int], Task]) -> int:
        """Asks, and does not wait. Returns the task's number."""
        number = next(self._numbers)
        self._counter.submit(task(number))
        return number

    def outcomes(self, count: int) -> list[Outcome]:
        """The next ones, waited for."""
        outcomes: list[Outcome] = []
        while len(outcomes) < count:
            outcomes += self.told.get(timeout=PATIENCE).outcomes
        assert len(outcomes) == count
        return outcomes

    def ask(self, task: Callable[[int], Task]) -> Any:
        """Asks and waits for the outcome."""
        number = self.submit(task)
        (outcome,) = self.outcomes(1)
        assert outcome.number == number
        return outcome

    def find(self, *keys: str) -> list[Any]:
        return list(self.ask(lambda number: Find(number, keys)).sessions)

    def create(self, sessions: Group, request: Request | None = None) -> Any:
        return self.ask(lambda number: Create(number, sessions, request))

    def write(self, sessions: Group) -> Any:
        return self.ask(lambda number: Write(number, sessions))

    def end(self, *keys: str, ending: Ending = Ending.CLOSED, until: float = LATER) -> Any:
        return self.ask(lambda number: End(number, keys, ending, until))

    def overdue(self, now: float, most: int = 100) -> list[str]:
        return list(self.ask(lambda number: FindOverdue(number, now, most)).keys)

    def browse(self, tenant: str = "", after: str = "", most: int = 100) -> Any:
        return self.ask(lambda number: Browse(number, tenant, after, most))


def check_same(record: Any, sessions: Group, place: int = 0) -> None:
    """Asserts that a record is the session at a place of a group, whose sessions have as many unacknowledged steps each."""
    assert isinstance(record, Record), record
    head = sessions.heads[place]
    steps = int(head["next_seq"] - head["acked"])
    before = slice(0, place * steps)
    held = sessions.held[place * steps : (place + 1) * steps]
    start, kept = int(sessions.held[before].sum()), int(held.sum())
    assert record.key == sessions.keys[place]
    assert record.head == head
    assert (record.snapshot.next_seq, record.snapshot.acked) == (head["next_seq"], head["acked"])
    assert (record.snapshot.epoch, record.snapshot.idle_ttl) == (head["epoch"], head["idle_ttl"])
    assert record.secret == sessions.secrets[place].tobytes()
    assert record.snapshot.states.keys() == sessions.states.keys()
    for name, values in sessions.states.items():
        _check_equal(record.snapshot.states[name], values[place])
    _check_equal(record.snapshot.held, held)
    for actual, values in zip(record.snapshot.outputs.values(), sessions.outputs, strict=True):
        _check_equal(actual, values[start : start + kept])
    drawn = sessions.drawn.get(place)
    assert (record.drawn is None) == (drawn is None)
    if record.drawn is not None and drawn is not None:
        _check_equal(record.drawn, drawn)


def _check_equal(actual: Tensor, expected: Tensor) -> None:
    assert (actual.dtype, actual.shape) == (expected.dtype, expected.shape)
    assert actual.tobytes() == expected.tobytes()
