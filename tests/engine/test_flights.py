"""Launches under way: how many there may be, that a session waits for its own, and who waits for all of them."""

from __future__ import annotations

import contextlib
import queue
from collections.abc import Callable

import pytest

from stepstream_server.engine.engine import Turned
from stepstream_server.engine.ports import Forked
from stepstream_server.errors import Reason
from support.backend import FakeBackend
from support.engine import Answer, Harness, Refusal


class Airborne(Harness):
    """Two launches may be under way, and a turn does not wait for them."""

    lands = False

    def __init__(self, **settings: float) -> None:
        super().__init__(FakeBackend(depth=2), **settings)


def turned(h: Harness, seconds: float = float("-inf")) -> Turned:
    """What the engine says of a turn."""
    envelopes = []
    with contextlib.suppress(queue.Empty):
        while (envelope := h.engine.inbox.get_nowait()) is not None:
            envelopes.append(envelope)
    return h.engine.turn(envelopes, h.clock() + seconds)


def test_a_launch_is_left_under_way_while_others_may_come() -> None:
    """Its answer comes with the next turn, which has nothing else to do."""
    h = Airborne()
    (a,) = h.open()
    h.send([a], [0], [[1.0]])
    assert (h.turn(), h.backend.launches) == ([], [(1, 1)])
    assert h.engine.busy
    assert h.turn() == [Answer(1, 0, 0, 1, (1.0,))]
    assert not h.engine.busy
    h.engine.books.check()


def test_a_session_is_not_cut_again_before_its_step_has_settled() -> None:
    """Others are: their launch goes out beside the first, which settles before it."""
    h = Airborne()
    a, b = h.open(2)
    h.send([a], [0], [[1.0]], handles=[0])
    h.send([a], [1], [[2.0]], handles=[0])
    assert h.turn() == []
    h.send([b], [0], [[5.0]], handles=[1])
    assert h.turn() == [Answer(1, 0, 0, 1, (1.0,))]
    assert h.backend.launches == [(1, 1), (1, 1)]
    h.engine.books.check()
    assert h.settle() == [Answer(1, 1, 0, 1, (5.0,)), Answer(1, 0, 1, 1, (3.0,))]


def test_steps_sent_ahead_of_one_session_settle_one_by_one_within_a_turn() -> None:
    """More waits behind the step under way, so the turn goes on with it."""
    h = Airborne()
    (a,) = h.open()
    for seq in range(3):
        h.send([a], [seq], [[1.0]])
    assert h.turn(seconds=0.002) == [Answer(1, 0, 0, 1, (1.0,)), Answer(1, 0, 1, 1, (2.0,))]
    assert h.turn() == [Answer(1, 0, 2, 1, (3.0,))]


def test_what_is_under_way_when_its_stream_ends_settles_into_the_cache() -> None:
    """It was cut: it is applied, and whoever attaches the session is told."""
    h = Airborne()
    (a,) = h.open()
    h.send([a], [0], [[4.0]])
    h.turn()
    h.end_stream(1)
    assert h.turn() == [Answer(1, 0, 0, 1, (4.0,))]
    assert h.attach(a, stream=2, handle=7).next_seq == 1
    assert h.settle() == [Answer(2, 7, 0, 1, (4.0,))]


@pytest.mark.parametrize(
    "ask",
    [
        pytest.param(lambda h, a: h.fork(a), id="a fork"),
        pytest.param(lambda h, a: h.export(a), id="an export"),
        pytest.param(lambda h, a: h.drain(), id="a drain"),
    ],
)
def test_whoever_asks_for_whole_sessions_finds_nothing_under_way(ask: Callable[[Harness, object], int]) -> None:
    """The step settles first, so that the answer to the command comes in its turn."""
    h = Airborne()
    (a,) = h.open()
    h.send([a], [0], [[4.0]])
    h.turn()
    request = ask(h, a)
    assert h.turn() == [Answer(1, 0, 0, 1, (4.0,))]
    assert request in h.ear.replies
    reply = h.ear.replies[request]
    assert not isinstance(reply, Forked) or reply.next_seq == 1


def test_a_launch_that_fails_takes_what_waits_behind_it_along() -> None:
    """The step was poison; the one behind it waited in the queue while it was under way."""
    h = Airborne()
    h.backend.poison = 7.0
    a, b = h.open(2)
    h.send([a, b], [0, 0], [[7.0], [1.0]])
    h.turn()
    h.send([a, b], [1, 1], [[1.0], [1.0]])
    outcomes = h.settle()
    assert [(each.first, each.reason) for each in outcomes if isinstance(each, Refusal)] == [
        (0, Reason.NON_FINITE_STATE),
        (1, Reason.SEQUENCE_MISMATCH),
    ]
    assert [(each.first, each.sums) for each in outcomes if isinstance(each, Answer)] == [(0, (1.0,)), (1, (2.0,))]
    assert h.get(a.id).quarantined
    h.engine.books.check()


def test_an_engine_that_is_given_up_lands_what_is_under_way() -> None:
    """Whoever stops the engine after that loses nothing that was applied."""
    h = Airborne()
    (a,) = h.open()
    h.send([a], [0], [[1.0]])
    h.turn()
    h.engine.land()
    assert h.ear.outcomes == [Answer(1, 0, 0, 1, (1.0,))]


def test_a_turn_says_whether_work_is_left() -> None:
    """Steps that its time was too short for, and launches under way."""
    h = Harness(FakeBackend(depth=1))
    (a,) = h.open()
    h.send([a], [0], [[1.0]])
    h.send([a], [1], [[1.0]])
    assert turned(h).work_left
    assert not turned(h).work_left


def test_a_turn_says_whether_all_it_took_in_was_plain() -> None:
    """Steps by handle and by id and acknowledgements are; whatever else somebody asks for is not."""
    h = Harness(FakeBackend(depth=1))
    (a,) = h.open()
    h.open_as("b")
    assert turned(h).plain
    h.send([a], [0], [[1.0]])
    h.acknowledge(a, 1)
    h.call_many(["b"], [0], [[1.0]], stream=9)
    assert turned(h).plain
    h.send([a], [1], [[1.0]])
    h.reset(a, 2)
    assert not turned(h).plain
