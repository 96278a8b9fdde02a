"""Sessions as such: capacity, ids, time to live, closing, draining."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from stepstream_server.engine.ports import Attach, Detach, DoorLost, Drain, Ending, Open, Opened
from stepstream_server.errors import Reason, StepStreamError
from support.backend import FakeBackend
from support.engine import Answer, Ear, Harness, Refusal


def test_capacity_refuses_with_a_retry_delay_and_room_returns() -> None:
    """Beyond capacity an open fails by itself; closing one makes room, zeroed."""
    h = Harness(backend=FakeBackend(slots=2))
    opened = h.open(3)
    assert [isinstance(one, Opened) for one in opened] == [True, True, False]
    refused = opened[2]
    assert isinstance(refused, StepStreamError)
    assert (refused.reason, refused.retry_delay_seconds > 0) == (Reason.SESSION_CAPACITY, True)
    h.send([opened[0]], [0], [[9.0]])
    h.settle()
    assert h.close(opened[0], opened[0].secret) == 1
    (again,) = h.open(first_handle=7)
    h.send([again], [0], [[1.0]], handles=[7])
    assert h.settle() == [Answer(1, 7, 0, 1, (1.0,))]


@pytest.mark.parametrize("bad", ["a b", "x" * 129, "ä"])
def test_malformed_ids_are_refused(bad: str) -> None:
    """An id outside the alphabet or too long opens nothing."""
    h = Harness()
    error = h.open_as(bad)
    assert isinstance(error, StepStreamError)
    assert (error.reason, error.field) == (Reason.INVALID_ARGUMENT, "id")


def test_an_id_is_open_once() -> None:
    """A second open of a live id is refused; after closing, the id is free again."""
    h = Harness()
    first = h.open_as("meter-7")
    second = h.open_as("meter-7")
    assert isinstance(second, StepStreamError)
    assert second.reason == Reason.SESSION_EXISTS
    h.close(first)
    third = h.open_as("meter-7")
    assert isinstance(third, Opened)
    assert third.generation != first.generation or third.session != first.session


def test_idle_sessions_expire_and_say_so() -> None:
    """A session that is stepped lives on; one that is not is closed, its stream is told, and its id remembers why."""
    h = Harness(idle_ttl_seconds=10)
    a, b = h.open(2)
    h.clock.advance(6)
    h.send([a], [0], [[1.0]])
    h.settle()
    h.clock.advance(6)
    h.turn()
    assert h.ear.detached == [(1, 1, Ending.EXPIRED)]
    gone = h.get(b.id)
    assert isinstance(gone, StepStreamError)
    assert gone.reason == Reason.SESSION_EXPIRED
    assert not isinstance(h.get(a.id), StepStreamError)
    assert h.engine.next_deadline <= h.clock() + 10


def test_many_expire_over_several_turns() -> None:
    """A crowd that goes at once does not hold up the others' steps: every turn ends some, until all are gone."""
    h = Harness(backend=FakeBackend(slots=5000), idle_ttl_seconds=10)
    h.open(5000)
    h.clock.advance(11)
    left: list[int] = []
    while not left or left[-1]:
        h.turn()
        left.append(h.engine.stats().sessions)
    assert 1 < len(left) < 20
    h.turn()
    assert h.engine.next_deadline == float("inf")


def test_an_opener_may_ask_for_a_shorter_life_but_not_for_a_longer_one() -> None:
    """The server's idle time-to-live is the maximum."""
    h = Harness(idle_ttl_seconds=10)
    (short,) = h.open(idle_ttl=3)
    (long,) = h.open(first_handle=1, idle_ttl=500)
    h.clock.advance(4)
    h.turn()
    assert isinstance(h.get(short.id), StepStreamError)
    h.clock.advance(7)
    h.turn()
    assert isinstance(h.get(long.id), StepStreamError)


def test_a_busy_session_ends_with_its_maximal_lifetime() -> None:
    """However often it is stepped."""
    h = Harness(max_lifetime_seconds=10, idle_ttl_seconds=5)
    (a,) = h.open()
    for seq in range(4):
        h.send([a], [seq], [[1.0]])
        h.settle()
        h.clock.advance(3)
    h.turn()
    assert h.ear.detached == [(1, 0, Ending.EXPIRED)]


def test_tombstones_are_forgotten() -> None:
    """After a while an id that ended is as one that never was."""
    h = Harness(tombstone_seconds=60)
    (a,) = h.open()
    h.close(a, a.secret)
    reasons = []
    for seconds in (1, 60):
        h.clock.advance(seconds)
        h.turn()
        error = h.get(a.id)
        assert isinstance(error, StepStreamError)
        reasons.append(error.reason)
    assert reasons == [Reason.SESSION_CLOSED, Reason.SESSION_NOT_FOUND]


def test_closing_tells_whoever_waits() -> None:
    """A call queued behind the close hears it, and closing twice succeeds."""
    h = Harness()
    (a,) = h.open()
    h.call(a, -1, [1.0], stream=50, secret=a.secret)
    assert h.close(a, a.secret) == 0
    assert h.settle() == [Refusal(50, 0, 0, 1, Reason.SESSION_CLOSED, 0)]
    assert h.close(a) == 0


def test_detach_can_close() -> None:
    """The confirmation says which it was."""
    h = Harness()
    a, b = h.open(2)
    h.detach(a, handle=0)
    h.detach(b, handle=1, close=True)
    h.turn()
    assert h.ear.detached == [(1, 0, Ending.REQUESTED), (1, 1, Ending.CLOSED)]
    assert h.engine.stats().sessions == 1


def test_a_row_of_a_session_that_has_ended_is_not_taken_for_its_successor() -> None:
    """Another session has its place, on the same stream and under the same handle."""
    h = Harness(backend=FakeBackend(slots=1))
    (former,) = h.open()
    h.close(former, former.secret)
    (a,) = h.open()
    assert a.session == former.session
    h.send([former], [0], [[5.0]])
    h.send([a], [0], [[1.0]])
    assert h.settle() == [Answer(1, 0, 0, 1, (1.0,)), Refusal(1, 0, 0, 1, Reason.HANDLE_UNKNOWN, 0)]


def test_naming_a_session_twice_lets_it_go_once() -> None:
    """In a detach that closes, as in an attach, whatever a front door sends."""
    h = Harness(backend=FakeBackend(slots=4))
    (a,) = h.open()
    twice = np.array([a.session] * 2), np.array([a.generation] * 2), np.zeros(2, np.uint32)
    attached = h.ask(Attach(2, h.request(), np.array([3, 4], np.uint32), [a.id] * 2, [a.secret] * 2, np.zeros(2, np.int64)))
    assert [isinstance(one, Opened) for one in attached] == [True, False]
    assert h.ear.detached.pop() == (1, 0, Ending.TAKEN)
    h.door.submit(Detach(2, *twice[:2], np.full(2, 3, np.uint32), close=True))
    h.turn()
    assert h.ear.detached == [(2, 3, Ending.CLOSED)]
    assert sorted(h.backend.free) == [0, 1, 2, 3]


def test_draining_refuses_new_steps_and_sessions_and_finishes_the_others() -> None:
    """What was admitted is answered before the drain is; nothing new is."""
    h = Harness()
    (a,) = h.open()
    h.send([a], [0], [[1.0] * 100])
    request = h.drain()
    (error,) = h.open(first_handle=1)
    assert isinstance(error, StepStreamError)
    assert error.reason == Reason.SERVER_DRAINING
    h.send([a], [100], [[1.0]])
    outcomes = h.settle()
    assert sum(outcome.length for outcome in outcomes if isinstance(outcome, Answer)) == 100
    assert outcomes[-1] == Refusal(1, 0, 100, 1, Reason.SERVER_DRAINING, 100)
    assert h.ear.replies[request] is None


@pytest.mark.parametrize(
    "let_go",
    [
        pytest.param(lambda h, a: h.export(a, close=True), id="exported"),
        pytest.param(lambda h, a: h.close(a, a.secret), id="closed"),
        pytest.param(lambda h, a: h.detach(a), id="detached"),
        pytest.param(lambda h, a: h.end_stream(1), id="its stream ended"),
        pytest.param(lambda h, a: h.lose_door(), id="its front door lost"),
        pytest.param(lambda h, a: h.clock.advance(11), id="expired"),
    ],
)
def test_a_drain_may_wait_until_no_stream_holds_a_session(let_go: Callable[[Harness, Opened], object]) -> None:
    """However it comes to that; one that waits for no more than steps is answered before."""
    h = Harness(idle_ttl_seconds=10)
    (a,) = h.open()
    idle, moved = h.drain(), h.drain(until_let_go=True)
    h.export(a)  # which leaves it held
    h.turn(2)
    assert (idle in h.ear.replies, moved in h.ear.replies) == (True, False)
    let_go(h, a)
    h.turn()
    assert moved in h.ear.replies


def test_a_drain_waits_for_the_streams_of_all_front_doors() -> None:
    """A door without streams of its own is told when the last of the others' has let go."""
    h, ear = Harness(), Ear()
    other = h.engine.connect(ear)
    other.submit(Open(1, 0, [""], np.zeros(1, np.uint32)))
    h.turn()
    moved = h.drain(until_let_go=True)
    other.submit(Drain(1, until_let_go=True))
    h.turn()
    assert (moved in h.ear.replies, 1 in ear.replies) == (False, False)
    other.submit(DoorLost())
    h.turn()
    assert (moved in h.ear.replies, 1 in ear.replies) == (True, True)


def test_a_drain_that_may_wait_for_sessions_waits_for_steps_too() -> None:
    """Of callers who hold none."""
    h = Harness()
    session = h.open_as("")
    h.call(session, 0, [1.0] * 100, stream=9)
    moved = h.drain(until_let_go=True)
    h.turn()
    assert (h.engine.busy, moved in h.ear.replies) == (True, False)
    h.settle()
    assert moved in h.ear.replies
