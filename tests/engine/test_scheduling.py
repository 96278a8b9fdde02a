"""Which steps share a launch, who comes first, and that nobody starves."""

from __future__ import annotations

import numpy as np

from stepstream_server.engine.ports import Launch
from stepstream_server.engine.scheduler import Scheduler
from stepstream_server.errors import Reason
from support.backend import FakeBackend
from support.engine import Answer, Harness, Refusal


def test_waiting_sessions_share_one_launch() -> None:
    """Single steps of many streams that arrived together are one launch."""
    h = Harness()
    sessions = h.open(10)
    for index, session in enumerate(sessions):
        h.send([session], [0], [[1.0]], tags=[index])
    h.turn()
    assert h.backend.launches == [(10, 1)]


def test_single_steps_come_before_chunks_and_chunks_take_part() -> None:
    """The first launch has every waiting session's next step; chunk steps follow in the same turn."""
    h = Harness()
    a, b = h.open(2)
    h.send([a], [0], [[1.0] * 9], tags=[0])
    h.send([b], [0], [[1.0]], tags=[1])
    outcomes = h.turn()
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


def test_an_endless_chunk_does_not_starve_another() -> None:
    """Rows that were not served in the last turn go first, whatever the budget."""
    plan = Scheduler(max_batch=64, turn_budget=0.002, alone_budget=0.002)
    plan.pace.learn(Launch(batch=1, length=1, seconds=0.001))
    plan.pace.learn(Launch(batch=2, length=1, seconds=0.001))
    lengths, served = np.array([1000, 1]), np.array([5, 4])
    groups = plan.plan(np.array([0, 1]), lengths, served)
    assert groups[0].positions.tolist() == [0, 1]
    lengths, served = np.array([1000, 3]), np.array([5, 4])
    assert 1 in plan.plan(np.array([0, 1]), lengths, served)[0].positions


def test_a_budget_bounds_what_chunks_take_of_a_turn() -> None:
    """With 0.1 ms per step and 2 ms of budget, a turn takes about 20 steps of a chunk beside single steps."""
    plan = Scheduler(max_batch=64, turn_budget=0.002, alone_budget=0.020)
    plan.pace.learn(Launch(batch=1, length=10, seconds=0.001))
    beside = plan.plan(np.array([0, 1]), np.array([5000, 1]), np.array([0, 0]))
    alone = plan.plan(np.array([0]), np.array([5000]), np.array([0]))
    assert [group.length for group in beside] == [1, 20]
    assert [group.length for group in alone] == [200]


def test_more_sessions_than_a_batch_take_turns_in_order_of_arrival() -> None:
    """The first `max_batch` run first; the others follow in the next turn."""
    h = Harness(backend=FakeBackend(slots=10), max_batch=4)
    sessions = h.open(10)
    h.send(sessions, [0] * 10, [[1.0]] * 10)
    assert [outcome.tag for outcome in h.turn()] == [0, 1, 2, 3]
    h.settle()
    assert h.backend.launches == [(4, 1), (4, 1), (2, 1)]


def test_a_full_queue_refuses_with_a_reason() -> None:
    """Pending steps over all sessions are bounded; what fits is served."""
    h = Harness(max_pending_steps=5)
    a, b = h.open(2)
    h.send([a], [0], [[1.0] * 5], tags=[0])
    h.send([b], [0], [[1.0]], tags=[1])
    assert Refusal(1, 1, 0, 1, Reason.QUEUE_FULL, 0) in h.settle()


def test_idle_sessions_cost_no_launch() -> None:
    """Only those who wait are computed."""
    h = Harness()
    sessions = h.open(50)
    h.send([sessions[7]], [0], [[1.0]], tags=[7])
    h.settle()
    assert h.backend.launches == [(1, 1)]
