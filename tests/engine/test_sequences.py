"""Sequences: sessions that a one-shot step begins and another one ends."""

from __future__ import annotations

import numpy as np
import pytest

from stepstream_server.engine.ports import NO_SEQ, Attach, DoorLost, Ending, Export, Origin
from stepstream_server.errors import Reason
from support.backend import FakeBackend
from support.engine import Answer, Harness, Refusal
from support.sequences import CALLER, POISON, closed, listed, reason_of, replaced, step


def test_a_sequence_begins_goes_on_and_ends() -> None:
    """The first step opens the session, the last one closes it, and what ended says so."""
    h = Harness()
    step(h, 1.0, start=True)
    assert h.turn() == [Answer(CALLER, 0, 0, 1, (1.0,))]
    step(h, 2.0)
    assert h.turn() == [Answer(CALLER, 0, 1, 1, (3.0,))]
    assert listed(h) == ["a"]
    step(h, 3.0, end=True)
    assert h.turn() == [Answer(CALLER, 0, 2, 1, (6.0,))]
    assert reason_of(h.get("a")) is Reason.SESSION_CLOSED
    assert (h.reports.opened, closed(h)) == ({Origin.OPENED: 1}, {Ending.CLOSED: 1})
    assert (len(h.backend.free), h.engine.stats().sessions) == (h.backend.slots, 0)


def test_one_row_may_begin_and_end_a_sequence() -> None:
    """Nothing of it is left after its turn."""
    h = Harness()
    step(h, [1.0, 2.0], start=True, end=True)
    assert h.settle() == [Answer(CALLER, 0, 0, 2, (1.0, 3.0))]
    assert reason_of(h.get("a")) is Reason.SESSION_CLOSED
    assert len(h.backend.free) == h.backend.slots


def test_a_step_of_a_session_that_was_never_started_is_refused() -> None:
    """Whether it is said to end or not."""
    h = Harness()
    step(h, 1.0)
    step(h, 1.0, name="b", end=True)
    assert [each.reason for each in h.settle() if isinstance(each, Refusal)] == [Reason.SESSION_NOT_FOUND] * 2


def test_a_step_after_the_end_is_refused_as_closed() -> None:
    """Sent ahead, or later."""
    h = Harness()
    step(h, 1.0, start=True)
    step(h, 2.0, end=True, handle=1)
    step(h, 3.0, handle=2)
    outcomes = h.settle()
    assert outcomes[:2] == [Answer(CALLER, 0, 0, 1, (1.0,)), Answer(CALLER, 1, 1, 1, (3.0,))]
    assert outcomes[2:] == [Refusal(CALLER, 2, 2, 1, Reason.SESSION_CLOSED, 0)]
    step(h, 3.0, handle=3)
    assert h.settle() == [Refusal(CALLER, 3, 0, 1, Reason.SESSION_CLOSED, 0)]


def test_a_chunk_ends_its_session_with_its_last_step() -> None:
    """However many launches it takes."""
    h = Harness()
    step(h, [1.0] * 20, start=True, end=True, seq=0)
    h.turn()
    assert h.get("a").pending_steps > 0
    h.settle()
    assert reason_of(h.get("a")) is Reason.SESSION_CLOSED


@pytest.mark.parametrize("value", [float("nan"), POISON])
def test_an_end_that_fails_ends_nothing(value: float) -> None:
    """Refused for its input, or because the state would not stay finite."""
    h = Harness(FakeBackend(poison=POISON))
    step(h, 1.0, start=True)
    step(h, value, end=True)
    assert len(h.settle()) == 2
    assert h.get("a").next_seq == 1


def test_an_end_whose_time_was_over_ends_nothing() -> None:
    """A retry of it does."""
    h = Harness()
    step(h, 1.0, start=True)
    step(h, 2.0, end=True, deadline=h.clock() - 1, handle=1)
    assert h.settle()[1:] == [Refusal(CALLER, 1, 1, 1, Reason.DEADLINE_EXCEEDED, 1)]
    step(h, 2.0, end=True)
    assert h.settle() == [Answer(CALLER, 0, 1, 1, (3.0,))]
    assert reason_of(h.get("a")) is Reason.SESSION_CLOSED


def test_an_end_whose_caller_has_gone_ends_nothing() -> None:
    """Its queued step is dropped, and with it its end."""
    h = Harness()
    step(h, 1.0, start=True)
    h.turn()
    step(h, 2.0, end=True, stream=8)
    h.hang_up(8)
    assert h.settle() == []
    assert h.get("a").next_seq == 1
    h.door.submit(DoorLost())
    assert h.settle() == []
    assert h.get("a").next_seq == 1


def test_a_quarantined_session_is_not_ended_by_a_refused_step_but_replaced_by_a_start() -> None:
    """The way out for a caller who knows no reset."""
    h = Harness(FakeBackend(poison=POISON))
    step(h, 1.0, start=True)
    step(h, POISON, handle=1)
    step(h, 1.0, end=True, handle=2)
    assert [each.reason for each in h.settle() if isinstance(each, Refusal)] == [
        Reason.NON_FINITE_STATE,
        Reason.SESSION_QUARANTINED,
    ]
    step(h, 1.0, end=True)
    assert h.settle() == [Refusal(CALLER, 0, 1, 1, Reason.SESSION_QUARANTINED, 1)]
    assert h.get("a").quarantined
    step(h, 1.0, start=True)
    assert h.settle() == [Answer(CALLER, 0, 0, 1, (1.0,))]
    assert not h.get("a").quarantined


def test_a_start_whose_step_fails_leaves_an_open_session() -> None:
    """It is there to be started again."""
    h = Harness(FakeBackend(poison=POISON))
    step(h, POISON, start=True)
    assert h.settle() == [Refusal(CALLER, 0, 0, 1, Reason.NON_FINITE_STATE, 0)]
    assert h.get("a").quarantined
    step(h, 1.0, start=True)
    assert h.settle() == [Answer(CALLER, 0, 0, 1, (1.0,))]


def test_a_replaced_session_is_still_copied_where_it_was_asked_for() -> None:
    """Forks and exports that wait for one of its steps."""
    h = Harness()
    a = h.open_as("a")
    step(h, [1.0] * 12)
    fork, export = h.fork(a, 12), h.export(a, 10, close=False)
    step(h, 100.0, start=True)
    h.settle()
    forked, snapshot = h.ear.replies[fork], h.ear.replies[export]
    assert (forked.next_seq, snapshot.next_seq, snapshot.id) == (12, 10, "a")
    step(h, 1.0, name=forked.sessions[0].id)
    assert h.settle() == [Answer(CALLER, 0, 12, 1, (13.0,))]
    assert (closed(h), h.get("a").next_seq) == ({Ending.REPLACED: 1}, 1)


def test_an_export_that_closes_a_replaced_session_leaves_its_successor_alone() -> None:
    """What moves is the session that was asked for."""
    h = Harness()
    a = h.open_as("a")
    step(h, [1.0] * 12)
    export = h.export(a, 12, close=True)
    step(h, 100.0, start=True)
    h.settle()
    assert h.ear.replies[export].next_seq == 12
    assert (closed(h), h.get("a").next_seq) == ({Ending.MOVED: 1}, 1)


def test_a_copy_that_waits_for_steps_behind_the_end_is_refused() -> None:
    """They are never applied; one that waits for the end itself is taken."""
    h = Harness()
    a = h.open_as("a")
    step(h, 1.0, end=True)
    step(h, 2.0, handle=1)
    there, beyond = h.fork(a, 1), h.fork(a, 2)
    h.turn()
    assert h.ear.replies[there].next_seq == 1
    assert reason_of(h.ear.replies[beyond]) is Reason.SESSION_CLOSED


def test_closing_wins_over_an_end_on_its_way() -> None:
    """The end is refused then."""
    h = Harness()
    a = h.open_as("a")
    step(h, 1.0, end=True)
    assert h.close(a) == 0
    assert h.settle() == [Refusal(CALLER, 0, 0, 1, Reason.SESSION_CLOSED, 0)]


def test_sequences_expire_like_sessions() -> None:
    """And a start begins anew."""
    h = Harness(idle_ttl_seconds=10)
    step(h, 1.0, start=True)
    h.turn()
    h.clock.advance(11)
    h.turn()
    step(h, 1.0)
    assert h.turn() == [Refusal(CALLER, 0, 0, 1, Reason.SESSION_EXPIRED, 0)]
    step(h, 1.0, start=True)
    assert h.turn() == [Answer(CALLER, 0, 0, 1, (1.0,))]


def test_a_drain_waits_for_replaced_sessions_too() -> None:
    """What was pending is answered first."""
    h = Harness(max_batch=1)
    step(h, [1.0] * 20, start=True)
    step(h, 1.0, start=True)
    request = h.drain()
    h.turn()
    assert request not in h.ear.replies
    h.settle()
    assert h.ear.replies[request] is None
    assert h.engine.stats().sessions == 1


def test_callers_are_told_what_became_of_an_id() -> None:
    """Never started, closed, expired and moved are different answers."""
    h = Harness(idle_ttl_seconds=10)
    for name in ("closed", "moved", "expired"):
        step(h, 1.0, name=name, start=True)
    step(h, 1.0, name="closed", end=True)
    h.settle()
    h.ask(Export(h.request(), "moved", b"", NO_SEQ, close=True, most_bytes=1 << 20))
    h.clock.advance(11)
    h.turn()
    h.call_many(["never", "closed", "moved", "expired"], [NO_SEQ] * 4, [[1.0]] * 4, stream=CALLER)
    assert [each.reason for each in h.turn() if isinstance(each, Refusal)] == [
        Reason.SESSION_NOT_FOUND,
        Reason.SESSION_CLOSED,
        Reason.SESSION_MOVED,
        Reason.SESSION_EXPIRED,
    ]


def test_attaching_a_sequence_needs_a_secret_that_nobody_was_told() -> None:
    """A session started by a one-shot step has no writer but one-shot ones."""
    h = Harness()
    step(h, 1.0, start=True)
    h.turn()
    reply = h.ask(Attach(2, h.request(), np.zeros(1, np.uint32), ["a"], [b""], np.zeros(1, np.int64)))
    assert reason_of(reply[0]) is Reason.SECRET_MISMATCH


def test_an_attached_stream_hears_of_the_end() -> None:
    """A stream that attached a session whose end was on its way."""
    h = Harness()
    a = h.open_as("a")
    step(h, [1.0, 1.0], end=True)
    h.attach(a, stream=2, handle=3)
    h.settle()
    assert h.ear.detached == [(2, 3, Ending.CLOSED)]


@pytest.mark.parametrize("late", [0.0, 1.0])
def test_a_start_that_comes_too_late_harms_nobody(late: float) -> None:
    """Its time was over before its sequence could begin, if only just: the one that it was to replace goes on."""
    h = Harness()
    step(h, 1.0, start=True)
    h.settle()
    step(h, 1.0, start=True, deadline=h.clock() - late)
    assert h.settle() == [Refusal(CALLER, 0, 0, 1, Reason.DEADLINE_EXCEEDED, 0)]
    assert (replaced(h), h.get("a").next_seq) == ([], 1)


def test_a_start_that_is_wrong_and_late_hears_what_is_wrong() -> None:
    """As a step does that goes on: it would be told so in time, too."""
    h = Harness(window_steps=8)
    step(h, 1.0, start=True)
    h.settle()
    for start, first in ((True, 0), (False, 1)):
        step(h, [1.0] * 9, start=start, deadline=h.clock() - 1)
        assert h.settle() == [Refusal(CALLER, 0, first, 9, Reason.WINDOW_FULL, first)]


def test_a_start_for_which_there_is_no_room_harms_nobody() -> None:
    """Steps of others that come in the same turn take the room first."""
    h = Harness(max_pending_steps=10)
    for name in ("a", "b"):
        step(h, 1.0, name=name, start=True)
    h.settle()
    h.call_many(["b", "a"], [NO_SEQ] * 2, [[1.0] * 8] * 2, stream=CALLER, starts=[False, True])
    assert [each.reason for each in h.settle() if isinstance(each, Refusal)] == [Reason.QUEUE_FULL]
    assert (replaced(h), h.get("a").next_seq, h.get("b").next_seq) == ([], 1, 9)


def test_nothing_is_applied_behind_an_end_that_was_answered() -> None:
    """The repeat of a step ends the session; a step of the stream that holds it comes behind that in one turn."""
    h = Harness()
    (a,) = h.open()
    h.send([a], [0], [[1.0]])
    h.turn()
    h.call_many([a.id], [0], [[1.0]], stream=CALLER, secrets=[a.secret], ends=[True])
    h.acknowledge(a, 1)
    h.send([a], [1], [[5.0]])
    assert h.settle() == [Answer(CALLER, 0, 0, 1, (1.0,))]
    assert h.backend.launches == [(1, 1)]
    assert h.ear.detached == [(1, 0, Ending.CLOSED)]
