"""Which steps share a launch, who comes first, and that nobody starves."""

from __future__ import annotations

from typing import Any

import numpy as np

from stepstream_server.engine.books.records import CANDIDATE
from stepstream_server.engine.ports import Launch
from stepstream_server.engine.steps.scheduler import Scheduler, choose
from stepstream_server.errors import Reason
from support.backend import FakeBackend
from support.engine import Answer, Harness, Refusal


def launches(scheduler: Scheduler, steps: list[int], served: list[int]) -> list[tuple[list[int], int]]:
    """Who takes how many steps in each launch of a round, of whom so many steps wait."""
    waiting = np.zeros(len(steps), CANDIDATE)
    waiting["number"], waiting["steps"], waiting["served"], waiting["fresh"] = range(len(steps)), steps, served, True
    chosen = np.empty(len(steps), np.int64)
    scheduler.begin_turn()
    found = []
    while len(waiting):
        count, length = choose(waiting, len(waiting), scheduler.plan[0], chosen)
        if not count:
            break
        taken = chosen[:count]
        found.append((waiting["number"][taken].tolist(), length))
        waiting["steps"][taken] -= length
        waiting["fresh"][taken] = False
        waiting = waiting[waiting["steps"] > 0]
    return found


def test_waiting_sessions_share_one_launch() -> None:
    """Single steps of many streams that arrived together are one launch."""
    h = Harness()
    sessions = h.open(10)
    for index, session in enumerate(sessions):
        h.send([session], [0], [[1.0]], handles=[index])
    h.turn()
    assert h.backend.launches == [(10, 1)]


def test_single_steps_come_before_chunks_and_chunks_take_part() -> None:
    """The first launch has every waiting session's next step; chunk steps follow in the same turn."""
    h = Harness()
    a, b = h.open(2)
    h.send([a], [0], [[1.0] * 9], handles=[0])
    h.send([b], [0], [[1.0]], handles=[1])
    outcomes = h.turn(seconds=0.002)
    assert h.backend.launches[0] == (2, 1)
    assert h.backend.launches[1][0] == 1
    assert outcomes[0] == Answer(1, 0, 0, 1, (1.0,))


def test_a_lone_chunk_skips_the_launch_of_single_steps() -> None:
    """Nobody waits for one, so the chunk is taken in as few launches as the budget allows."""
    h = Harness()
    (a,) = h.open()
    h.send([a], [0], [[1.0] * 8])
    h.turn()
    assert h.backend.launches == [(1, 8)]


def test_chunks_of_one_length_share_launches_and_lengths_are_never_mixed() -> None:
    """Three chunks of two lengths: no launch has more rows than chunks of that length could fill."""
    h = Harness()
    a, b, c = h.open(3)
    h.send([a, b, c], [0, 0, 0], [[1.0] * 4, [1.0] * 4, [1.0] * 7])
    h.settle()
    assert h.backend.launches[0] == (3, 4)
    assert sum(batch * length for batch, length in h.backend.launches) == 15


def test_least_recently_served_chunks_go_first() -> None:
    """Whatever their order of arrival, and however small the budget, so that an endless chunk starves nobody."""
    scheduler = Scheduler(max_batch=64, turn_budget=0.008, alone_budget=0.008)
    for batch in (1, 2):
        scheduler.learn(Launch(batch=batch, length=10, seconds=0.010), 0.011)
    assert launches(scheduler, steps=[1000, 3], served=[5, 4]) == [([1], 2), ([0], 6)]


def test_a_launch_of_chunks_has_no_more_rows_than_a_batch() -> None:
    """The others follow in another launch."""
    scheduler = Scheduler(max_batch=3, turn_budget=1.0, alone_budget=1.0)
    scheduler.learn(Launch(batch=3, length=10, seconds=0.001), 0.002)
    assert launches(scheduler, steps=[8] * 5, served=[0] * 5) == [([0, 1, 2], 8), ([3, 4], 8)]


def test_a_budget_bounds_what_chunks_take_of_a_turn() -> None:
    """With 0.1 ms per step and 2 ms of budget, a turn takes about 20 steps of a chunk beside single steps."""
    scheduler = Scheduler(max_batch=64, turn_budget=0.002, alone_budget=0.020)
    scheduler.learn(Launch(batch=1, length=10, seconds=0.001), 0.002)
    assert launches(scheduler, steps=[5000, 1], served=[0, 0]) == [([0, 1], 1), ([0], 20)]
    assert launches(scheduler, steps=[5000], served=[0]) == [([0], 200)]


def test_more_sessions_than_a_batch_are_all_served_in_one_turn() -> None:
    """In several launches, in order of arrival: a newcomer never waits for somebody's second step."""
    h = Harness(backend=FakeBackend(slots=10), max_batch=4)
    sessions = h.open(10)
    for seq in range(3):
        h.send(sessions, [seq] * 10, [[1.0]] * 10)
    assert [outcome.handle for outcome in h.turn(seconds=0.002)] == list(range(10)) * 3
    assert h.backend.launches == [(4, 1), (4, 1), (2, 1)] * 3


def test_a_full_queue_refuses_with_a_reason() -> None:
    """Pending steps over all sessions are bounded; what fits is served."""
    h = Harness(max_pending_steps=5)
    a, b = h.open(2)
    h.send([a], [0], [[1.0] * 5], handles=[0])
    h.send([b], [0], [[1.0]], handles=[1])
    assert Refusal(1, 1, 0, 1, Reason.QUEUE_FULL, 0) in h.settle()


def test_idle_sessions_cost_no_launch() -> None:
    """Only those who wait are computed."""
    h = Harness()
    sessions = h.open(50)
    h.send([sessions[7]], [0], [[1.0]], handles=[7])
    h.settle()
    assert h.backend.launches == [(1, 1)]


def of_tenants(tenants: list[int], steps: int, served: list[int] | None = None, fresh: bool = True) -> np.ndarray[Any, Any]:
    """Candidates with so many steps each."""
    waiting = np.zeros(len(tenants), CANDIDATE)
    waiting["number"], waiting["steps"], waiting["tenant"], waiting["fresh"] = range(len(tenants)), steps, tenants, fresh
    waiting["served"] = 0 if served is None else served
    return waiting


def first_launch(scheduler: Scheduler, waiting: Any) -> list[int]:
    """Who takes part in it."""
    chosen = np.empty(len(waiting), np.int64)
    count, _ = choose(waiting, len(waiting), scheduler.plan[0], chosen)
    return [int(each) for each in chosen[:count]]


def test_a_batch_is_shared_out_among_tenants() -> None:
    """It has no place for all: each tenant has as much as the others, as far as it wants it, its first in the line."""
    scheduler = Scheduler(max_batch=6, turn_budget=1.0, alone_budget=1.0)
    assert first_launch(scheduler, of_tenants([1] * 20 + [2, 2, 3], 1)) == [0, 1, 2, 20, 21, 22]
    assert first_launch(scheduler, of_tenants([1] * 20 + [2] * 20, 1)) == [0, 1, 2, 20, 21, 22]
    assert first_launch(scheduler, of_tenants([1, 2, 3, 1, 2, 3, 1, 2, 3], 1)) == [0, 1, 2, 3, 4, 5]
    assert first_launch(scheduler, of_tenants([1] * 3 + [2] * 4, 1)) == [0, 1, 2, 3, 4, 5]
    assert first_launch(scheduler, of_tenants([4, 4, 4, 5, 5, 5, 5, 6, 6], 1)) == [0, 1, 3, 4, 7, 8]
    assert first_launch(scheduler, of_tenants([0] * 9, 1)) == [0, 1, 2, 3, 4, 5]
    assert first_launch(scheduler, of_tenants([1029, 5, 1029, 5, 5, 5, 7], 1)) == [0, 1, 2, 3, 4, 6]  # share a place


def test_what_is_left_of_a_batch_goes_to_the_first_in_the_line() -> None:
    """A batch of five for three tenants."""
    scheduler = Scheduler(max_batch=5, turn_budget=1.0, alone_budget=1.0)
    assert first_launch(scheduler, of_tenants([3, 3, 3, 1, 1, 1, 2, 2, 2], 1)) == [0, 1, 3, 4, 6]


def test_tenants_take_turns_to_lead_chunks() -> None:
    """However many sessions one of them begins anew, which were never served."""
    h = Harness(backend=FakeBackend(slots=8), max_batch=1)
    h.backend.before_collect = lambda: h.clock.advance(1.0)
    h.engine.warm_up()
    sessions = h.open(8)
    tenant = h.engine.books.table.sessions["tenant"]
    tenant[[each.session for each in sessions]] = [1, 1, 1, 1, 1, 1, 1, 2]
    h.send(sessions, [0] * 8, [[1.0] * 50] * 8)
    h.turn(20)
    applied = h.engine.books.table.next_seq[[each.session for each in sessions]]
    assert applied[7] == applied[:7].sum() == 10
