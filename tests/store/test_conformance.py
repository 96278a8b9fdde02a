"""The conduct of every store, whatever keeps its records. Another kind of store joins by another row of STORES."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stepstream_server.engine.ports import Create, Ended, Ending, Find, Request, Write, Written
from stepstream_server.errors import Reason, StepStreamError
from stepstream_server.store.memory import MemoryStore
from stepstream_server.store.port import Archive
from stepstream_server.store.sqlite import SqliteStore
from stepstream_server.store.thread import StoreThread
from support.backend import counter_spec
from support.clock import FakeClock
from support.storing import LATER, Customer, check_same, group

STORES: dict[str, Callable[[Path], Archive]] = {
    "memory": lambda folder: MemoryStore(),
    "sqlite": lambda folder: SqliteStore(folder / "sessions.db"),
}


@pytest.fixture
def clock() -> FakeClock:
    """Unix seconds."""
    return FakeClock(now=1e9)


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, tmp_path: Path, clock: FakeClock) -> Iterator[StoreThread]:
    """An empty one of each kind."""
    thread = StoreThread(STORES[request.param](tmp_path), clock)
    thread.start()
    yield thread
    thread.close()


@pytest.fixture
def customer(store: StoreThread) -> Customer:
    """An engine."""
    return Customer(store)


def test_a_created_session_is_found_as_it_stood(customer: Customer) -> None:
    """With all that a record has, and the numerics of who wrote it."""
    sessions = group(["a", "b", "c"], unacknowledged=3, drawn={1: np.arange(7, dtype=np.float32).reshape(7, 1)}, epoch=4)
    created = customer.create(sessions)
    assert (created.taken, created.before) == ((), None)
    found = customer.find("c", "nobody", "a", "b")
    assert found[1] is None
    for record, place in zip((found[0], *found[2:]), (2, 0, 1), strict=True):
        check_same(record, sessions, place)
    assert found[0].snapshot.numerics == "by hand"


def test_create_adds_all_or_none(customer: Customer) -> None:
    """One key that is taken keeps the others and the request out."""
    first = group(["b"])
    customer.create(first)
    created = customer.create(group(["a", "b", "c"], seed=1), Request("r", b"what", LATER))
    assert (list(created.taken), created.before) == (["b"], None)
    nothing, untouched, neither = customer.find("a", "b", "c")
    assert nothing is neither is None
    check_same(untouched, first)
    again = customer.create(group(["a", "c"]), Request("r", b"what", LATER))  # the request that failed has left nothing
    assert (again.taken, again.before) == ((), None)


def test_a_repeated_request_finds_what_it_made_before(customer: Customer) -> None:
    """Sessions are told as they stand now, in the order in which they were made."""
    made = group(["a", "b", "c"])
    customer.create(made, Request("r", b"what", LATER))
    customer.end("b", ending=Ending.EVICTED)
    customer.write(newer := group(["c"], next_seq=20))
    repeated = customer.create(group(["x", "y", "z"]), Request("r", b"another", LATER))
    assert not repeated.taken
    what, until, sessions = repeated.before
    assert (what, until) == (b"what", LATER)
    assert [key for key, _ in sessions] == ["a", "b", "c"]
    check_same(sessions[0][1], made)
    assert sessions[1][1] == Ending.EVICTED
    check_same(sessions[2][1], newer)
    assert customer.find("x", "y", "z") == [None] * 3


def test_a_request_is_remembered_until_its_time(customer: Customer, clock: FakeClock) -> None:
    """A repeat after that is a new request, remembered anew."""
    request = Request("r", b"what", clock() + 10)
    customer.create(group(["a"]), request)
    clock.advance(9.9)
    assert customer.create(group(["b"]), request).before is not None
    clock.advance(0.1)
    assert customer.create(group(["b"]), replace(request, until=LATER)).before is None
    assert customer.create(group(["c"]), request).before is not None


def test_write_replaces_and_adds(customer: Customer) -> None:
    """Whatever was written of a session before."""
    customer.create(group(["a", "b"], unacknowledged=5))
    newer = group(["a", "new"], next_seq=99, seed=1)
    written = customer.write(newer)
    assert isinstance(written, Written)
    assert written.bytes > newer.bytes
    replaced, untouched, added = customer.find("a", "b", "new")
    check_same(replaced, newer)
    check_same(untouched, group(["a", "b"], unacknowledged=5), 1)
    check_same(added, newer, 1)


def test_an_ended_session_is_gone_and_its_ending_remembered(customer: Customer, clock: FakeClock) -> None:
    """So is that of a session which the store has never seen."""
    customer.create(group(["a", "b"]))
    assert isinstance(customer.end("a", "was never there", ending=Ending.MOVED, until=clock() + 10), Ended)
    assert customer.find("a", "was never there")[:2] == [Ending.MOVED] * 2
    check_same(customer.find("b")[0], group(["a", "b"]), 1)
    clock.advance(10)
    assert customer.find("a") == [None]


def test_the_last_ending_counts(customer: Customer, clock: FakeClock) -> None:
    """Its time is that of the second ending, not of the first."""
    customer.end("a", ending=Ending.EXPIRED, until=clock() + 5)
    customer.end("a", ending=Ending.CLOSED, until=clock() + 10)
    clock.advance(7)
    customer.write(group(["z"]))
    assert customer.find("a") == [Ending.CLOSED]


@pytest.mark.parametrize("again", [Create, Write])
def test_a_new_session_stands_in_front_of_an_old_ending(customer: Customer, again: type[Create | Write]) -> None:
    """An id may be used again after its session has ended."""
    customer.create(group(["a"]))
    customer.end("a")
    later = group(["a"], seed=1)
    assert not getattr(customer.create(later) if again is Create else customer.write(later), "taken", ())
    check_same(customer.find("a")[0], later)
    customer.end("a", ending=Ending.EVICTED)
    assert customer.find("a") == [Ending.EVICTED]


def test_tasks_of_an_engine_are_carried_out_in_their_order(customer: Customer) -> None:
    """All submitted before the first is told."""
    versions = [group(["a"], next_seq=number, seed=number) for number in range(20)]
    for version in versions:
        customer.submit(lambda number, version=version: Write(number, version))  # type: ignore[misc]  # bound at once
        customer.submit(lambda number: Find(number, ["a"]))
    outcomes = customer.outcomes(40)
    assert [outcome.number for outcome in outcomes] == list(range(40))
    for outcome, version in zip(outcomes[1::2], versions, strict=True):
        check_same(outcome.sessions[0], version)  # type: ignore[union-attr]  # a Found


def test_overdue_sessions_are_found_the_oldest_first(customer: Customer) -> None:
    """By when they were last used and how long they may be idle, as last written."""
    for key, used_at in (("c", 300.0), ("a", 100.0), ("b", 200.0), ("fresh", 1000.0)):
        customer.write(group([key], used_at=used_at, idle_ttl=50.0))
    assert customer.overdue(350.0) == ["a", "b"]
    assert customer.overdue(351.0) == ["a", "b", "c"]
    assert customer.overdue(351.0, most=1) == ["a"]
    customer.write(group(["a"], used_at=900.0, idle_ttl=50.0))
    customer.end("b")
    assert customer.overdue(351.0) == ["c"]


def test_a_tenants_sessions_are_browsed_in_pages(customer: Customer) -> None:
    """Names of other tenants begin like this one's."""
    mine = [f"me/{number}" for number in range(5)]
    customer.write(group([*mine[::-1], "me.too/1", "me0/1", "mf/1", "plain", "ma/1"], next_seq=77))
    first = customer.browse("me", most=2)
    assert first.keys == mine[:2]
    assert first.heads["next_seq"].tolist() == [77, 77]
    second = customer.browse("me", after=mine[1], most=2)
    assert second.keys == mine[2:4]
    last = customer.browse("me", after=mine[3], most=2)
    assert last.keys == mine[4:]
    assert len(customer.browse("me", after=mine[4], most=2).heads) == 0


def test_without_a_tenant_only_sessions_of_none_are_browsed(customer: Customer) -> None:
    """A server may have had tenants before."""
    customer.write(group(["b", "t/1", "a", "c"]))
    assert customer.browse().keys == ["a", "b", "c"]
    assert customer.browse(after="a", most=1).keys == ["b"]


def test_models_and_versions_do_not_see_each_other(store: StoreThread) -> None:
    """Neither sessions nor endings nor requests."""
    one, other, newer = (
        Customer(store, spec) for spec in (counter_spec(), counter_spec("other"), replace(counter_spec(), version=2))
    )
    one.create(group(["a"]), Request("r", b"what", LATER))
    for customer in (other, newer):
        assert customer.find("a") == [None]
        assert customer.overdue(LATER) == customer.browse().keys == []
        customer.end("a")
        assert customer.create(group(["b"]), Request("r", b"what", LATER)).before is None
    check_same(one.find("a")[0], group(["a"]))


def test_a_record_of_another_fingerprint_is_told_and_stays(store: StoreThread, customer: Customer) -> None:
    """The message names both fingerprints."""
    customer.create(group(["a"]), Request("r", b"what", LATER))
    other = Customer(store, replace(counter_spec(), fingerprint="f" * 64))
    (error,) = other.find("a")
    assert isinstance(error, StepStreamError)
    assert error.reason == Reason.MODEL_MISMATCH
    assert "0" * 64 in error.message
    assert "f" * 64 in error.message
    ((_, same),) = other.create(group(["b"]), Request("r", b"what", LATER)).before[2]
    assert same.reason == Reason.MODEL_MISMATCH
    check_same(customer.find("a")[0], group(["a"]))


def test_what_was_submitted_is_carried_out_at_the_end_and_nothing_after(store: StoreThread, customer: Customer) -> None:
    """A task that comes too late is answered all the same."""
    for number in range(50):
        customer.submit(lambda task, number=number: Write(task, group([str(number)])))  # type: ignore[misc]  # bound at once
    store.close()
    assert all(isinstance(outcome, Written) for outcome in customer.outcomes(50))
    refused = customer.write(group(["late"]))
    assert refused.error.reason == Reason.STORE_UNAVAILABLE
    assert "closed" in refused.error.message


def test_a_task_that_cannot_be_laid_out_fails_alone(customer: Customer) -> None:
    """Its neighbour in the group is written."""
    odd = replace(group(["a"]), states={})
    good = group(["b"])
    customer.submit(lambda number: Write(number, odd))
    customer.submit(lambda number: Write(number, good))
    refused, written = customer.outcomes(2)
    assert refused.error.reason == Reason.STORE_UNAVAILABLE  # type: ignore[union-attr]  # a NotDone
    assert isinstance(written, Written)
    assert customer.find("a") == [None]


def test_many_keys_are_found_in_one_task(customer: Customer) -> None:
    """In the order of the keys."""
    keys = [f"s{number}" for number in range(2000)]
    sessions = group(keys)
    customer.create(sessions)
    found = customer.find(*keys)
    check_same(found[1234], sessions, 1234)
    assert all(record.key == key for record, key in zip(found, keys, strict=True))
