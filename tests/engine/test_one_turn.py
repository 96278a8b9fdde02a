"""What one turn does with the steps that it takes in: launch after launch, within its time, and the rest in the next one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from stepstream_server.engine.ports import NO_SEQ, Forked, Keep, Opened
from stepstream_server.errors import Reason
from support.engine import Answer, Harness, Refusal


def test_single_steps_of_several_sessions_are_one_launch() -> None:
    """Of several sessions in one launch; what they acknowledge is let go of."""
    h = Harness()
    a, b = h.open(2)
    h.send([a, b], [0, 0], [[1.0], [2.0]])
    h.turn()
    h.send([a, b], [1, 1], [[3.0], [4.0]], acked=[1, 0])
    assert [answer.sums for answer in h.turn() if isinstance(answer, Answer)] == [(4.0,), (6.0,)]
    assert (h.get(a.id).acked, h.get(b.id).acked, h.get(a.id).next_seq) == (1, 0, 2)


def test_steps_sent_ahead_are_computed_one_launch_after_the_other() -> None:
    """In one turn, in order."""
    h = Harness()
    (a,) = h.open()
    for seq in range(4):
        h.send([a], [seq], [[1.0]])
    assert [(answer.first, answer.sums) for answer in h.turn(seconds=0.002) if isinstance(answer, Answer)] == [
        (seq, (seq + 1.0,)) for seq in range(4)
    ]


def test_a_short_chunk_is_one_launch_once_its_pace_is_known() -> None:
    """A chunk that would hold single steps up for longer than they may be is for the scheduler to cut."""
    h = Harness()
    h.engine.warm_up()
    (a,) = h.open()
    h.send([a], [0], [[1.0] * 4])
    assert [answer.sums for answer in h.turn() if isinstance(answer, Answer)] == [(1.0, 2.0, 3.0, 4.0)]


def test_a_window_of_answers_takes_the_place_of_another() -> None:
    """What is acknowledged with a chunk makes room for the chunk's own answers, all of which are there for a repeat."""
    h = Harness(window_steps=64)
    h.engine.warm_up()
    (a,) = h.open()
    for first in range(0, 256, 64):
        h.send([a], [first], [[1.0] * 64], acked=[first])
        h.turn()
    h.send([a], [192], [[1.0] * 64])
    (answer,) = h.turn()
    assert isinstance(answer, Answer)
    assert answer.sums == tuple(range(193, 257))


@pytest.mark.parametrize(
    "send",
    [
        pytest.param(lambda h, s: h.send([s], [2], [[1.0]]), id="a gap"),
        pytest.param(lambda h, s: h.send([s], [0], [[1.0]]), id="a repeat"),
        pytest.param(lambda h, s: h.send([s], [1], [[1.0]], keep=Keep.LAST), id="not all kept"),
        pytest.param(lambda h, s: h.send([s], [1], [[np.nan]]), id="no number"),
        pytest.param(lambda h, s: h.send([s], [1], [[1.0]], handles=[9]), id="another handle"),
        pytest.param(lambda h, s: h.send([s], [1], [[1.0]], stream=9), id="another stream"),
        pytest.param(lambda h, s: h.send([s, s], [1, 1], [[1.0], [1.0]], handles=[0, 0]), id="twice in a message"),
        pytest.param(lambda h, s: h.send([s], [1], [[1.0]], deadline=h.clock()), id="too late"),
        pytest.param(lambda h, s: h.send([s], [1], [[1.0] * 9]), id="beyond the window"),
    ],
)
def test_a_row_that_is_not_plain_moves_the_session_by_one_step_at_most(send: Callable[[Harness, Opened], None]) -> None:
    """And fares as ever: the next step of the session is still the second."""
    h = Harness(window_steps=8)
    (a,) = h.open()
    h.send([a], [0], [[5.0]])
    h.turn()
    send(h, a)
    h.settle()
    assert h.get(a.id).next_seq in (1, 2)


def test_nothing_overtakes_what_is_pending() -> None:
    """While a step waits for its turn, others join the backlog behind it."""
    h = Harness()
    a, b = h.open(2)
    h.send([a], [0], [[1.0]])
    h.refuse(a, 1, 1, "no")
    h.send([b], [0], [[1.0]], handles=[1])
    outcomes = h.settle()
    assert [type(each) for each in outcomes if each.handle == 0] == [Answer, Refusal]


def test_a_session_that_would_not_be_finite_is_quarantined_and_no_other() -> None:
    """Nothing of its row is applied; its neighbours in the launch are answered."""
    h = Harness()
    a, b, c = h.open(3)
    h.backend.poison = 7.0
    h.send([a, b, c], [0, 0, 0], [[1.0], [7.0], [3.0]])
    outcomes = h.settle()
    assert {each.handle: each.sums for each in outcomes if isinstance(each, Answer)} == {0: (1.0,), 2: (3.0,)}
    assert [(each.handle, each.reason, each.expected) for each in outcomes if isinstance(each, Refusal)] == [
        (1, Reason.NON_FINITE_STATE, 0)
    ]
    assert h.get(b.id).quarantined
    h.send([b], [0], [[1.0]], handles=[1])
    assert [each.reason for each in h.settle() if isinstance(each, Refusal)] == [Reason.SESSION_QUARANTINED]


def held_back() -> tuple[Harness, Opened]:
    """A session with two steps sent ahead, of which a turn has had time for one."""
    h = Harness()
    (a,) = h.open()
    h.backend.before_collect = lambda: h.clock.advance(0.002)
    h.send([a], [0], [[1.0]])
    h.send([a], [1], [[2.0]])
    assert [each.first for each in h.turn(seconds=0.002) if isinstance(each, Answer)] == [0]
    return h, a


def test_what_time_is_lacking_for_comes_first_in_the_next_turn() -> None:
    """Others have been held up long enough; it is pending meanwhile."""
    h, a = held_back()
    assert h.engine.busy
    assert h.engine.stats().pending_steps == 1
    h.send([a], [2], [[3.0]])
    assert [(each.first, each.sums) for each in h.turn(seconds=0.002) if isinstance(each, Answer)] == [(1, (3.0,))]
    h.settle()
    assert not h.engine.busy
    assert h.get(a.id).next_seq == 3


def test_what_is_left_for_the_next_turn_is_dropped_with_its_stream() -> None:
    """As anything that is queued: it is not applied."""
    h, a = held_back()
    h.end_stream(1)
    h.settle()
    assert h.get(a.id).next_seq == 1


def test_a_drain_waits_for_what_is_left_for_the_next_turn() -> None:
    """It was taken in before the drain, and is answered."""
    h, a = held_back()
    drain = h.drain()
    outcomes = h.turn(seconds=0.002)
    assert [each.first for each in outcomes if isinstance(each, Answer)] == [1]
    assert drain in h.ear.replies
    assert h.get(a.id).next_seq == 2


def test_sequences_begin_and_end_in_the_launch_of_others() -> None:
    """Sequences begin and end in the same launch as others go on; an ended one is closed with the turn, and keeps nothing."""
    h = Harness()
    ids, none = ["a", "b"], [NO_SEQ] * 2
    h.call_many(ids, none, [[1.0], [2.0]], stream=1, starts=[True, True])
    assert [answer.sums for answer in h.turn() if isinstance(answer, Answer)] == [(1.0,), (2.0,)]
    h.call_many(ids, none, [[3.0], [4.0]], stream=1, ends=[True, False])
    assert [(answer.first, answer.sums) for answer in h.turn() if isinstance(answer, Answer)] == [(1, (4.0,)), (1, (6.0,))]
    assert h.get("a").reason is Reason.SESSION_CLOSED
    assert (h.get("b").next_seq, h.get("b").acked) == (2, 2)
    h.call_many(["a", "b"], none, [[1.0], [1.0]], stream=1, starts=[True, False], handles=[7, 8])
    assert [(answer.handle, answer.sums) for answer in h.turn() if isinstance(answer, Answer)] == [(7, (1.0,)), (8, (7.0,))]


def test_a_one_shot_step_that_would_not_be_finite_harms_no_other() -> None:
    """Its session is quarantined, and not ended though it was to be."""
    h = Harness()
    h.backend.poison = 7.0
    h.call_many(["a", "b"], [NO_SEQ] * 2, [[7.0], [2.0]], stream=1, starts=[True, True], ends=[True, False])
    outcomes = h.settle()
    assert [(each.handle, each.sums) for each in outcomes if isinstance(each, Answer)] == [(1, (2.0,))]
    assert [(each.handle, each.reason) for each in outcomes if isinstance(each, Refusal)] == [(0, Reason.NON_FINITE_STATE)]
    assert h.get("a").quarantined


def test_numbered_steps_keep_their_answers_and_others_acknowledge_for_nobody() -> None:
    """The former keep their answers, the latter acknowledge for nobody."""
    h = Harness()
    (held,) = h.open()
    h.call_many(["a"], [0], [[1.0]], stream=2, starts=[True])
    h.turn()
    h.call(held, NO_SEQ, [1.0], stream=2, secret=held.secret)
    h.turn()
    assert (h.get("a").next_seq, h.get("a").acked, h.get(held.id).next_seq) == (1, 0, 1)


def test_what_a_caller_had_queued_when_it_left_does_not_run() -> None:
    """Though nothing else stands in its way."""
    h = Harness()
    h.open_as("a")
    h.call_many(["a"], [NO_SEQ], [[1.0]], stream=2)
    h.hang_up(2)
    h.settle()
    assert h.get("a").next_seq == 0


def test_no_more_is_left_to_the_next_turn_than_may_be_pending() -> None:
    """What is beyond is refused, as it would be in a queue."""
    h = Harness(max_pending_steps=4)
    (a,) = h.open()
    h.backend.before_collect = lambda: h.clock.advance(0.002)
    for seq in range(12):
        h.send([a], [seq], [[1.0]])
    outcomes = h.turn(seconds=0.002)
    assert h.engine.stats().pending_steps <= 4
    outcomes += h.settle()
    assert next(each.reason for each in outcomes if isinstance(each, Refusal)) is Reason.QUEUE_FULL


def test_a_session_does_not_expire_while_a_step_of_it_is_left_to_the_next_turn() -> None:
    """It has arrived in time."""
    h = Harness(idle_ttl_seconds=10.0)
    a, b = h.open(2)
    h.clock.advance(9.0)
    h.backend.before_collect = lambda: h.clock.advance(2.0)
    h.send([b], [0], [[1.0]], handles=[1])
    h.send([b], [1], [[1.0]], handles=[1])
    h.send([a], [0], [[1.0]])
    assert [(each.handle, type(each)) for each in h.settle() if each.handle == 0] == [(0, Answer)]


def test_a_waiting_copy_is_not_jumped_over() -> None:
    """What pended before it was dropped with its caller: the next steps of the session stop where the copy is to be taken."""
    h = Harness()
    h.engine.warm_up()
    (a,) = h.open()
    h.send([a], [0], [[1.0] * 3])
    h.turn()
    h.call(a, 3, [1.0] * 4, stream=50, secret=a.secret)
    fork = h.fork(a, 5)
    h.hang_up(50)
    h.send([a], [3], [[1.0] * 4])
    outcomes = h.settle()
    assert [(each.first, each.length) for each in outcomes if isinstance(each, Answer)] == [(3, 2), (5, 2)]
    assert isinstance(h.ear.replies[fork], Forked)
    assert h.ear.replies[fork].next_seq == 5
