"""A session while it is rolled out: what it takes, what it refuses, and what becomes of the rollout when it ends."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from stepstream_server.engine.ports import NO_SEQ, Attach, Begun, Close, Commit, Ending, Forked, Open, Opened, RolloutEnding
from stepstream_server.engine.rollouts.rollouts import MOST_AHEAD, TAKEN_OVER
from stepstream_server.errors import Reason
from stepstream_server.snapshots import Snapshot
from support.engine import Answer, Refusal
from support.rollouts import CALLER, Rolling, after, text
from support.sequences import step

COMMITTING = pytest.mark.parametrize("commit", [Commit.END, Commit.EACH])
FED = [2, 3]


def under_way(commit: Commit, *, attached: bool = True, turns: int = 3, **settings: Any) -> tuple[Rolling, Opened]:
    """A session of two steps with a rollout that has drawn some tokens, and has many to come."""
    h = Rolling(**settings)
    a = h.open()[0] if attached else h.open_as("a")
    h.speak(a, FED)
    h.generate(a, 40, commit=commit)
    h.turn(turns)
    assert h.engine.stats().rollouts == 1
    assert len(h.drawn()) == turns
    return h, a


def stands(h: Rolling, session: Opened) -> int:
    """The session's next number, without a turn to ask for it."""
    return int(h.engine.books.table.next_seq[session.session])


def finish(h: Rolling, steps: int = 40) -> None:
    """The rollout goes on to its end as if nothing had been."""
    h.settle()
    assert h.drawn() == text(FED, steps)
    assert h.ending() is RolloutEnding.LENGTH
    h.check_books()


# What it takes -----------------------------------------------------------------------------------------------------------


@COMMITTING
def test_steps_are_refused_and_harm_nothing(commit: Commit) -> None:
    """Those of streams and of one-shot callers, and resets: each hears that the session is in use, and where it stands."""
    h, a = under_way(commit)
    point = stands(h, a)
    ahead = point + (commit is Commit.EACH)  # at the end of the next turn
    h.send([a], [point], [[1, 1]])
    h.reset(a, point + 2)
    h.call(a, NO_SEQ, [1.0], stream=9, secret=a.secret)
    h.call(a, point + 50, [1.0, 2.0], stream=10, secret=a.secret)
    outcomes = h.turn()
    assert {each.stream for each in outcomes} == {1, 9, 10}
    assert all(isinstance(each, Refusal) and each.reason == Reason.SESSION_IN_USE for each in outcomes)
    assert sum(each.length for each in outcomes) == 6
    assert {each.expected for each in outcomes if isinstance(each, Refusal)} <= {point, ahead}
    assert h.engine.stats().pending_steps == 0
    finish(h)
    assert h.state(a) == after([*FED, *text(FED, 40)])
    h.reset(a, 42)
    assert [type(each) for each in h.settle()] == [Answer]


@COMMITTING
@pytest.mark.parametrize("second", [Commit.END, Commit.EACH])
def test_a_second_rollout_that_commits_is_refused(commit: Commit, second: Commit) -> None:
    """With its number or without; one that commits nothing has a copy of where the session stands."""
    h, a = under_way(commit)
    point = stands(h, a)
    requests = [h.generate(a, 3, [1], stream=501, commit=second), h.generate(a, 3, [1], stream=502, seq=point, commit=second)]
    h.turn()
    assert [h.refused(each).reason for each in requests] == [Reason.SESSION_IN_USE] * 2
    point = stands(h, a)
    beside = h.generate(a, 3, stream=503, commit=Commit.NONE)
    h.turn()
    assert h.begun(beside) == point
    finish(h)
    assert h.drawn(503) == text([*FED, *text(FED, 40)][:point], 3)


@COMMITTING
def test_of_two_that_wait_for_the_same_step_the_first_begins(commit: Commit) -> None:
    """The other one hears that the session is in use."""
    h = Rolling(slow=True)
    (a,) = h.open()
    h.send([a], [0], [[1, 2, 3]])
    first, second = h.generate(a, 2, commit=commit), h.generate(a, 2, stream=501, commit=commit)
    h.settle()
    assert isinstance(h.ear.replies[first], Begun)
    assert h.refused(second).reason == Reason.SESSION_IN_USE
    assert h.state(a) == after([1, 2, 3, *text([1, 2, 3], 2)])


def test_a_rollout_that_commits_nothing_lets_the_session_be_stepped() -> None:
    """Each goes its own way, whichever is faster; even reset and closed."""
    h, a = under_way(Commit.NONE)
    h.send([a], [2], [[5, 6, 1]])
    h.turn(3)
    assert h.state(a) == after([*FED, 5, 6, 1])
    h.reset(a, 5)
    h.turn()
    assert h.close(a, a.secret) == 6
    assert h.engine.stats().rollouts == 1
    finish(h)


@COMMITTING
def test_a_fork_while_it_rolls(commit: Commit) -> None:
    """END: as it was before the rollout. EACH: between two steps."""
    h, a = under_way(commit)
    point = stands(h, a)
    assert point == (2 if commit is Commit.END else 5)
    request = h.fork(a)
    h.turn()
    reply = h.ear.replies[request]
    assert isinstance(reply, Forked)
    (fork,) = reply.sessions
    assert isinstance(fork, Opened)
    assert fork.next_seq == point
    assert h.state(fork) == after([*FED, *text(FED, 40)][:point])
    h.check_books()
    assert [type(each) for each in h.speak(fork, [1])] == [Answer]
    finish(h)


@COMMITTING
def test_an_export_while_it_rolls(commit: Commit) -> None:
    """The same."""
    h, a = under_way(commit)
    request = h.export(a)
    h.turn()
    snapshot = h.ear.replies[request]
    assert isinstance(snapshot, Snapshot)
    other = Rolling()
    imported = other.load(snapshot).opened
    assert other.state(imported) == after([*FED, *text(FED, 40)][: snapshot.next_seq])
    assert snapshot.next_seq == (2 if commit is Commit.END else 5)
    finish(h)


@COMMITTING
def test_a_copy_of_a_number_to_come_is_refused(commit: Commit) -> None:
    """What the rollout will reach is not admitted."""
    h, a = under_way(commit)
    request = h.fork(a, 30)
    h.turn()
    assert h.refused(request).reason == Reason.SEQUENCE_MISMATCH
    finish(h)


# Who owns it -------------------------------------------------------------------------------------------------------------


def check_taken_over(h: Rolling, session: Opened, next_seq: int) -> None:
    """The caller heard so, once, with the number at which the session goes on, and stream 7 steps from there."""
    outcomes = [each for each in h.turn() if each.stream == CALLER]
    assert outcomes == [Refusal(CALLER, 0, 5, 1, Reason.SESSION_IN_USE, next_seq)]
    assert "a stream has taken the session over" in h.ear.messages[-1]
    assert h.engine.stats().rollouts == 0
    h.check_books()
    assert h.state(session) == after([*FED, *text(FED, 40)][:next_seq])
    h.send([session], [next_seq], [[1]], stream=7)
    assert [(each.stream, each.first) for each in h.settle() if isinstance(each, Answer) and each.sums][-1:] == [(7, next_seq)]
    h.engine.books.check()


@COMMITTING
@pytest.mark.parametrize("attached", [False, True])
def test_attaching_with_the_secret_ends_a_rollout(commit: Commit, attached: bool) -> None:
    """So does one of whoever began it without a secret while nobody held the session. EACH: what was drawn is the session's; END:
    nothing is."""
    h, a = under_way(commit, attached=attached)
    now_at = 2 if commit is Commit.END else 5
    h.ear.outcomes.clear()
    request = h.request()
    h.door.submit(Attach(7, request, np.array([0], np.uint32), [a.id], [a.secret], np.array([0])))
    check_taken_over(h, a, now_at)
    assert h.ear.replies[request][0].next_seq == now_at
    h.generate(a, 3, stream=501, commit=commit)
    h.settle()
    assert len(h.drawn(501)) == 3


@COMMITTING
def test_opening_again_on_a_stream_ends_a_rollout(commit: Commit) -> None:
    """A request that was repeated has the session that it opened before, whoever rolled it out meanwhile."""
    h = Rolling()
    (a,) = h.open(request_id="once")
    h.speak(a, FED)
    h.end_stream(1)
    h.generate(a, 40, commit=commit, secret=b"")
    h.turn(3)
    h.door.submit(Open(7, h.request(), [""], np.array([0], np.uint32), None, "once"))
    check_taken_over(h, a, 2 if commit is Commit.END else 5)


@COMMITTING
def test_attaching_refuses_rollouts_that_wait_for_their_step(commit: Commit) -> None:
    """One that has not begun begins no more."""
    h = Rolling(slow=True)
    a = h.open_as("a")
    h.call(a, NO_SEQ, [1.0, 2.0, 3.0], stream=600)
    request, beside = h.generate(a, 4, commit=commit), h.generate(a, 4, stream=501, commit=Commit.NONE)
    h.turn()
    assert isinstance(h.attach(a, stream=7), Opened)
    error = h.refused(request)
    assert (error.reason, error.message) == (Reason.SESSION_IN_USE, TAKEN_OVER)
    h.settle()
    assert h.begun(beside) == 3
    assert h.state(a) == after([1, 2, 3])
    h.check_books()


def test_what_commits_nothing_goes_on_when_a_stream_attaches() -> None:
    """It has a copy, and harms nobody."""
    h, a = under_way(Commit.NONE)
    h.attach(a, stream=7)
    finish(h)


def test_attaching_another_session_ends_no_rollout() -> None:
    """Only those of what is handed over."""
    h, _ = under_way(Commit.EACH)
    h.attach(h.open_as("b"), stream=7)
    finish(h)


# Its numbers -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("commit", [Commit.EACH, Commit.END])
@pytest.mark.parametrize("attached", [False, True])
def test_steps_whose_numbers_a_rollout_has_taken(commit: Commit, attached: bool) -> None:
    """They were not applied, and hear so; what the owner had stepped before was, once. A chunk that begins before the rollout
    is answered as far as that, and nothing of it is applied behind."""
    h = Rolling()
    a = h.open()[0] if attached else h.open_as("a")
    h.speak(a, FED, seq=0 if attached else NO_SEQ)
    h.speak(a, [6], seq=2)  # acknowledges what is below
    h.roll(a, 3, commit=commit)
    h.attach(a, stream=7)
    fed = [*FED, 6, *text([*FED, 6], 3)]
    h.turn()
    for first, values in ((0, [1]), (3, [1]), (5, [1, 1]), (1, [1, 1, 1, 1, 1, 1])):
        h.send([a], [first], [values], stream=7)
    outcomes = h.settle()
    told = [(each.first, each.length, each.reason) for each in outcomes if isinstance(each, Refusal)]
    assert told[:3] == [
        (0, 1, Reason.ANSWER_DISCARDED),
        (3, 1, Reason.SEQUENCE_MISMATCH),
        (5, 2, Reason.SEQUENCE_MISMATCH),
    ]
    assert told[-1] == (3, 4, Reason.SEQUENCE_MISMATCH)
    assert {each.expected for each in outcomes if isinstance(each, Refusal)} == {6}
    assert "a rollout has taken number 3: step 6 is expected" in h.ear.messages
    assert h.state(a) == after(fed)
    h.send([a], [6], [[1]], stream=7)
    assert [each.first for each in h.settle() if isinstance(each, Answer)] == [6]
    h.engine.books.check()


def test_numbers_of_rollouts_one_behind_the_other() -> None:
    """All of them were taken; those of an earlier one are not remembered once a step came between."""
    h = Rolling()
    a = h.open_as("a")
    h.speak(a, FED)
    for _ in range(2):
        h.roll(a, 2, commit=Commit.EACH)
    assert h.speak(a, [1], seq=2) == [Refusal(400, 0, 2, 1, Reason.SEQUENCE_MISMATCH, 6)]
    h.speak(a, [1], seq=6)
    h.roll(a, 2, commit=Commit.EACH)
    assert [h.speak(a, [1], seq=seq)[0] for seq in (2, 7)] == [
        Refusal(400, 0, 2, 1, Reason.ANSWER_DISCARDED, 9),
        Refusal(400, 0, 7, 1, Reason.SEQUENCE_MISMATCH, 9),
    ]


def test_a_new_session_knows_nothing_of_numbers_taken_in_its_place() -> None:
    """Whatever was rolled out in the session that had its record before."""
    h = Rolling(sessions=1)
    a = h.open_as("a")
    h.roll(a, 4, [1], commit=Commit.EACH)
    h.close(a)
    b = h.open_as("b")
    h.speak(b, [1, 2, 3], seq=0)
    h.speak(b, [4], seq=3)
    assert h.speak(b, [1], seq=0) == [Refusal(400, 0, 0, 1, Reason.ANSWER_DISCARDED, 4)]


@COMMITTING
def test_detaching_does_not_end_a_rollout(commit: Commit) -> None:
    """Nor does the end of the session's stream: the rollout is of its caller."""
    h, a = under_way(commit)
    h.end_stream(1)
    finish(h)
    assert h.state(a) == after([*FED, *text(FED, 40)])


# How it ends -------------------------------------------------------------------------------------------------------------


def check_told(h: Rolling, reason: Reason, drawn: int) -> None:
    """The caller heard why, once; nothing is left of the rollout."""
    told = h.drawn()
    outcomes = [each for each in h.settle() if each.stream == CALLER]
    assert len(outcomes) == 1
    assert isinstance(outcomes[0], Refusal)
    assert (outcomes[0].reason, outcomes[0].handle) == (reason, 0)
    assert h.ending() is None
    assert h.drawn() == told == text(FED, drawn)
    stats = h.engine.stats()
    assert (stats.rollouts, stats.rollout_slots, stats.pending_steps) == (0, 0, 0)
    h.check_books()
    assert sum(report.rollouts_ended.get(RolloutEnding.FAILED, 0) for report in h.reports.turns) == 1


@COMMITTING
@pytest.mark.parametrize("prompt", [[], [1, 2, 3]], ids=["draws", "prompt"])
def test_closing(commit: Commit, prompt: list[int]) -> None:
    """By id, in the midst of draws or of the prompt."""
    h = Rolling(slow=True)
    (a,) = h.open()
    h.speak(a, FED)
    h.generate(a, 40, prompt, commit=commit)
    h.turn(2)
    drawn = len(h.drawn())
    closed = h.request()
    h.door.submit(Close(closed, a.id, a.secret))
    check_told(h, Reason.SESSION_CLOSED, drawn)
    assert h.ear.replies[closed] == (2 if commit is Commit.END else 4)
    assert len(h.backend.free) == h.backend.slots


@COMMITTING
def test_detaching_with_close(commit: Commit) -> None:
    """The stream closes what it holds."""
    h, a = under_way(commit)
    h.detach(a, close=True)
    check_told(h, Reason.SESSION_CLOSED, 3)
    assert len(h.backend.free) == h.backend.slots


@COMMITTING
def test_moving(commit: Commit) -> None:
    """An export that ends the session has what is committed so far."""
    h, a = under_way(commit)
    request = h.export(a, close=True)
    check_told(h, Reason.SESSION_MOVED, 3)
    assert h.ear.replies[request].next_seq == (2 if commit is Commit.END else 5)
    assert h.ear.detached == [(1, 0, Ending.MOVED)]
    assert len(h.backend.free) == h.backend.slots


@COMMITTING
def test_the_end_of_its_life(commit: Commit) -> None:
    """A session that has lived too long ends, rolling or not."""
    h, _ = under_way(commit, max_lifetime_seconds=100.0)
    h.clock.advance(101.0)
    check_told(h, Reason.SESSION_EXPIRED, 3)
    assert len(h.backend.free) == h.backend.slots


@COMMITTING
def test_a_rolling_session_is_not_idle(commit: Commit) -> None:
    """However long its reader takes; it is when the rollout has ended, from then on."""
    h = Rolling(idle_ttl_seconds=10.0)
    (a,) = h.open()
    h.speak(a, FED)
    h.generate(a, MOST_AHEAD + 1, commit=commit)
    h.settle()
    for _ in range(5):
        h.clock.advance(9.0)
        h.turn()
    assert h.engine.stats().sessions == 1
    h.took(CALLER, MOST_AHEAD)
    h.settle()
    assert h.ending() is RolloutEnding.LENGTH
    h.clock.advance(9.0)
    h.turn()
    assert h.engine.stats().sessions == 1
    h.clock.advance(2.0)
    h.turn()
    assert h.engine.stats().sessions == 0


def test_every_committed_step_is_a_use() -> None:
    """A session that is rolled out step by step is seen not to be idle; a copy of it says nothing."""
    for commit, idle in ((Commit.EACH, 0.0), (Commit.END, 7.0), (Commit.NONE, 7.0)):
        h, a = under_way(commit)
        h.clock.advance(7.0)
        h.turn()
        assert h.get(a.id).idle == idle


@COMMITTING
def test_another_session_started_in_its_place(commit: Commit) -> None:
    """The former one ends, its caller is told, and the new one has nothing of it."""
    h, a = under_way(commit, attached=False)
    h.call_many([a.id], [NO_SEQ], [[6.0]], stream=600, starts=[True])
    check_told(h, Reason.SESSION_CLOSED, 3)
    new = h.get(a.id)
    assert (new.next_seq, h.speaking.states[new.slot].tolist()) == (1, after([6]))
    assert len(h.backend.free) == h.backend.slots - 1


@COMMITTING
def test_its_place_is_taken_while_a_step_was_being_refused(commit: Commit) -> None:
    """The former session ends at the end of that turn, and its caller hears it in that turn, though it had paused."""
    h = Rolling()
    a = h.open_as("a")
    h.speak(a, FED)
    h.generate(a, MOST_AHEAD + 5, commit=commit)
    h.settle()
    assert not h.engine.busy
    h.call(a, NO_SEQ, [1.0], stream=600)
    h.call_many([a.id], [NO_SEQ], [[6.0]], stream=601, starts=[True])
    outcomes = h.settle()
    assert [(each.stream, each.reason) for each in outcomes if isinstance(each, Refusal)] == [
        (600, Reason.SESSION_IN_USE),
        (CALLER, Reason.SESSION_CLOSED),
    ]
    assert h.engine.stats().rollouts == 0
    h.check_books()
    assert len(h.backend.free) == h.backend.slots - 1


@COMMITTING
def test_a_session_that_ends_with_its_step_while_a_rollout_waits(commit: Commit) -> None:
    """The last step of a session is answered, and who waited for it hears that the session is gone."""
    h = Rolling(slow=True)
    h.open_as("a")
    h.call_many(["a"], [NO_SEQ], [[1.0, 2.0, 3.0]], stream=600, ends=[True])
    waiting = dataclasses.replace(h.open_as("b"), id="a", secret=b"")
    request = h.generate(waiting, 4, [1], commit=commit)
    outcomes = h.settle()
    refusals = [each for each in outcomes if isinstance(each, Refusal)]
    if isinstance(h.ear.replies[request], Begun):
        assert [(each.stream, each.reason) for each in refusals] == [(CALLER, Reason.SESSION_CLOSED)]
    else:
        assert h.refused(request).reason == Reason.SESSION_CLOSED
    assert h.drawn() == []
    h.check_books()


def test_a_new_session_in_the_slot_of_one_that_rolled() -> None:
    """In the same turn: nothing is stepped in a slot that is somebody else's by then."""
    h = Rolling(sessions=1, paths=1)
    a = h.open_as("a")
    h.speak(a, FED)
    h.generate(a, 40, commit=Commit.EACH)
    h.turn(2)
    h.call_many(["a"], [NO_SEQ], [[6.0]], stream=600, starts=[True])
    h.settle()
    assert h.speaking.states[h.get("a").slot].tolist() == after([6])
    assert h.engine.stats().rollouts == 0
    h.check_books()


@COMMITTING
def test_another_session_starts_in_the_place_of_one_that_is_rolled(commit: Commit) -> None:
    """Though a launch of the rollout is under way: it has settled before its session's number and slot are another's."""
    h, a = under_way(commit, attached=False)
    h.lands = False
    h.turn()
    step(h, 1.0, name="a", start=True)
    outcomes = h.settle()
    assert [(each.stream, each.reason) for each in outcomes if isinstance(each, Refusal)] == [(CALLER, Reason.SESSION_CLOSED)]
    assert h.get("a").next_seq == 1
    assert h.state(a) == after([1])
    h.check_books()
    h.engine.books.check()
