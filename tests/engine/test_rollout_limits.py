"""What bounds rollouts: readers who take their time, room for paths and prompts, the turns of others, failures, draining."""

from __future__ import annotations

import sys
import threading
from typing import Any

import pytest

from stepstream_server.engine.ports import NO_STREAM, TAKEN_AT_ONCE, Commit, Open, Opened, RolloutEnding
from stepstream_server.engine.rollouts.rollouts import MOST_AHEAD
from stepstream_server.errors import CallerError, Reason
from support.engine import Answer, Refusal
from support.rollouts import CALLER, Rolling, after, text

EVERY = pytest.mark.parametrize("commit", Commit)


# Readers -----------------------------------------------------------------------------------------------------------------


@EVERY
@pytest.mark.parametrize("plain", [True, False])
def test_a_reader_that_takes_nothing_pauses_its_rollout(commit: Commit, plain: bool) -> None:
    """After so many draws nothing more is computed and the engine has nothing to do; it goes on as more are taken."""
    h = Rolling()
    (a,) = h.open()
    h.speak(a, [1, 2])
    whole = text([1, 2], MOST_AHEAD + 100)
    h.generate(a, len(whole), commit=commit, outputs=not plain)
    h.settle()
    assert not h.engine.busy
    assert len(h.drawn()) == MOST_AHEAD
    launches = len(h.backend.launches)
    h.turn(3)
    assert len(h.backend.launches) == launches
    h.took(CALLER, TAKEN_AT_ONCE)
    h.settle()
    assert len(h.drawn()) == MOST_AHEAD + TAKEN_AT_ONCE
    h.took(CALLER, MOST_AHEAD)
    h.settle()
    assert h.drawn() == whole
    assert h.ending() is RolloutEnding.LENGTH
    h.check_books()
    h.took(CALLER, 5)  # about one that has ended: nothing to do
    h.settle()


def test_nobody_waits_for_a_reader_that_takes_nothing() -> None:
    """Rollouts beside it and steps of sessions go on; and what has paused can be cancelled."""
    h = Rolling()
    a, b = h.open(2)
    h.generate(a, 1000, [1])
    h.settle()
    h.send([b], [0], [[1, 2, 3]], handles=[1])
    assert sum(each.length for each in h.settle() if isinstance(each, Answer)) == 3
    assert h.roll(b, 100, stream=501) == text([1, 2, 3], 100)
    h.hang_up(CALLER)
    h.settle()
    h.check_books()
    assert h.engine.stats().rollouts == 0
    assert h.state(a) == [0.0] * 9


def test_others_may_look_while_rollouts_come_and_go() -> None:
    """The engine's numbers are read by a scrape, on a thread of its own, in the midst of whatever a turn does."""
    h = Rolling(paths=256)
    failures: list[RuntimeError] = []
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            try:
                h.engine.stats()
            except RuntimeError as error:
                failures.append(error)

    looking = threading.Thread(target=look)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        looking.start()
        for _ in range(10):
            for stream in range(256):
                h.generate(None, 1, [1], stream=stream)
            h.settle()
    finally:
        sys.setswitchinterval(interval)
        over.set()
        looking.join()
    assert not failures
    assert h.engine.stats().rollout_slots == 0


def test_a_path_that_had_paused_begins_anew() -> None:
    """Whoever gets it next has taken nothing of the former draws, and need not; nor has it its chances."""
    h = Rolling(paths=1)
    h.generate(None, 5000, [1], seed=1, temperature=2.0)
    h.settle()
    h.hang_up(CALLER)
    assert h.roll(None, MOST_AHEAD, [2], stream=501, seed=2, temperature=2.0) == text([2], MOST_AHEAD, 2, 2.0)


def test_a_stop_sequence_that_is_held_back_does_not_pause() -> None:
    """What counts is what was told."""
    h = Rolling()
    h.generate(None, MOST_AHEAD + 50, [0], stop=((0,) * 7 + (1,),))
    h.settle()
    assert len(h.drawn()) == MOST_AHEAD
    assert len(h.backend.launches) == 1 + MOST_AHEAD + 7
    h.took(CALLER, MOST_AHEAD)
    h.settle()
    assert (h.drawn(), h.ending()) == ([0] * (MOST_AHEAD + 50), RolloutEnding.LENGTH)


def test_tokens_that_are_let_go_together_count_one_by_one() -> None:
    """1, 2, 4, 1, 2, 4: each time it is clear that no stop sequence comes of it, three are told."""
    h = Rolling()
    h.generate(None, 2000, [1], stop=((2, 4, 1, 2, 5),))
    h.settle()
    assert len(h.ear.pieces[CALLER][5].values) == 3
    assert MOST_AHEAD <= len(h.drawn()) < MOST_AHEAD + 3


def test_only_gaps_between_draws_are_reported_in_which_it_did_not_pause() -> None:
    """What a reader takes its time for says nothing about the server."""
    h = Rolling(slow=True)
    h.generate(None, MOST_AHEAD + 2, [1])
    h.settle()
    h.turn()
    h.clock.advance(1000.0)
    h.took(CALLER, MOST_AHEAD)
    h.settle()
    gaps = [gap for report in h.reports.turns for part in report.between_draws_seconds for gap in part.tolist()]
    assert gaps == [1.0] * MOST_AHEAD
    assert [each for report in h.reports.turns for each in report.first_draw_seconds] == [2.0]
    assert sum(report.draws for report in h.reports.turns) == MOST_AHEAD + 2


# Room --------------------------------------------------------------------------------------------------------------------


@EVERY
def test_rollouts_beyond_the_paths_there_are_are_refused(commit: Commit) -> None:
    """With a delay after which to try again; nothing is taken, acknowledged or changed. It succeeds when one has ended."""
    h = Rolling(paths=2)
    a, b, c = h.open(3)
    h.generate(a, 1000, [1], stream=501)
    h.generate(b, 3, [1], stream=502, commit=Commit.EACH)
    h.send([c], [0], [[1, 2]], handles=[2])
    h.turn()
    h.turn()
    request = h.generate(c, 3, [4], seq=2, commit=commit)
    h.turn()
    error = h.refused(request)
    assert isinstance(error, CallerError)
    assert error.reason == Reason.QUEUE_FULL
    assert error.retry_delay_seconds
    h.check_books()
    assert (h.get(c.id).next_seq, h.get(c.id).acked, h.state(c)) == (2, 0, after([1, 2]))
    assert [(each.first, type(each)) for each in h.speak(c, [5], seq=2) if each.stream == 400] == [(2, Answer)]
    h.turn(5)
    assert h.ending(502) is RolloutEnding.LENGTH
    assert h.roll(c, 3, [4], commit=commit) == text([1, 2, 5, 4], 3)


def test_something_is_left_for_others() -> None:
    """Whoever is alone has at most half of all paths, the next client of its tenant an eighth, that of another one more. What
    is refused says what was asked for, and nothing of what others hold."""
    h = Rolling(paths=2048, max_pending_steps=1 << 18)
    many: dict[str, Any] = {"paths": 1024, "levels": (0.5,), "temperature": 1.0}
    for number in range(2):
        h.generate(None, 1000, [1], stream=501 + number, client="/one", **many)
    more = h.generate(None, 3, [1], stream=503, client="/one")
    second = h.generate(None, 3, [1], stream=504, client="/two", **(many | {"paths": 513}))
    third = h.generate(None, 3, [1], stream=505, client="/two", **(many | {"paths": 512}))
    fourth = h.generate(None, 3, [1], stream=506, client="b/one", **(many | {"paths": 341}))
    h.turn()
    assert h.refused(more).reason == h.refused(second).reason == Reason.QUEUE_FULL
    assert "no room for another rollout of this caller" in h.refused(more).message
    assert "of 513 paths and 1 steps of prompt, now" in h.refused(second).message
    assert [h.begun(each) for each in (third, fourth)] == [0, 0]
    h.check_books()


def test_prompts_leave_something_for_others() -> None:
    """They are shared like paths; what has been fed is given back."""
    h = Rolling(slow=True, max_pending_steps=16)
    requests = [
        h.generate(None, 1, [1] * steps, stream=501 + number, client=client)
        for number, (client, steps) in enumerate([("/a", 9), ("/a", 8), ("/b", 3), ("/b", 2)])
    ]
    h.turn()
    assert [isinstance(h.ear.replies[each], CallerError) for each in requests] == [True, False, True, False]
    h.settle()
    request = h.generate(None, 1, [1] * 8, client="/b")
    h.turn()
    h.begun(request)
    h.check_books()


def test_a_tenant_with_a_limit_has_no_more_rollouts() -> None:
    """Others have theirs; one that has ended makes room."""
    h = Rolling()
    h.engine._rollouts.limits = {"a": 2}
    requests = [h.generate(None, 5, [1], stream=501 + number, client=f"a/{number}") for number in range(3)]
    other = h.generate(None, 5, [1], stream=510, client="b/0")
    h.turn()
    assert str(h.refused(requests[2])).endswith("all 2 rollouts of the tenant are in use")
    assert [h.begun(each) for each in (*requests[:2], other)] == [0, 0, 0]
    h.settle()
    assert h.roll(None, 3, [1], client="a/2") == text([1], 3)
    assert not h.engine._rollouts._of_tenant


# Readers who do not come back --------------------------------------------------------------------------------------------


@EVERY
def test_a_rollout_that_nobody_reads_ends(commit: Commit) -> None:
    """A minute after it has paused, though nothing else happens: the engine says when its next turn is due. END commits
    nothing, EACH what was drawn."""
    h = Rolling()
    a = h.open_as("a")
    h.speak(a, [1, 2])
    before = h.engine.next_deadline
    h.generate(a, 5000, commit=commit)
    h.settle()
    assert not h.engine.busy
    assert h.engine.next_deadline == h.clock() + 60.0
    h.clock.advance(59.9)
    assert h.turn() == []
    h.clock.advance(0.1)
    drawn = MOST_AHEAD if commit is Commit.EACH else 0
    expected = 0 if commit is Commit.NONE else 2 + drawn
    assert h.turn() == [Refusal(CALLER, 0, 2 + MOST_AHEAD, 1, Reason.DEADLINE_EXCEEDED, expected)]
    assert h.ear.messages == ["nothing of what was drawn has been read for 60 seconds: the rollout has ended"]
    assert h.state(a) == after([1, 2, *text([1, 2], drawn)])
    assert h.engine.next_deadline >= before
    h.check_books()
    assert h.roll(a, 2, stream=501) == text([1, 2, *text([1, 2], drawn)], 2)


def test_a_reader_that_takes_something_is_waited_for_again() -> None:
    """Each time that it does, for a minute from then on, also where it has taken too little for the rollout to go on."""
    h = Rolling(rollout_unread_seconds=10.0)
    h.generate(None, 5000, [0], stop=((0,) * 60 + (1,),), paths=1)
    h.settle()
    for _ in range(3):
        h.clock.advance(9.0)
        h.took(CALLER, 1)
        h.settle()
    assert h.engine.stats().rollouts == 1
    h.clock.advance(9.0)
    h.took(CALLER, MOST_AHEAD)
    h.settle()
    h.clock.advance(9.0)
    h.turn()
    assert h.engine.stats().rollouts == 1
    h.clock.advance(1.0)
    h.turn()
    assert h.engine.stats().rollouts == 0


def test_draining_ends_when_nobody_reads() -> None:
    """A drained server does not wait for a reader for ever."""
    h = Rolling()
    h.generate(None, 5000, [1])
    h.settle()
    drain = h.drain()
    h.turn()
    assert drain not in h.ear.replies
    h.clock.advance(60.0)
    h.turn()
    assert h.ear.replies[drain] is None


def test_paths_are_taken_all_or_none() -> None:
    """A rollout of more than are free gets none of them."""
    h = Rolling(paths=4)
    h.generate(None, 1000, [1], stream=501)
    request = h.generate(None, 3, [1], paths=4, levels=(0.5,), temperature=1.0)
    h.turn()
    assert h.refused(request).reason == Reason.QUEUE_FULL
    assert h.engine.stats().rollout_slots == 1
    h.check_books()


def test_rollouts_take_no_room_of_sessions() -> None:
    """As many sessions as the statistics say can be opened, and no more, whatever is rolled out beside them."""
    h = Rolling(sessions=4, paths=8)
    h.open(1)
    h.generate(None, 1000, [1], paths=3, levels=(0.5,), temperature=1.0)
    h.turn()
    stats = h.engine.stats()
    assert stats.rollout_slots == 3
    opened = h.open(5, first_handle=1)
    assert [isinstance(each, Opened) for each in opened] == [True] * (stats.capacity - stats.sessions) + [False] * 2
    h.check_books()


@EVERY
def test_prompts_are_bounded(commit: Commit) -> None:
    """All that wait together have no more steps than may be pending; as they are fed there is room again."""
    h = Rolling(slow=True, max_pending_steps=20)
    a, b = h.open(2)
    first = h.generate(a, 1, [1] * 6, stream=501, commit=commit)
    second = h.generate(b, 1, [1] * 5, stream=502, commit=commit)
    h.turn()
    h.begun(first)
    error = h.refused(second)
    assert isinstance(error, CallerError)
    assert (error.reason, error.retry_delay_seconds is not None) == (Reason.QUEUE_FULL, True)
    assert h.engine.stats().pending_steps == h.engine._rollouts.prompted == 5
    third = h.generate(b, 1, [1] * 5, stream=503, commit=commit)
    h.turn()
    h.begun(third)
    h.settle()
    assert h.engine.stats().pending_steps == 0
    h.check_books()


def test_a_cancelled_prompt_makes_room() -> None:
    """What is left of it is not waited for."""
    h = Rolling(slow=True, max_pending_steps=20)
    (a,) = h.open()
    h.generate(a, 1, [1] * 10, stream=501, commit=Commit.EACH)
    h.turn(3)
    h.hang_up(501)
    h.turn()
    assert h.engine.stats().pending_steps == 0
    assert h.state(a) == after([1, 1, 1])
    assert h.roll(a, 2, [1] * 10) == text([1] * 13, 2)


def test_sessions_and_rollouts_have_slots_of_their_own() -> None:
    """As many sessions as there may be, each rolled out at once, and as many paths beside them."""
    h = Rolling(sessions=4, paths=8)
    sessions = h.open(4)
    for number, session in enumerate(sessions):
        h.generate(session, 5, [number + 1], stream=501 + number)
        h.generate(session, 5, [number + 2], stream=601 + number, commit=Commit.NONE)
    h.turn()
    assert len(h.backend.free) == 8
    h.check_books()
    h.settle()
    h.check_books()
    for number in range(4):
        assert h.drawn(501 + number) == text([number + 1], 5)
        assert h.drawn(601 + number) == text([number + 2], 5)


# Turns -------------------------------------------------------------------------------------------------------------------


def test_rollouts_share_launches_with_each_other_and_with_steps() -> None:
    """All that draw and all single steps are one launch."""
    h = Rolling()
    sessions = h.open(4)
    for number, session in enumerate(sessions[:3]):
        h.generate(session, 10, [1], stream=501 + number, commit=Commit(number + 1))
    h.turn()
    h.backend.launches.clear()
    h.call(sessions[3], 0, [1.0], stream=9, secret=sessions[3].secret)
    h.turn()
    assert h.backend.launches in ([(4, 1)], [(1, 1), (3, 1)])
    h.backend.launches.clear()
    h.turn()
    assert h.backend.launches == [(3, 1)]


def test_more_rollouts_than_a_launch_may_have_take_several() -> None:
    """Each of them draws in every turn."""
    h = Rolling(paths=8, max_batch=3)
    for number in range(8):
        h.generate(None, 4, [number % 7], stream=501 + number)
    h.settle()
    assert max(batch for batch, _ in h.backend.launches) == 3
    for number in range(8):
        assert h.drawn(501 + number) == text([number % 7], 4)
        assert [piece.first for piece in h.ear.pieces[501 + number]] == [1, 2, 3, 4]


@EVERY
def test_a_long_prompt_does_not_hold_single_steps_up(commit: Commit) -> None:
    """It is cut into chunks that fit into a turn's budget, and every turn steps those that wait for one step."""
    h = Rolling()
    a, b, c = h.open(3)
    per_step = 0.001  # seconds: two steps fit into a turn's budget beside single steps
    h.speaking.before_collect = lambda: h.clock.advance(per_step * h.backend.launches[-1][1])
    h.engine.warm_up()
    h.backend.launches.clear()
    prompt = [number % 7 for number in range(40)]
    h.generate(a, 3, prompt, commit=commit)
    for step in range(10):
        h.send([b, c], [step, step], [[1], [1]], handles=[1, 2])
        answers = h.turn()
        assert len(answers) == 2
    assert max(length for _, length in h.backend.launches) <= 2
    assert h.drawn() == []
    h.settle()
    assert max(length for _, length in h.backend.launches) > 2  # alone it may take more
    assert h.drawn() == text(prompt, 3)
    assert h.state(a) == ([0.0] * 9 if commit is Commit.NONE else after([*prompt, *text(prompt, 3)]))
    h.check_books()


def test_long_prompts_take_turns() -> None:
    """Where a launch has room for one of them, and a turn for one launch: none waits for another's end, nor does a chunk."""
    h = Rolling(max_batch=1)
    (a,) = h.open()
    h.speaking.before_collect = lambda: h.clock.advance(0.005 * h.backend.launches[-1][1])
    h.engine.warm_up()
    h.generate(None, 1, [1] * 60, stream=501)
    h.generate(None, 1, [2] * 60, stream=502)
    h.send([a], [0], [[3] * 60])
    h.turn(9)
    steps = [h.rolled_state(501)[1], h.rolled_state(502)[1], float(h.engine.books.table.next_seq[a.session])]
    assert min(steps) >= 10
    assert max(steps) - min(steps) <= 5
    h.settle()
    assert [h.drawn(501), h.drawn(502)] == [[60 % 7], [120 % 7]]


# Failures ----------------------------------------------------------------------------------------------------------------


@EVERY
@pytest.mark.parametrize("in_prompt", [True, False])
def test_a_step_that_would_not_be_finite(commit: Commit, in_prompt: bool) -> None:
    """END and NONE leave the session as it was, EACH quarantines it where it got to; neighbours never notice."""
    h = Rolling(poison=4, slow=True)
    a, b = h.open(2)
    h.speak(a, [1])
    h.generate(b, 20, [0], stream=501)
    h.generate(a, 9, [1, 4, 1] if in_prompt else [], commit=commit)  # else 1, 2, 4: the third draw
    h.send([b], [50], [[1]], handles=[1])  # refused, and no matter
    outcomes = [each for each in h.settle() if each.stream == CALLER]
    fed = [1, 1] if in_prompt else [1, 1, 2]
    stands = fed if commit is Commit.EACH else [1]
    assert len(outcomes) == 1
    assert isinstance(outcomes[0], Refusal)
    assert outcomes[0].reason == Reason.NON_FINITE_STATE
    assert (h.drawn(), h.ending()) == ([] if in_prompt else [1, 2], None)
    info = h.get(a.id)
    assert (info.next_seq, info.quarantined) == (len(stands), commit is Commit.EACH)
    assert h.state(a) == after(stands)
    assert h.drawn(501) == [0] * 20
    h.check_books()
    answers = h.speak(a, [3])
    if commit is Commit.EACH:
        assert [each.reason for each in answers if isinstance(each, Refusal)] == [Reason.SESSION_QUARANTINED]
        again = h.generate(a, 2, [1])
        h.settle()
        assert h.refused(again).reason == Reason.SESSION_QUARANTINED
        h.reset(a, len(stands))
        h.settle()
        assert h.roll(a, 2, [1]) == [1, 2]
    else:
        assert h.state(a) == after([1, 3])


def test_a_failure_is_one_step() -> None:
    """However many were wanted: none of the others was ever due, and failed steps are counted."""
    h = Rolling(poison=4)
    h.generate(None, 2**32 - 1, [1, 4])
    h.generate(None, 2**32 - 1, [1], stream=501)  # 1, 2, 4: the third draw
    outcomes = h.settle()
    assert [(each.stream, each.length) for each in outcomes] == [(CALLER, 1), (501, 1)]
    assert h.reports.failures == {Reason.NON_FINITE_STATE: 2}


def test_several_fail_in_one_launch() -> None:
    """Each of their callers hears it, and the launch is worth it to the others."""
    h = Rolling(poison=4)
    for number, prompt in enumerate(([1], [0], [4], [1], [0])):
        h.generate(None, 9, prompt, stream=501 + number)
    outcomes = h.settle()
    assert sorted(each.stream for each in outcomes if isinstance(each, Refusal)) == [501, 503, 504]
    assert [h.drawn(501 + number) for number in range(5)] == [[1, 2], [0] * 9, [], [1, 2], [0] * 9]
    h.check_books()


# Draining ----------------------------------------------------------------------------------------------------------------


@EVERY
def test_draining_lets_rollouts_finish_and_begins_none(commit: Commit) -> None:
    """It is answered when the last one has ended, also where a reader takes its time."""
    h = Rolling()
    a, b = h.open(2)
    h.speak(b, [1])
    h.generate(a, MOST_AHEAD + 50, [1], commit=commit)
    h.turn(5)
    drain = h.drain()
    refused = h.generate(b, 2, stream=501)
    h.settle()
    assert h.refused(refused).reason == Reason.SERVER_DRAINING
    assert drain not in h.ear.replies
    assert len(h.drawn()) == MOST_AHEAD
    h.took(CALLER, MOST_AHEAD)
    h.settle()
    assert h.drawn() == text([1], MOST_AHEAD + 50)
    assert h.ear.replies[drain] is None
    h.check_books()


def test_draining_ends_when_the_reader_leaves() -> None:
    """One that has paused is not waited for any longer."""
    h = Rolling()
    h.generate(None, 5000, [1])
    drain = h.drain()
    h.settle()
    assert drain not in h.ear.replies
    h.hang_up(CALLER)
    h.settle()
    assert h.ear.replies[drain] is None


def test_a_rollout_that_waits_for_its_step_when_draining_begins_is_refused() -> None:
    """What is admitted is finished; the rollout was not."""
    h = Rolling(slow=True)
    (a,) = h.open()
    h.send([a], [0], [[1, 2, 3]])
    request = h.generate(a, 2)
    h.turn()
    drain = h.drain()
    h.settle()
    assert h.refused(request).reason == Reason.SERVER_DRAINING
    assert h.state(a) == after([1, 2, 3])
    assert h.ear.replies[drain] is None


def test_sessions_opened_without_a_stream_are_rolled_out_without_a_secret() -> None:
    """As they are stepped."""
    h = Rolling()
    (a,) = h.ask(Open(NO_STREAM, h.request(), ["a"]))
    assert h.roll(a, 3, [1], secret=b"") == [1, 2, 4]
