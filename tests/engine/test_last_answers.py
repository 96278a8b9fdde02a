"""Repeats of the step with which a session ended: answered though it is gone."""

from __future__ import annotations

import pytest

from stepstream_server.engine.ports import NO_SEQ, Ending, Keep
from stepstream_server.engine.sessions import idempotency, lifecycle
from stepstream_server.errors import Reason
from support.engine import Answer, Harness, Refusal
from support.sequences import CALLER, closed, step


@pytest.mark.parametrize(("keep", "sums"), [(Keep.ALL, (1.0, 3.0)), (Keep.LAST, (3.0,)), (Keep.NONE, ())])
def test_a_repeat_of_a_numbered_end_is_answered_though_the_session_is_gone(keep: Keep, sums: tuple[float, ...]) -> None:
    """Just so: the same steps, with the outputs asked for at first."""
    h = Harness()
    step(h, [1.0, 2.0], seq=0, start=True, end=True, keep=keep)
    h.settle()
    for _ in range(2):
        step(h, [1.0, 2.0], seq=0, end=True, keep=keep, handle=4)
        assert h.turn() == [Answer(CALLER, 4, 0, 2, sums)]
    assert sum(report.duplicates for report in h.reports.turns) == 4
    assert h.engine.stats().steps == 2


def test_nothing_but_the_exact_repeat_is_answered() -> None:
    """Other numbers, other lengths, other outputs, no end: the session is closed."""
    h = Harness()
    step(h, 1.0, start=True)
    step(h, [1.0, 1.0], seq=1, end=True)
    h.settle()
    for values, seq, keep, end in (
        ([1.0, 1.0], 0, Keep.ALL, True),
        ([1.0], 1, Keep.ALL, True),
        ([1.0, 1.0], 1, Keep.LAST, True),
        ([1.0, 1.0], NO_SEQ, Keep.ALL, True),
        ([1.0, 1.0], 1, Keep.ALL, False),
    ):
        step(h, values, seq=seq, end=end, keep=keep)
        assert [each.reason for each in h.settle() if isinstance(each, Refusal)] == [Reason.SESSION_CLOSED]


def test_a_repeat_of_the_end_that_is_queued_behind_it_is_answered() -> None:
    """A retry that overtook the answer; what else is behind is refused."""
    h = Harness()
    step(h, 1.0, start=True)
    h.turn()
    step(h, 2.0, seq=1, end=True, handle=1)
    step(h, 2.0, seq=1, end=True, handle=2, stream=8)
    step(h, 3.0, seq=2, handle=3)
    assert h.settle() == [
        Answer(CALLER, 1, 1, 1, (3.0,)),
        Answer(8, 2, 1, 1, (3.0,)),
        Refusal(CALLER, 3, 2, 1, Reason.SESSION_CLOSED, 0),
    ]


def test_a_repeat_that_ends_is_repeated_though_others_step_behind_it() -> None:
    """An unnumbered step, which nobody could acknowledge later, acknowledges what was before it; but not the answer with which
    the session has ended."""
    h = Harness()
    step(h, 1.0, start=True, seq=0)
    h.settle()
    step(h, 1.0, seq=0, end=True, handle=1)
    step(h, 2.0, seq=NO_SEQ, handle=2, stream=8)
    assert h.settle() == [Answer(CALLER, 1, 0, 1, (1.0,)), Refusal(8, 2, 1, 1, Reason.SESSION_CLOSED, 0)]
    step(h, 1.0, seq=0, end=True, handle=3)
    assert h.settle() == [Answer(CALLER, 3, 0, 1, (1.0,))]


def test_a_repeat_that_ends_ends_the_session() -> None:
    """The step was applied before, by a call that did not say so; what is behind is refused."""
    h = Harness()
    step(h, 1.0, seq=0, start=True)
    h.turn()
    step(h, 1.0, seq=0, end=True, handle=1)
    step(h, [2.0, 2.0], seq=0, handle=2)
    step(h, 2.0, handle=3)
    assert h.turn() == [
        Answer(CALLER, 1, 0, 1, (1.0,)),
        *[Refusal(CALLER, handle, seq, 1, Reason.SESSION_CLOSED, 0) for handle, seq in ((2, 0), (2, 1), (3, 2))],
    ]
    assert closed(h) == {Ending.CLOSED: 1}
    step(h, 1.0, seq=0, start=True)
    h.turn()
    for handle in range(2):
        step(h, 1.0, seq=0, end=True, handle=handle)
        assert h.turn() == [Answer(CALLER, handle, 0, 1, (1.0,))]
    assert closed(h) == {Ending.CLOSED: 2}


def test_a_new_step_behind_a_repeat_that_ends_is_not_applied() -> None:
    """Though the repeat needs no launch, and the step could be in this turn's."""
    h = Harness()
    step(h, 1.0, seq=0, start=True)
    h.turn()
    step(h, 1.0, seq=0, end=True, handle=1)
    step(h, 2.0, handle=2)
    assert h.turn() == [Answer(CALLER, 1, 0, 1, (1.0,)), Refusal(CALLER, 2, 1, 1, Reason.SESSION_CLOSED, 0)]
    assert h.engine.stats().steps == 1


def test_a_queued_repeat_of_the_end_is_answered_whatever_is_acknowledged_behind_it() -> None:
    """It was sent before, so that its answer is kept for it."""
    h = Harness()
    step(h, 1.0, seq=0, start=True)
    h.turn()
    for handle in (1, 2):
        step(h, 1.0, seq=0, end=True, handle=handle)
    step(h, 2.0, handle=3)
    assert h.turn() == [
        Answer(CALLER, 1, 0, 1, (1.0,)),
        Answer(CALLER, 2, 0, 1, (1.0,)),
        Refusal(CALLER, 3, 1, 1, Reason.SESSION_CLOSED, 0),
    ]


def test_an_unnumbered_end_is_not_kept() -> None:
    """Its repeat could be anything."""
    h = Harness()
    step(h, 1.0, start=True, end=True)
    h.turn()
    step(h, 1.0, seq=0, end=True)
    assert h.turn() == [Refusal(CALLER, 0, 0, 1, Reason.SESSION_CLOSED, 0)]


def test_the_last_answer_is_forgotten_with_its_session() -> None:
    """After the tombstone's time, or when the id stands for another session."""
    h = Harness(tombstone_seconds=60)
    step(h, 1.0, seq=0, start=True, end=True)
    h.turn()
    h.clock.advance(61)
    step(h, 1.0, seq=0, end=True)
    assert len(h.turn()) == 1
    step(h, 5.0, seq=0, start=True, end=True)
    h.turn()
    step(h, 2.0, start=True)
    step(h, 5.0, seq=0, end=True, handle=1)
    assert h.settle() == [Answer(CALLER, 0, 0, 1, (2.0,)), Refusal(CALLER, 1, 0, 1, Reason.ANSWER_DISCARDED, 1)]
    step(h, 2.0, end=True)
    h.turn()
    step(h, 5.0, seq=0, end=True)
    assert h.turn() == [Refusal(CALLER, 0, 0, 1, Reason.SESSION_CLOSED, 0)]


def test_a_queued_repeat_of_a_replaced_sessions_end_is_its_own() -> None:
    """Two sequences of one id end in one turn with the same numbers: each repeat hears of its own."""
    h = Harness()
    step(h, 1.0, seq=0, start=True, end=True, handle=1)
    step(h, 1.0, seq=0, end=True, handle=2)
    step(h, 10.0, seq=0, start=True, end=True, handle=3)
    step(h, 10.0, seq=0, end=True, handle=4)
    sums = {each.handle: each.sums for each in h.settle() if isinstance(each, Answer)}
    assert sums == {1: (1.0,), 2: (1.0,), 3: (10.0,), 4: (10.0,)}
    step(h, 10.0, seq=0, end=True)
    assert h.turn() == [Answer(CALLER, 0, 0, 1, (10.0,))]


def test_last_answers_are_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest go first."""
    monkeypatch.setattr(lifecycle, "MOST_BYTES", 3 * idempotency._ANSWER_BYTES)
    h = Harness()
    for name in ("a", "b", "c"):
        step(h, 1.0, name=name, seq=0, start=True, end=True)
        h.turn()
    for name in ("a", "b", "c"):
        step(h, 1.0, name=name, seq=0, end=True)
    assert [type(each) for each in h.settle()] == [Answer, Answer, Refusal]
