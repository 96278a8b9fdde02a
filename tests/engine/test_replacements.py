"""Starts under the id of a session that is open: who must give way, when, and what becomes of its steps."""

from __future__ import annotations

import pytest

from stepstream_server.engine.ports import NO_SEQ, NO_STREAM, Ending, Open
from stepstream_server.errors import Reason
from support.backend import FakeBackend
from support.engine import Answer, Harness, Refusal
from support.sequences import CALLER, closed, listed, reason_of, replaced, step


def test_a_start_replaces_the_session_that_has_its_id() -> None:
    """It begins at zero; the former one is closed, counted and named."""
    h = Harness(FakeBackend(slots=1))
    step(h, 1.0, start=True)
    h.turn()
    step(h, 10.0, start=True)
    assert h.turn() == [Answer(CALLER, 0, 0, 1, (10.0,))]
    assert (closed(h), replaced(h)) == ({Ending.REPLACED: 1}, ["a"])
    assert h.engine.stats().sessions == 1


def test_what_is_pending_of_a_replaced_session_is_still_answered() -> None:
    """First in, first out: both sessions' steps of one turn, each with its own state."""
    h = Harness(max_batch=1)
    step(h, [1.0, 1.0, 1.0], start=True, handle=1)
    step(h, 2.0, handle=2)
    step(h, 10.0, start=True, handle=3)
    step(h, 10.0, handle=4)
    outcomes = h.turn()
    assert listed(h) == ["a"]
    outcomes += h.settle()
    sums = {
        handle: [value for each in outcomes if each.handle == handle and isinstance(each, Answer) for value in each.sums]
        for handle in range(1, 5)
    }
    assert sums == {1: [1.0, 2.0, 3.0], 2: [5.0], 3: [10.0], 4: [20.0]}
    assert (closed(h), replaced(h)) == ({Ending.REPLACED: 1}, ["a"])
    assert len(h.backend.free) == h.backend.slots - 1


def test_two_starts_of_one_turn_leave_the_second() -> None:
    """The first one's step is answered all the same."""
    h = Harness()
    step(h, 1.0, start=True, handle=1)
    step(h, 2.0, start=True, handle=2)
    assert h.turn() == [Answer(CALLER, 1, 0, 1, (1.0,)), Answer(CALLER, 2, 0, 1, (2.0,))]
    step(h, 3.0)
    assert h.turn() == [Answer(CALLER, 0, 1, 1, (5.0,))]
    assert replaced(h) == ["a"]


def test_an_end_and_a_start_sent_ahead_are_two_sequences() -> None:
    """The former one was closed by its end, and is not called replaced."""
    h = Harness()
    step(h, 1.0, start=True, handle=1)
    step(h, 2.0, end=True, handle=2)
    step(h, 10.0, start=True, handle=3)
    step(h, 20.0, end=True, handle=4)
    step(h, 100.0, start=True, handle=5)
    outcomes = {each.handle: each for each in h.settle()}
    assert [outcomes[handle] for handle in range(1, 6)] == [
        Answer(CALLER, 1, 0, 1, (1.0,)),
        Answer(CALLER, 2, 1, 1, (3.0,)),
        Answer(CALLER, 3, 0, 1, (10.0,)),
        Answer(CALLER, 4, 1, 1, (30.0,)),
        Answer(CALLER, 5, 0, 1, (100.0,)),
    ]
    assert (closed(h), replaced(h)) == ({Ending.CLOSED: 2}, [])
    assert h.get("a").next_seq == 1


def test_a_replaced_session_whose_callers_have_gone_ends() -> None:
    """Its queued steps are dropped; then nothing of it is pending."""
    h = Harness(FakeBackend(slots=2))
    step(h, [1.0] * 50, start=True, stream=8)
    h.turn()
    step(h, 10.0, start=True)
    h.hang_up(8)
    h.turn()
    assert (closed(h), len(h.backend.free)) == ({Ending.REPLACED: 1}, 1)
    assert h.get("a").next_seq == 1


def test_a_replaced_session_counts_until_it_has_ended() -> None:
    """Where there is no second slot, its successor is refused and it lives on."""
    h = Harness(FakeBackend(slots=1))
    step(h, [1.0, 1.0], start=True, handle=1)
    step(h, 10.0, start=True, handle=2)
    outcomes = h.settle()
    assert Refusal(CALLER, 2, 0, 1, Reason.SESSION_CAPACITY, 0) in outcomes
    assert (h.get("a").next_seq, closed(h), h.reports.refused) == (2, {}, {Reason.SESSION_CAPACITY: 1})
    step(h, 10.0, start=True)
    assert h.settle() == [Answer(CALLER, 0, 0, 1, (10.0,))]


def test_starts_that_free_a_slot_leave_it_to_their_own_session() -> None:
    """In one call: a new session finds no room, one that replaces another does."""
    h = Harness(FakeBackend(slots=1))
    step(h, 1.0, start=True)
    h.turn()
    h.call_many(["new", "a"], [NO_SEQ] * 2, [[1.0], [2.0]], stream=CALLER, starts=[True] * 2)
    outcomes = h.settle()
    assert outcomes == [Answer(CALLER, 1, 0, 1, (2.0,)), Refusal(CALLER, 0, 0, 1, Reason.SESSION_CAPACITY, 0)]


@pytest.mark.parametrize(
    ("values", "seq", "reason"),
    [
        ([float("nan")], NO_SEQ, Reason.NON_FINITE_INPUT),
        ([1.0], 1, Reason.SEQUENCE_MISMATCH),
        ([1.0] * 9, NO_SEQ, Reason.WINDOW_FULL),
        ([1.0] * 7, NO_SEQ, Reason.QUEUE_FULL),
    ],
)
def test_a_bad_start_harms_nobody(values: list[float], seq: int, reason: Reason) -> None:
    """Neither the session that has its id, nor one that is not there."""
    h = Harness(window_steps=8, max_pending_steps=6)
    step(h, 1.0, start=True)
    h.turn()
    for name in ("a", "b"):
        step(h, values, name=name, seq=seq, start=True)
        assert h.turn() == [Refusal(CALLER, 0, max(seq, 0), len(values), reason, 0)]
    assert listed(h) == ["a"]
    step(h, 2.0)
    assert h.turn() == [Answer(CALLER, 0, 1, 1, (3.0,))]
    assert closed(h) == {}


def test_a_start_may_fill_the_window() -> None:
    """As many answers as may be kept can be those of a sequence's first row; with one more it begins nothing."""
    h = Harness(window_bytes=16)  # two answers of two float32 each
    step(h, 1.0, seq=0, start=True)
    h.turn()
    step(h, [1.0] * 3, seq=0, start=True)
    assert h.turn() == [Refusal(CALLER, 0, 0, 3, Reason.WINDOW_FULL, 0)]
    assert (replaced(h), h.get("a").next_seq) == ([], 1)
    step(h, [1.0] * 2, seq=0, start=True)
    h.settle()
    assert (replaced(h), h.get("a").next_seq) == (["a"], 2)


def test_starts_of_one_call_share_the_room_in_the_queue() -> None:
    """Each finds what those in front of it have left; one for which that is too little replaces nothing."""
    h = Harness(max_pending_steps=10)
    for name in ("a", "b", "c"):
        step(h, 1.0, name=name, start=True)
    h.settle()
    values = [[1.0] * 8, [1.0] * 3, [1.0] * 2]
    h.call_many(["a", "b", "c"], [NO_SEQ] * 3, values, stream=CALLER, starts=[True] * 3)
    refused = [each for each in h.settle() if isinstance(each, Refusal)]
    assert refused == [Refusal(CALLER, 1, 0, 3, Reason.QUEUE_FULL, 0)]
    assert replaced(h) == ["a", "c"]
    assert [h.get(name).next_seq for name in ("a", "b", "c")] == [8, 1, 2]


def test_a_start_does_not_replace_what_a_stream_holds() -> None:
    """Nor does it open anything while the server is about to stop, or under an id that is none."""
    h = Harness()
    (held,) = h.open()
    step(h, 1.0, name=held.id, start=True)
    assert h.settle() == [Refusal(CALLER, 0, 0, 1, Reason.SESSION_IN_USE, 0)]
    step(h, 1.0, name="ä", start=True)
    step(h, 1.0, name="", start=True)
    assert [each.reason for each in h.settle() if isinstance(each, Refusal)] == [Reason.INVALID_ARGUMENT] * 2
    step(h, 1.0, start=True)
    h.turn()
    h.drain()
    step(h, 1.0, start=True)
    step(h, 1.0, name="b", start=True)
    assert h.settle() == [Refusal(CALLER, 0, 0, 1, Reason.SERVER_DRAINING, 0)] * 2
    assert h.get("a").next_seq == 1
    assert h.reports.refused[Reason.SERVER_DRAINING] == 2


def test_a_repeated_opening_does_not_find_a_session_that_was_replaced() -> None:
    """Its id belongs to somebody else's session now, though it lives until its steps are answered."""
    h = Harness()
    opening = Open(NO_STREAM, h.request(), ["a"], request_id="once")
    h.ask(opening)
    step(h, [1.0] * 9)
    step(h, 10.0, start=True)
    h.door.submit(Open(NO_STREAM, h.request(), ["a"], request_id="once"))
    h.turn()
    assert reason_of(h.ear.replies[h._request][0]) is Reason.SESSION_CLOSED


def test_a_stream_cannot_attach_a_session_that_was_replaced() -> None:
    """Its secret is not that of the session which has its id now."""
    h = Harness()
    a = h.open_as("a")
    step(h, [1.0] * 9)
    step(h, 10.0, start=True)
    assert reason_of(h.attach(a, stream=2)) is Reason.SECRET_MISMATCH
