"""Rollouts: what is told, where they begin, and what of it is fed."""

from __future__ import annotations

import pytest

from stepstream_server.engine.ports import NO_SEQ, Commit, RolloutEnding
from stepstream_server.errors import Reason
from support.engine import Answer, Harness, Piece, Refusal
from support.rollouts import CALLER, Rolling, after, text
from support.tokens import logits_after


def test_a_greedy_text_is_as_computed_by_hand() -> None:
    """Each token is the sum of all before it, mod 7; the last message says that all are drawn."""
    h = Rolling()
    (a,) = h.open()
    request = h.generate(a, 5, [3, 1])
    h.settle()
    assert h.begun(request) == 0
    assert h.ear.pieces[CALLER] == [
        Piece(2, 3, None, [4], ([],)),
        Piece(3, 4, None, [1], ([],)),
        Piece(4, 5, None, [2], ([],)),
        Piece(5, 6, None, [4], ([],)),
        Piece(6, 7, RolloutEnding.LENGTH, [1], ([],)),
    ]
    assert (h.get(a.id).next_seq, h.state(a)) == (7, after([3, 1, 4, 1, 2, 4, 1]))


def test_values_are_rolled_out_too() -> None:
    """The counting model feeds back its sum, which doubles."""
    h = Harness(capacity=8, max_rollout_paths=8)
    (a,) = h.open()
    h.generate(a, 4, [1.0, 2.0], outputs=True)
    h.settle()
    assert h.drawn() == [3.0, 6.0, 12.0, 24.0]
    assert [piece.outputs for piece in h.ear.pieces[500]] == [
        ([[6.0]], [[3.0]]),
        ([[12.0]], [[4.0]]),
        ([[24.0]], [[5.0]]),
        ([[48.0]], [[6.0]]),
    ]
    assert h.get(a.id).next_seq == 6


@pytest.mark.parametrize("commit", Commit)
@pytest.mark.parametrize("stop", [(), ((6, 5),), ((0, 0, 0),)], ids=["plain", "likely stop", "rare stop"])
def test_what_is_told_has_been_fed(commit: Commit, stop: tuple[tuple[int, ...], ...]) -> None:
    """After every turn the state is that of prompt and draws, as many as `next` says, though not all need be told."""
    h = Rolling(slow=True)
    (a,) = h.open()
    h.speak(a, [2, 2])
    fed = [2, 2, 5, 6, 1]
    whole = text(fed, 20, seed=9, temperature=2.0)
    h.generate(a, 20, [5, 6, 1], seed=9, temperature=2.0, stop=stop, commit=commit)
    for _ in range(16):
        h.turn()
        h.check_books()
        if h.ending() is not None:
            break
        steps = int(h.rolled_state()[1])
        assert h.rolled_state() == after([*fed, *whole][:steps])
        told = h.drawn()
        assert told == whole[: len(told)]
        assert steps >= 5 + len(told) or not told
        if h.ear.pieces.get(CALLER):
            last = h.ear.pieces[CALLER][-1]
            assert 5 + len(told) <= last.next <= steps
    assert len(h.drawn()) >= 8 or h.ending() is RolloutEnding.STOP


def test_a_rollout_of_the_initial_state_leaves_nothing() -> None:
    """Without a session it begins at 0, needs a prompt, and its slot comes back."""
    h = Rolling()
    refused = h.generate(None, 3)
    h.settle()
    assert (h.refused(refused).reason, h.refused(refused).field) == (Reason.INVALID_ARGUMENT, "prompt")
    assert h.roll(None, 4, [1, 5]) == text([1, 5], 4)
    assert h.ear.pieces[CALLER][0].first == 2
    assert len(h.backend.free) == h.backend.slots
    assert h.engine.stats().sessions == 0


def test_a_prompt_may_be_left_out_once_there_was_a_step() -> None:
    """The last output is part of the state; of a fresh session and after a reset there is none."""
    h = Rolling()
    (a,) = h.open()
    fresh = h.generate(a, 3)
    h.settle()
    assert (h.refused(fresh).reason, h.refused(fresh).field) == (Reason.INVALID_ARGUMENT, "prompt")
    h.speak(a, [3])
    assert h.roll(a, 3) == text([3], 3) == [3, 6, 5]
    h.reset(a, 4)
    after_reset = h.generate(a, 3)
    h.settle()
    assert h.refused(after_reset).reason == Reason.INVALID_ARGUMENT
    assert h.get(a.id).next_seq == 5
    assert h.roll(a, 2, [6]) == text([6], 2)
    h.check_books()


def test_a_fork_can_be_rolled_out_without_a_prompt() -> None:
    """It has the original's last output."""
    h = Rolling()
    (a,) = h.open()
    h.speak(a, [2, 6, 1])
    request = h.fork(a)
    h.turn()
    fork = h.ear.replies[request].sessions[0]
    assert h.roll(fork, 4) == text([2, 6, 1], 4)
    assert h.state(a) == after([2, 6, 1])


@pytest.mark.parametrize("commit", Commit)
def test_commits(commit: Commit) -> None:
    """END and EACH leave prompt and draws in the session, NONE nothing; EACH does at every step."""
    h = Rolling(slow=True)
    (a,) = h.open()
    h.speak(a, [1, 1])
    seen: list[int] = []
    h.generate(a, 3, [5, 2], commit=commit)
    while h.engine.busy or not seen:
        h.turn()
        seen.append(int(h.engine.books.table.next_seq[a.session]))
        h.check_books()
    fed = [1, 1, 5, 2, *text([1, 1, 5, 2], 3)]
    assert h.drawn() == fed[4:]
    assert seen == {Commit.END: [2, 2, 2, 2, 7], Commit.EACH: [3, 4, 5, 6, 7], Commit.NONE: [2] * 5}[commit]
    stands = fed[:2] if commit is Commit.NONE else fed
    assert h.state(a) == after(stands)
    answers = h.speak(a, [4])
    assert [(each.first, type(each)) for each in answers] == [(len(stands), Answer)]
    assert h.state(a) == after([*stands, 4])


@pytest.mark.parametrize("temperature", [0.0, 0.7, 3.0])
def test_one_rollout_or_several_draw_the_same(temperature: float) -> None:
    """The same seed at the same steps: however the text is cut into rollouts and commits, and fed as a prompt or not."""
    whole = Rolling().roll(None, 12, [1, 2], seed=77, temperature=temperature)
    assert whole == text([1, 2], 12, 77, temperature)
    h = Rolling()
    (a,) = h.open()
    parts = h.roll(a, 5, [1, 2], seed=77, temperature=temperature, commit=Commit.EACH)
    parts += h.roll(a, 1, seed=77, temperature=temperature)
    h.speak(a, whole[6:8])
    parts += whole[6:8]
    assert h.roll(a, 4, seed=77, temperature=temperature, commit=Commit.NONE) == whole[8:]
    assert parts == whole[:8]


# Stop sequences and outputs ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("commit", [Commit.END, Commit.EACH])
def test_a_stop_sequence_is_fed_and_not_told(commit: Commit) -> None:
    """1, 2, 4, 1, 2, 4: what may begin it waits until it is clear, and the session stands behind it."""
    h = Rolling()
    (a,) = h.open()
    assert h.roll(a, 9, [1], stop=((2, 4, 1),), commit=commit) == [1]
    assert h.ear.pieces[CALLER] == [
        Piece(1, 2, None, [1], ([],)),
        Piece(2, 5, RolloutEnding.STOP, [], ([],)),
    ]
    assert (h.get(a.id).next_seq, h.state(a)) == (5, after([1, 1, 2, 4, 1]))


def test_what_is_held_at_the_last_step_is_told() -> None:
    """It can be no stop sequence any more."""
    h = Rolling()
    (a,) = h.open()
    assert h.roll(a, 3, [1], stop=((2, 4, 1, 6),)) == [1, 2, 4]
    assert h.ear.pieces[CALLER] == [
        Piece(1, 2, None, [1], ([],)),
        Piece(2, 4, RolloutEnding.LENGTH, [2, 4], ([],)),
    ]


def test_the_last_step_may_complete_a_stop_sequence() -> None:
    """Then it ended by that."""
    h = Rolling()
    (a,) = h.open()
    assert h.roll(a, 3, [1], stop=((2, 4),)) == [1]
    assert h.ending() is RolloutEnding.STOP


@pytest.mark.parametrize("stop", [(), ((2, 4, 1, 6),), ((2, 4, 1),)], ids=["none", "held", "stopped"])
def test_outputs_are_those_of_the_steps_told(stop: tuple[tuple[int, ...], ...]) -> None:
    """What followed once each token had been fed, also of tokens that were held back for a while."""
    h = Rolling()
    h.roll(None, 7, [1], stop=stop, outputs=True)
    told = h.drawn()
    assert told == ([1] if stop == ((2, 4, 1),) else [1, 2, 4, 1, 2, 4, 1])
    outputs = [step for piece in h.ear.pieces[CALLER] for step in piece.outputs[0]]
    sums = [sum([1, *told[: count + 1]]) for count in range(len(told))]
    assert outputs == logits_after(sums).tolist()
    for piece in h.ear.pieces[CALLER]:
        assert len(piece.outputs[0]) == len(piece.values)


# Where it begins ---------------------------------------------------------------------------------------------------------


def test_a_rollout_begins_behind_the_steps_that_are_pending() -> None:
    """They are applied and answered first."""
    h = Rolling(slow=True)
    (a,) = h.open()
    h.send([a], [0], [[1, 2, 3, 4]])
    request = h.generate(a, 2, [6])
    h.turn()
    assert request not in h.ear.replies
    outcomes = h.settle()
    assert h.begun(request) == 4
    assert [each for each in outcomes if isinstance(each, Refusal)] == []
    assert h.drawn() == text([1, 2, 3, 4, 6], 2)
    assert h.ear.pieces[CALLER][0].first == 5


def test_a_caller_may_leave_while_it_waits() -> None:
    """The steps before and those behind are applied as if it had never asked."""
    h = Rolling(slow=True)
    (a,) = h.open()
    h.send([a], [0], [[1, 2, 3, 4]])
    request = h.generate(a, 2, [6])
    h.send([a], [4], [[5, 5]])
    h.turn(2)
    h.hang_up(CALLER)
    h.settle()
    assert request not in h.ear.replies
    assert h.state(a) == after([1, 2, 3, 4, 5, 5])
    assert h.engine.books.table.stop_at[a.session] > 1 << 60
    assert CALLER not in h.ear.pieces
    h.check_books()


@pytest.mark.parametrize("commit", [Commit.END, Commit.EACH])
def test_steps_sent_behind_a_waiting_call_are_refused(commit: Commit) -> None:
    """They were numbered for a place that the rollout takes; the caller hears where the session stood."""
    h = Rolling(slow=True)
    (a,) = h.open()
    h.send([a], [0], [[1, 2, 3]])
    h.generate(a, 2, [6], commit=commit)
    h.send([a], [3], [[5, 5]])
    h.reset(a, 5)
    outcomes = h.settle()
    refusals = [each for each in outcomes if isinstance(each, Refusal)]
    assert [(each.first, each.length, each.reason) for each in refusals] == [
        (3, 2, Reason.SEQUENCE_MISMATCH),
        (5, 1, Reason.SEQUENCE_MISMATCH),
    ]
    fed = [1, 2, 3, 6]
    assert h.state(a) == after([*fed, *text(fed, 2)])


def test_steps_sent_behind_a_call_that_commits_nothing_go_on() -> None:
    """The rollout has its copy by then."""
    h = Rolling(slow=True)
    (a,) = h.open()
    h.send([a], [0], [[1, 2, 3]])
    h.generate(a, 4, [6], commit=Commit.NONE)
    h.send([a], [3], [[5, 5]])
    outcomes = h.settle()
    assert sum(each.length for each in outcomes if isinstance(each, Answer)) == 5
    assert h.drawn() == text([1, 2, 3, 6], 4)
    assert h.state(a) == after([1, 2, 3, 5, 5])


@pytest.mark.parametrize("commit", Commit)
@pytest.mark.parametrize("offset", [-3, -2, -1, 1, 5])
@pytest.mark.parametrize("pending", [0, 2])
def test_a_number_that_is_not_the_next_is_refused(commit: Commit, offset: int, pending: int) -> None:
    """Below or above, also if the step is still pending: the caller is told the number, and nothing changes."""
    h = Rolling(slow=True)
    (a,) = h.open()
    h.send([a], [0], [[1, 2, 3]])
    h.settle()
    if pending:
        h.send([a], [3], [[4] * pending])
    request = h.generate(a, 2, [6], seq=3 + pending + offset, commit=commit)
    h.settle()
    error = h.refused(request)
    assert (error.reason, error.field, error.expected_seq) == (Reason.SEQUENCE_MISMATCH, "seq", 3 + pending)
    assert h.state(a) == after([1, 2, 3, *[4] * pending])
    assert h.get(a.id).acked == 0
    h.check_books()


def test_without_a_session_the_next_number_is_0() -> None:
    """Whoever expects another one has left the session out."""
    h = Rolling()
    wrong = h.generate(None, 3, [1], seq=7)
    h.settle()
    assert (h.refused(wrong).reason, h.refused(wrong).expected_seq) == (Reason.SEQUENCE_MISMATCH, 0)
    h.check_books()
    assert h.roll(None, 3, [1], seq=0) == text([1], 3)


def test_a_rollout_whose_number_never_comes_is_refused() -> None:
    """A step before it fails: the number it waited for is not the next one any more."""
    h = Rolling(poison=6, slow=True)
    a, b = h.open(2)
    h.send([a], [0], [[1, 2, 3, 4]])
    request = h.generate(a, 2, [5], seq=4)
    h.turn()
    h.detach(a)  # drops what is queued
    h.settle()
    error = h.refused(request)
    assert (error.reason, error.field) == (Reason.SEQUENCE_MISMATCH, "seq")
    assert error.expected_seq == h.get(a.id).next_seq < 4
    h.send([b], [0], [[1, 6]], handles=[1])
    sick = h.generate(b, 2, [5])
    h.settle()
    assert h.refused(sick).reason == Reason.SESSION_QUARANTINED
    well = h.generate(b, 2, [5])
    h.settle()
    assert h.refused(well).reason == Reason.SESSION_QUARANTINED
    h.check_books()


def test_who_may_roll_out() -> None:
    """Whoever has the secret; anybody while no stream holds the session."""
    h = Rolling()
    (a,) = h.open()
    stranger, thief = h.generate(a, 1, [1], secret=b""), h.generate(a, 1, [1], secret=b"x" * 16)
    h.settle()
    assert [h.refused(each).reason for each in (stranger, thief)] == [Reason.SESSION_IN_USE, Reason.SECRET_MISMATCH]
    h.detach(a)
    assert h.roll(a, 1, [1], secret=b"") == [1]


# Acknowledgement and the window ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("commit", "seq", "attached", "acked"),
    [
        (Commit.END, 3, True, 6),
        (Commit.EACH, 3, True, 6),
        (Commit.NONE, 3, True, 0),
        (Commit.END, NO_SEQ, True, 0),
        (Commit.EACH, NO_SEQ, True, 0),
        (Commit.END, NO_SEQ, False, 6),
        (Commit.EACH, NO_SEQ, False, 6),
        (Commit.NONE, NO_SEQ, False, 0),
    ],
)
def test_a_number_acknowledges_what_is_below(commit: Commit, seq: int, attached: bool, acked: int) -> None:
    """Unless nothing is committed; and without a number where no stream is there to acknowledge. Draws never wait for that."""
    h = Rolling()
    (a,) = h.open()
    h.send([a], [0], [[1, 2, 3]])
    h.settle()
    if not attached:
        h.detach(a)
    h.roll(a, 2, [4], seq=seq, commit=commit)
    info = h.get(a.id)
    assert (info.acked, info.next_seq) == (acked, 3 if commit is Commit.NONE else 6)
    if acked == 0:  # what was kept is still there
        h.attach(a, stream=2)
        resent = h.turn()
        assert [(each.first, each.length) for each in resent if isinstance(each, Answer) and each.sums] == [(0, 3)]
        assert sum(each.length for each in resent) == info.next_seq


@pytest.mark.parametrize("commit", [Commit.END, Commit.EACH])
def test_unacknowledged_answers_are_in_the_way_of_long_rollouts(commit: Commit) -> None:
    """What would not fit behind them is refused, and nothing changes; once they are acknowledged any length goes."""
    h = Rolling(window_steps=8)
    (a,) = h.open()
    h.send([a], [0], [[1, 2, 3]])
    h.settle()
    too_long = h.generate(a, 5, [4], commit=commit)
    h.settle()
    assert (h.refused(too_long).reason, h.refused(too_long).field) == (Reason.WINDOW_FULL, "seq")
    assert (h.get(a.id).next_seq, h.get(a.id).acked) == (3, 0)
    h.roll(a, 4, [4], commit=commit)
    assert h.get(a.id).next_seq == 8
    outcomes = h.speak(a, [1])
    assert [each.reason for each in outcomes if isinstance(each, Refusal)] == [Reason.WINDOW_FULL]
    h.acknowledge(a, 8)
    h.roll(a, 30, [4], commit=commit)
    assert h.get(a.id).acked == 39
    h.send([a], [39], [[1, 1]])
    assert [(each.first, type(each)) for each in h.settle()] == [(39, Answer)]


def test_a_rollout_that_commits_nothing_needs_no_window() -> None:
    """Nothing of it is the session's."""
    h = Rolling(window_steps=4)
    (a,) = h.open()
    h.send([a], [0], [[1, 2, 3, 4]])
    h.settle()
    assert len(h.roll(a, 30, commit=Commit.NONE)) == 30
    assert h.get(a.id).acked == 0


def test_rolled_steps_cannot_be_repeated() -> None:
    """Their numbers are the rollout's, and what comes under them was never applied."""
    h = Rolling()
    (a,) = h.open()
    h.send([a], [0], [[1, 2, 3]])
    h.settle()
    h.roll(a, 2, commit=Commit.EACH)
    h.send([a], [2], [[3, 6]])
    outcomes = h.settle()
    assert [(type(each), each.first) for each in outcomes] == [(Answer, 2), (Refusal, 3)]
    assert h.reports.failures == {Reason.SEQUENCE_MISMATCH: 1}
