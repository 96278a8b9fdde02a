"""Steps, rollouts and copies of callers who name no number: they take the next one, whatever becomes of what was sent before."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepstream_server.engine.ports import NO_SEQ, Begun, Commit, Ints, Keep, Opened, RolloutEnding
from stepstream_server.errors import Reason, StepStreamError
from support.backend import FakeBackend
from support.engine import Answer, Harness, Refusal
from support.reference import ReferenceLine, ReferenceSession, Sent
from support.rollouts import Rolling, after, text

POISON = 1000.0
HOLDER, ANN, BEN = 1, 50, 51  # the stream that holds the session, and two one-shot callers


def opened(**settings: float) -> tuple[Harness, Opened]:
    """A session, held by a stream."""
    h = Harness(FakeBackend(poison=POISON), **settings)
    (session,) = h.open()
    return h, session


def late(h: Harness, session: Opened, first: int, *values: float) -> None:
    """The holder sends steps whose time is over before they can run."""
    h.send([session], [first], [values or [1.0]], deadline=h.clock())


def step(h: Harness, session: Opened, *values: float, caller: int = ANN, **options: Any) -> None:
    """A one-shot caller sends steps without a number."""
    h.call_many([session.id], [NO_SEQ], [values], stream=caller, secrets=[session.secret], **options)
    h.acknowledge(session, 0, handle=99)  # of nothing; blocks of the same turn overtake calls, unless something is between them


def test_it_runs_though_the_time_of_a_step_before_it_is_over() -> None:
    """A step with a number behind the late one is refused, whatever number is free by then."""
    h, a = opened()
    late(h, a, 0)
    step(h, a, 2.0)
    h.send([a], [2], [[4.0]])
    assert h.settle() == [
        Refusal(HOLDER, 0, 0, 1, Reason.DEADLINE_EXCEEDED, 0),
        Answer(ANN, 0, 0, 1, (2.0,)),
        Refusal(HOLDER, 0, 2, 1, Reason.SEQUENCE_MISMATCH, 1),
    ]
    assert h.get(a.id).next_seq == 1


def test_it_runs_though_another_one_without_a_number_was_late() -> None:
    """Each hears of its own step alone, and those of one caller keep their order."""
    h, a = opened()
    for caller, value in ((ANN, 1.0), (BEN, 2.0), (ANN, 3.0), (BEN, 4.0)):
        step(h, a, value, caller=caller, deadline=h.clock() + (0.0 if value == 1.0 else 9.0))
    assert h.settle() == [
        Refusal(ANN, 0, 0, 1, Reason.DEADLINE_EXCEEDED, 0),
        Answer(BEN, 0, 0, 1, (2.0,)),
        Answer(ANN, 0, 1, 1, (5.0,)),
        Answer(BEN, 0, 2, 1, (9.0,)),
    ]


def test_it_runs_though_the_stream_before_it_has_gone() -> None:
    """The stream's steps go with it, and so does its reset."""
    h, a = opened()
    h.send([a], [0], [[1.0, 1.0]])
    h.reset(a, 2)
    step(h, a, 2.0, 3.0)
    h.end_stream(HOLDER)
    assert h.settle() == [Answer(ANN, 0, 0, 2, (2.0, 5.0))]


def test_it_runs_behind_what_was_cut_and_then_dropped() -> None:
    """A chunk's time is over between two launches: its steps that have run stay, and the rest is skipped."""
    h, a = opened()
    h.send([a], [0], [[1.0] * 20], deadline=h.clock() + 1.0)
    step(h, a, 100.0)
    ran = sum(each.length for each in h.turn())
    assert 0 < ran < 20
    h.clock.advance(2.0)
    assert h.settle() == [
        Refusal(HOLDER, 0, ran, 20 - ran, Reason.DEADLINE_EXCEEDED, ran),
        Answer(ANN, 0, ran, 1, (ran + 100.0,)),
    ]


def test_of_its_own_chunk_it_hears_why_the_rest_did_not_run() -> None:
    """Its steps that have run were answered; the next caller goes on from there."""
    h, a = opened()
    step(h, a, *[1.0] * 20, deadline=h.clock() + 1.0)
    step(h, a, 100.0, caller=BEN)
    outcomes = h.turn()
    ran = sum(each.length for each in outcomes)
    assert 0 < ran < 20
    h.clock.advance(2.0)
    assert h.settle() == [
        Refusal(ANN, 0, ran, 20 - ran, Reason.DEADLINE_EXCEEDED, ran),
        Answer(BEN, 0, ran, 1, (ran + 100.0,)),
    ]


def test_behind_a_step_that_quarantines_the_session_it_hears_of_that() -> None:
    """A reset that has a number is refused like any other behind the failure, and helps nobody."""
    h, a = opened()
    h.send([a], [0], [[POISON]])
    h.reset(a, 1)
    step(h, a, 2.0)
    outcomes = h.settle()
    reasons = [each.reason for each in outcomes if isinstance(each, Refusal)]
    assert reasons == [Reason.NON_FINITE_STATE, Reason.SEQUENCE_MISMATCH, Reason.SESSION_QUARANTINED]
    assert len(outcomes) == 3


def test_behind_a_reset_that_is_dropped_it_hears_that_the_session_is_quarantined() -> None:
    """It had been admitted because the reset would have healed the session."""
    h, a = opened()
    h.send([a], [0], [[POISON]])
    h.settle()
    h.reset(a, 0)
    step(h, a, 2.0)
    h.end_stream(HOLDER)
    assert [each.reason for each in h.settle() if isinstance(each, Refusal)] == [Reason.SESSION_QUARANTINED]


def test_it_takes_no_number_of_the_window_away() -> None:
    """The numbers that it moves up by are free again: the window is as wide as before."""
    h, a = opened(window_steps=4)
    late(h, a, 0, 1.0, 1.0, 1.0)
    step(h, a, 2.0)
    h.settle()
    h.send([a], [1], [[1.0] * 4])
    assert sum(each.length for each in h.settle() if isinstance(each, Answer)) == 4


def test_a_repeat_that_has_joined_the_late_step_is_not_answered_with_another_callers() -> None:
    """The step has the number of it by then, and was never the repeat's: that can be sent again from the number told."""
    h, a = opened()
    h.send([a], [0], [[1.0]])
    h.settle()
    late(h, a, 1, 2.0, 3.0)
    step(h, a, 10.0)
    h.send([a], [0], [[1.0, 2.0, 3.0]])
    assert h.settle() == [
        Refusal(HOLDER, 0, 1, 2, Reason.DEADLINE_EXCEEDED, 1),
        Answer(ANN, 0, 1, 1, (11.0,)),
        Answer(HOLDER, 0, 0, 1, (1.0,)),
        Refusal(HOLDER, 0, 1, 2, Reason.SEQUENCE_MISMATCH, 2),
    ]


def test_what_closes_the_session_closes_it_for_those_too() -> None:
    """Steps without a number hear of the end whether they have moved up or not."""
    h, a = opened()
    late(h, a, 0)
    step(h, a, 2.0)
    h.turn()
    h.detach(a, close=True)
    step(h, a, 3.0, caller=BEN)
    assert {(each.stream, each.reason) for each in h.settle() if isinstance(each, Refusal)} == {
        (ANN, Reason.SESSION_CLOSED),
        (BEN, Reason.SESSION_CLOSED),
    }


# Copies and rollouts -------------------------------------------------------------------------------------------------


def test_a_copy_of_all_that_is_admitted_is_one_of_what_comes_of_it() -> None:
    """Each holds what was sent before it and has run, and nothing that was sent behind it."""
    h, a = opened()
    late(h, a, 0, 1.0, 1.0)
    first = h.fork(a)
    step(h, a, 2.0, 2.0)
    second, export = h.fork(a), h.export(a)
    step(h, a, 5.0)
    h.settle()
    replies = h.ear.replies
    assert [replies[each].next_seq for each in (first, second, export)] == [0, 2, 2]
    copies = [replies[each].sessions[0] for each in (first, second)]
    assert [h.backend.states[h.get(each.id).slot, 0] for each in copies] == [0.0, 4.0]
    assert replies[export].states["last.sum"].tolist() == [4.0]
    assert h.get(a.id).next_seq == 3


def test_a_copy_does_not_hold_what_moves_up_behind_it() -> None:
    """The step before it is dropped and the one behind it could run, both in the turn in which the copy looks at its number."""
    h, a = opened()
    step(h, a, 1.0)
    request = h.fork(a)
    step(h, a, 2.0, caller=BEN)
    h.hang_up(ANN)
    assert h.settle() == [Answer(BEN, 0, 0, 1, (2.0,))]
    assert h.ear.replies[request].next_seq == 0


def test_a_copy_at_a_number_that_is_not_reached_is_refused_as_before() -> None:
    """Its caller waits for the number that it names, or hears that it will not come."""
    h, a = opened()
    late(h, a, 0, 1.0, 1.0)
    step(h, a, 2.0)
    reached, missed = h.fork(a, 1), h.fork(a, 3)
    h.settle()
    assert h.ear.replies[reached].next_seq == 1
    error = h.ear.replies[missed]
    assert isinstance(error, StepStreamError)
    assert (error.reason, error.expected_seq) == (Reason.SEQUENCE_MISMATCH, 1)


def test_a_copy_looks_for_its_number_only_when_the_session_has_gone_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """One walk over the session's rows does for all that wait there: a thousand rows and hundreds of copies may wait for long."""
    h, a = opened()
    for caller in (ANN, ANN, ANN, BEN):
        step(h, a, 1.0, caller=caller)
    first = h.fork(a)
    step(h, a, 1.0)
    second = h.fork(a)
    walks: list[list[int]] = []
    walk = h.engine.books.reached_by

    def counted(session: int, places: Ints) -> Ints:
        seqs = walk(session, places)
        walks.append(seqs.tolist())
        return seqs

    monkeypatch.setattr(h.engine.books, "reached_by", counted)
    h.turn(3)
    assert not walks
    h.hang_up(BEN)
    h.settle()
    assert walks == [[3, 4]]
    assert [h.ear.replies[each].next_seq for each in (first, second)] == [3, 4]


@pytest.mark.parametrize("commit", [Commit.EACH, Commit.END])
def test_a_copy_behind_a_rollout_does_not_wait_for_what_the_rollout_has_refused(commit: Commit) -> None:
    """The session goes back in the turn in which both are carried out."""
    h = Rolling(slow=True)
    (a,) = h.open()
    h.send([a], [0], [[1.0, 2.0]])
    h.generate(a, 3, commit=commit)
    step(h, a, 4.0)
    request = h.fork(a)
    h.settle()
    assert h.ear.replies[request].next_seq == 2


@pytest.mark.parametrize("commit", Commit)
def test_a_rollout_begins_though_a_step_before_it_was_late(commit: Commit) -> None:
    """It begins behind the steps before it that have run, and holds none of those sent behind it."""
    h = Rolling(slow=True)
    (a,) = h.open()
    h.send([a], [0], [[1.0, 2.0]])
    h.settle()
    h.send([a], [2], [[3.0, 3.0]], deadline=h.clock())
    h.call(a, NO_SEQ, [4.0], stream=ANN, secret=a.secret)
    request = h.generate(a, 3, commit=commit)
    h.call(a, NO_SEQ, [5.0], stream=BEN, secret=a.secret)
    outcomes = h.settle()
    assert h.ear.replies[request] == Begun(3)
    assert (h.drawn(), h.ending()) == (text([1, 2, 4], 3), RolloutEnding.LENGTH)
    heard = next(each for each in outcomes if each.stream == BEN)
    if commit is Commit.NONE:
        assert isinstance(heard, Answer)
        assert h.state(a) == after([1, 2, 4, 5])
    else:  # the session takes no steps while it rolls
        assert isinstance(heard, Refusal)
        assert heard.reason == Reason.SESSION_IN_USE


# Histories -----------------------------------------------------------------------------------------------------------

numbers = st.lists(st.integers(-8, 8).map(float), min_size=1, max_size=4) | st.sampled_from([[POISON], [math.nan]])
numbered = st.tuples(st.just(HOLDER), st.sampled_from([0, 0, 0, 0, -1, -2, 1]), numbers | st.just([]))
unnumbered = st.tuples(st.sampled_from([ANN, BEN]), st.none(), numbers)
sent = st.tuples(numbered | unnumbered, st.sampled_from(Keep), st.sampled_from([False, False, True]))
rounds = st.lists(st.tuples(st.lists(sent, min_size=2, max_size=8), st.none() | st.sampled_from([ANN, BEN])), max_size=3)


@settings(max_examples=100, deadline=None)
@given(rounds)
def test_every_history_has_the_outcomes_of_the_reference(history: list[Any]) -> None:
    """Late, failing, repeated, dropped and reset steps with and without numbers, each round sent before any of it is heard."""
    h, a = opened()
    reference = ReferenceSession(window_steps=1000, poison=POISON)
    for inputs, left in history:
        line = ReferenceLine(reference)
        for (caller, offset, values), keep, is_late in inputs:
            seq = None if offset is None else max(0, line.point + offset)
            given_ = Sent(caller, seq, tuple(values), keep, is_late)
            line.take(given_)
            send(h, a, given_)
        if left is not None:
            h.hang_up(left)
        with np.errstate(over="ignore"):
            told = [step for outcome in h.settle() for step in heard(outcome)]
        assert told == [told_of(given_, outcome) for given_, outcome in line.run(left)]
        h.engine.books.check()
    info = h.get(a.id)
    assert (info.next_seq, info.acked, info.quarantined) == (reference.next_seq, reference.acked, reference.quarantined)
    assert h.backend.states[info.slot, 0] == reference.sum


def send(h: Harness, session: Opened, given_: Sent) -> None:
    """Submits an input."""
    deadline = h.clock() + (0.0 if given_.late else 9.0)
    if not given_.values:
        h.reset(session, given_.seq or 0)
    elif given_.caller == HOLDER:
        h.send([session], [given_.seq or 0], [given_.values], keep=given_.keep, deadline=deadline)
    else:
        step(h, session, *given_.values, caller=given_.caller, keep=given_.keep, deadline=deadline)


def heard(outcome: Answer | Refusal) -> list[Any]:
    """An outcome step by step: who hears it, and what."""
    steps = range(outcome.first, outcome.first + outcome.length)
    if isinstance(outcome, Refusal):
        return [(outcome.stream, outcome.reason, outcome.expected) for _ in steps]
    sums = itertools.chain([None] * (outcome.length - len(outcome.sums)), outcome.sums)
    return [(outcome.stream, seq, sum_) for seq, sum_ in zip(steps, sums, strict=True)]


def told_of(given_: Sent, outcome: Any) -> Any:
    """A step's outcome of the reference in the same form; a refused step without a number has none to compare."""
    return (given_.caller, *outcome) if len(outcome) == 2 else (given_.caller, *outcome[1:])
