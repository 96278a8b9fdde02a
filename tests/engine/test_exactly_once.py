"""The rules of exactly once, on an engine turned by hand over arithmetic that anybody can redo."""

from __future__ import annotations

import numpy as np

from stepstream_server.engine.ports import NO_SEQ, Ending, Keep, Opened, SessionInfo
from stepstream_server.errors import Reason, StepStreamError
from support.backend import FakeBackend
from support.engine import Answer, Harness, Refusal


def test_steps_move_the_state_in_order() -> None:
    """Two blocks sent one behind the other are applied in order, each step once."""
    h = Harness()
    (a,) = h.open()
    h.send([a], [0], [[1.0]])
    h.send([a], [1], [[2.0]])
    assert h.settle() == [Answer(1, 0, 0, 1, (1.0,)), Answer(1, 0, 1, 1, (3.0,))]


def test_a_repeat_is_answered_from_the_cache() -> None:
    """Sending an applied step again gives the same answer and moves nothing."""
    h = Harness()
    (a,) = h.open()
    h.send([a], [0], [[5.0]])
    first = h.settle()
    h.send([a], [0], [[5.0]])
    assert h.settle() == first
    assert h.backend.states[0, 0] == 5.0
    assert h.reports.turns[-1].duplicates == 1


def test_a_repeat_joins_the_pending_step() -> None:
    """A step sent twice before it ran is applied once and answered twice, in order."""
    h = Harness()
    (a,) = h.open()
    h.send([a], [0], [[5.0]])
    h.send([a], [0], [[5.0]])
    assert h.settle() == [Answer(1, 0, 0, 1, (5.0,)), Answer(1, 0, 0, 1, (5.0,))]
    assert h.backend.states[0].tolist() == [5.0, 1.0]


def test_a_gap_is_refused_with_the_number_expected() -> None:
    """A step above the admission point is SEQUENCE_MISMATCH and changes nothing."""
    h = Harness()
    (a,) = h.open()
    h.send([a], [3], [[5.0]])
    assert h.settle() == [Refusal(1, 0, 3, 1, Reason.SEQUENCE_MISMATCH, 0)]
    h.send([a], [0], [[1.0]])
    assert h.settle() == [Answer(1, 0, 0, 1, (1.0,))]


def test_a_chunk_that_straddles_is_split() -> None:
    """Of a chunk that begins before next_seq, the old part comes from the cache and the new part is applied."""
    h = Harness()
    (a,) = h.open()
    h.send([a], [0], [[1.0, 2.0]])
    h.settle()
    h.send([a], [1], [[2.0, 3.0, 4.0]])
    outcomes = h.settle()
    assert [sum_ for answer in outcomes if isinstance(answer, Answer) for sum_ in answer.sums] == [3.0, 6.0, 10.0]
    assert h.backend.states[0].tolist() == [10.0, 4.0]


def test_acknowledged_answers_are_discarded() -> None:
    """A repeat below the acknowledged count is refused for just those steps; the rest is answered."""
    h = Harness()
    (a,) = h.open()
    h.send([a], [0], [[1.0, 2.0, 3.0]])
    h.settle()
    h.acknowledge(a, 2)
    h.send([a], [0], [[1.0, 2.0, 3.0]])
    assert h.settle() == [Refusal(1, 0, 0, 2, Reason.ANSWER_DISCARDED, 3), Answer(1, 0, 2, 1, (6.0,))]


def test_a_repeat_of_which_all_is_acknowledged_leaves_nothing_behind() -> None:
    """It is refused in its turn, up to the very step before the acknowledged count, and then nothing is queued."""
    h = Harness()
    (a,) = h.open()
    h.send([a], [0], [[1.0, 2.0, 3.0]])
    h.settle()
    h.acknowledge(a, 2)
    h.send([a], [0], [[1.0, 2.0]])
    assert h.turn() == [Refusal(1, 0, 0, 2, Reason.ANSWER_DISCARDED, 3)]
    assert not h.engine.busy


def test_a_lower_acknowledgement_changes_nothing_and_a_higher_one_is_clamped() -> None:
    """Acknowledgements are cumulative, and cannot run ahead of the steps applied."""
    h = Harness()
    (a,) = h.open()
    h.send([a], [0], [[1.0, 2.0]])
    h.settle()
    for count, expected in ((1, 1), (0, 1), (99, 2)):
        h.acknowledge(a, count)
        info = h.get(a.id)
        assert isinstance(info, SessionInfo)
        assert info.acked == expected


def test_after_a_failed_step_all_later_ones_are_refused() -> None:
    """Go back N: a bad input at k refuses k and everything behind it, with k expected; k can then be sent again."""
    h = Harness()
    (a,) = h.open()
    h.send([a], [0], [[1.0]])
    h.send([a], [1], [[float("nan")]])
    h.send([a], [2], [[1.0]])
    h.send([a], [3], [[1.0]])
    assert h.settle() == [
        Answer(1, 0, 0, 1, (1.0,)),
        Refusal(1, 0, 1, 1, Reason.NON_FINITE_INPUT, 1),
        Refusal(1, 0, 2, 1, Reason.SEQUENCE_MISMATCH, 1),
        Refusal(1, 0, 3, 1, Reason.SEQUENCE_MISMATCH, 1),
    ]
    h.send([a], [1], [[2.0]])
    assert h.settle() == [Answer(1, 0, 1, 1, (3.0,))]


def test_the_window_bounds_unacknowledged_steps() -> None:
    """A row beyond the window is refused before it runs; acknowledging makes room."""
    h = Harness(window_steps=4)
    (a,) = h.open()
    h.send([a], [0], [[1.0] * 4])
    h.send([a], [4], [[1.0]])
    outcomes = h.settle()
    assert outcomes[-1] == Refusal(1, 0, 4, 1, Reason.WINDOW_FULL, 4)
    h.send([a], [4], [[1.0]], acked=[1])
    assert h.settle() == [Answer(1, 0, 4, 1, (5.0,))]


def test_the_window_bounds_kept_bytes_but_not_steps_without_outputs() -> None:
    """Steps without outputs count in the window's steps alone."""
    h = Harness(window_bytes=16, window_steps=100)  # two answers of two float32 each
    (a,) = h.open()
    h.send([a], [0], [[1.0] * 50], keep=Keep.NONE)
    h.send([a], [50], [[1.0] * 20], keep=Keep.LAST)
    h.send([a], [70], [[1.0]])
    h.send([a], [71], [[1.0]])
    outcomes = h.settle()
    assert [outcome for outcome in outcomes if isinstance(outcome, Refusal)] == [Refusal(1, 0, 71, 1, Reason.WINDOW_FULL, 71)]
    assert sum(len(outcome.sums) for outcome in outcomes if isinstance(outcome, Answer)) == 2


def test_acknowledging_steps_without_outputs_makes_no_room_for_bytes() -> None:
    """They took none; acknowledging a step with outputs does."""
    h = Harness(window_bytes=16)  # two answers of two float32 each
    (a,) = h.open()
    h.send([a], [0], [[1.0, 1.0]], keep=Keep.NONE)
    h.send([a], [2], [[1.0, 1.0]])
    h.settle()
    h.send([a], [4], [[1.0]], acked=[2])
    assert h.settle() == [Refusal(1, 0, 4, 1, Reason.WINDOW_FULL, 4)]
    h.send([a], [4], [[1.0]], acked=[3])
    assert h.settle() == [Answer(1, 0, 4, 1, (5.0,))]


def test_answers_acknowledged_one_by_one_make_room_for_one_each() -> None:
    """However often, and no more."""
    h = Harness(window_bytes=32)  # four answers of two float32 each
    (a,) = h.open()
    h.send([a], [0], [[1.0] * 4])
    h.settle()
    for count in (1, 2, 3):
        h.acknowledge(a, count)
    h.send([a], [4], [[1.0] * 4])
    assert h.settle() == [Refusal(1, 0, 4, 4, Reason.WINDOW_FULL, 4)]
    h.send([a], [4], [[1.0] * 3])
    h.send([a], [7], [[1.0]])
    assert h.settle()[-1] == Refusal(1, 0, 7, 1, Reason.WINDOW_FULL, 7)
    assert h.get(a.id).next_seq == 7


def test_the_first_application_fixes_what_is_kept() -> None:
    """A repeat that wants outputs which were not kept hears ANSWER_NOT_KEPT for those steps, and gets the others."""
    h = Harness()
    (a,) = h.open()
    h.send([a], [0], [[1.0, 1.0, 1.0]], keep=Keep.LAST)
    h.settle()
    h.send([a], [0], [[1.0, 1.0, 1.0]], keep=Keep.ALL)
    assert h.settle() == [Refusal(1, 0, 0, 2, Reason.ANSWER_NOT_KEPT, 3), Answer(1, 0, 2, 1, (3.0,))]
    h.send([a], [0], [[1.0, 1.0, 1.0]], keep=Keep.LAST)
    assert h.settle() == [Answer(1, 0, 0, 3, (3.0,))]


def test_a_reset_takes_a_number_and_can_be_repeated() -> None:
    """A reset is ordered with the steps around it; its repeat is answered and does not reset again."""
    h = Harness()
    (a,) = h.open()
    h.send([a], [0], [[5.0]])
    h.reset(a, 1)
    h.send([a], [2], [[7.0]])
    h.reset(a, 1)
    assert h.settle() == [
        Answer(1, 0, 0, 1, (5.0,)),
        Answer(1, 0, 1, 1, ()),
        Answer(1, 0, 2, 1, (7.0,)),
        Answer(1, 0, 1, 1, ()),
    ]
    assert h.backend.states[0].tolist() == [7.0, 1.0]


def test_attaching_takes_over_and_sends_kept_answers_again() -> None:
    """The former stream is told, its queued steps are dropped, and the new one gets every answer from its count on."""
    h = Harness()
    (a,) = h.open()
    h.send([a], [0], [[1.0, 1.0]])
    h.settle()
    h.send([a], [2], [[100.0]])  # arrives in the same turn as the attach, in front of it
    attached = h.attach(a, stream=2, handle=9, acked=1)
    assert isinstance(attached, Opened)
    assert (attached.next_seq, attached.acked) == (2, 1)
    assert h.settle() == [Answer(2, 9, 1, 1, (2.0,))]
    assert h.ear.detached == [(1, 0, Ending.TAKEN)]
    h.send([a], [2], [[1.0]], stream=2, handles=[9])
    h.send([a], [3], [[1.0]], stream=1)
    assert h.settle() == [Answer(2, 9, 2, 1, (3.0,)), Refusal(1, 0, 3, 1, Reason.HANDLE_UNKNOWN, 0)]


def test_a_former_stream_is_told_from_the_holder_though_their_handles_are_alike() -> None:
    """Handles are each stream's own: what the former one sends under its number is not the holder's."""
    h = Harness()
    (a,) = h.open()
    h.attach(a, stream=2, handle=0)
    h.send([a], [0], [[5.0]], stream=1)
    h.send([a], [0], [[1.0]], stream=2)
    assert h.settle() == [Answer(2, 0, 0, 1, (1.0,)), Refusal(1, 0, 0, 1, Reason.HANDLE_UNKNOWN, 0)]


def test_a_wrong_secret_attaches_nothing() -> None:
    """Without the secret the session stays where it is."""
    h = Harness()
    (a,) = h.open()
    error = h.attach(a, stream=2, secret=b"guess")
    assert isinstance(error, StepStreamError)
    assert error.reason == Reason.SECRET_MISMATCH
    assert h.ear.detached == []


def test_one_shot_calls_never_take_over() -> None:
    """On an attached session a call needs the secret; without a number it takes the next one and keeps no answer."""
    h = Harness()
    (a,) = h.open()
    h.call(a, NO_SEQ, [1.0], stream=50)
    assert h.settle() == [Refusal(50, 0, 0, 1, Reason.SESSION_IN_USE, 0)]
    h.call(a, NO_SEQ, [1.0], stream=51, secret=a.secret)
    h.call(a, NO_SEQ, [1.0], stream=52, secret=a.secret)
    assert h.settle() == [Answer(51, 0, 0, 1, (1.0,)), Answer(52, 0, 1, 1, (2.0,))]
    info = h.get(a.id)
    assert isinstance(info, SessionInfo)
    assert (info.next_seq, info.acked, info.attached) == (2, 2, True)


def test_a_one_shot_call_with_a_number_can_be_repeated() -> None:
    """It acknowledges what is below, and its own answer is kept."""
    h = Harness()
    (a,) = h.open()
    h.detach(a)
    h.turn()
    for stream in (50, 51):
        h.call(a, 0, [4.0], stream=stream)
    assert h.settle() == [Answer(50, 0, 0, 1, (4.0,)), Answer(51, 0, 0, 1, (4.0,))]
    assert h.backend.states[0].tolist() == [4.0, 1.0]


def test_a_step_whose_time_is_over_is_dropped_before_it_runs() -> None:
    """Its followers are refused; nothing of them was applied."""
    h = Harness()
    (a,) = h.open()
    h.send([a], [0], [[1.0]], deadline=h.clock() + 1.0)
    h.send([a], [1], [[1.0]])
    h.clock.advance(2.0)
    assert h.settle() == [
        Refusal(1, 0, 0, 1, Reason.DEADLINE_EXCEEDED, 0),
        Refusal(1, 0, 1, 1, Reason.SEQUENCE_MISMATCH, 0),
    ]
    assert h.backend.launches == []


def test_a_repeat_of_a_step_that_fails_is_refused_and_holds_nothing_back() -> None:
    """It had joined the step; when the step has been sent again and acknowledged, nothing is kept for the repeat."""
    h = Harness()
    (a,) = h.open()
    h.send([a], [0], [[1.0]], deadline=h.clock())
    h.send([a], [0], [[1.0]])
    h.refuse(a, 1, 1, "no")
    assert h.settle() == [
        Refusal(1, 0, 0, 1, Reason.DEADLINE_EXCEEDED, 0),
        Refusal(1, 0, 0, 1, Reason.SEQUENCE_MISMATCH, 0),
        Refusal(1, 0, 1, 1, Reason.INVALID_ARGUMENT, 0),
    ]
    h.send([a], [0], [[1.0]])
    assert h.settle() == [Answer(1, 0, 0, 1, (1.0,))]
    h.acknowledge(a, 1)
    h.turn()
    assert h.engine.books.cache.bytes_used == 0


def test_a_non_finite_session_is_quarantined_until_reset() -> None:
    """The launch that would poison it applies nothing to it, its neighbour is served, and only reset helps."""
    h = Harness()
    a, b = h.open(2)
    h.send([a, b], [0, 0], [[3e38], [1.0]])
    h.settle()
    with np.errstate(over="ignore"):
        h.send([a, b], [1, 1], [[3e38], [1.0]])
        outcomes = h.settle()
    assert outcomes == [Answer(1, 1, 1, 1, (2.0,)), Refusal(1, 0, 1, 1, Reason.NON_FINITE_STATE, 1)]
    h.send([a], [1], [[1.0]])
    assert h.settle() == [Refusal(1, 0, 1, 1, Reason.SESSION_QUARANTINED, 1)]
    info = h.get(a.id)
    assert isinstance(info, SessionInfo)
    assert info.quarantined
    h.reset(a, 1)
    h.send([a], [2], [[1.0]])
    assert h.settle() == [Answer(1, 0, 1, 1, ()), Answer(1, 0, 2, 1, (1.0,))]


def test_a_reset_that_is_dropped_leaves_the_session_quarantined() -> None:
    """The stream that sent it goes before it was applied: steps are refused as before, until another reset."""
    h = Harness()
    (a,) = h.open()
    h.send([a], [0], [[3e38]])
    h.settle()
    with np.errstate(over="ignore"):
        h.send([a], [1], [[3e38]])
        h.settle()
    h.reset(a, 1)
    h.end_stream(1)
    h.turn()
    h.attach(a, stream=2, acked=1)
    h.send([a], [1], [[1.0]], stream=2)
    assert h.settle() == [Refusal(2, 0, 1, 1, Reason.SESSION_QUARANTINED, 1)]
    assert h.get(a.id).quarantined
    h.reset(a, 1, stream=2)
    assert h.settle() == [Answer(2, 0, 1, 1, ())]


def test_a_call_that_is_dropped_behind_a_reset_leaves_the_reset() -> None:
    """The session was quarantined; the reset is applied, and what its stream sends behind it."""
    h = Harness()
    (a,) = h.open()
    h.backend.poison = 7.0
    h.send([a], [0], [[7.0]])
    h.settle()
    h.reset(a, 0)
    h.call(a, NO_SEQ, [5.0], stream=50, secret=a.secret)
    h.hang_up(50)
    h.send([a], [1], [[1.0]])
    assert h.settle() == [Answer(1, 0, 0, 1, ()), Answer(1, 0, 1, 1, (1.0,))]
    assert not h.get(a.id).quarantined


def test_a_vanished_stream_leaves_its_sessions_and_frees_the_queue() -> None:
    """Its queued steps are dropped without an outcome; the session can be attached where it stood."""
    h = Harness(backend=FakeBackend(slots=4))
    (a,) = h.open()
    h.send([a], [0], [[1.0]])
    h.settle()
    h.send([a], [1], [[1.0]])
    h.end_stream(1)
    assert h.settle() == []
    assert h.engine.stats().pending_steps == 0
    assert h.engine.stats().streams == 0
    attached = h.attach(a, stream=2, acked=1)
    assert isinstance(attached, Opened)
    assert attached.next_seq == 1


def test_a_session_has_one_row_per_block() -> None:
    """A second row of the same session in one block is refused, behind the outcome of the first."""
    h = Harness()
    a, b = h.open(2)
    h.send([a, b, a], [0, 0, 1], [[1.0], [2.0], [3.0]], handles=[0, 1, 0])
    assert h.settle() == [
        Answer(1, 0, 0, 1, (1.0,)),
        Answer(1, 1, 0, 1, (2.0,)),
        Refusal(1, 0, 1, 1, Reason.INVALID_ARGUMENT, 1),
    ]


def test_what_comes_behind_a_dropped_call_is_refused_and_what_is_in_front_is_not() -> None:
    """A caller that goes away takes only its own step and those behind it along."""
    h = Harness()
    (a,) = h.open()
    h.send([a], [0], [[1.0, 1.0, 1.0]])
    h.call(a, NO_SEQ, [5.0], stream=99, secret=a.secret)
    h.send([a], [4], [[1.0]])
    h.end_stream(99)
    outcomes = h.settle()
    assert outcomes[-1] == Refusal(1, 0, 4, 1, Reason.SEQUENCE_MISMATCH, 3)
    assert h.backend.states[0].tolist() == [3.0, 3.0]


def test_a_former_handle_of_the_same_stream_is_void() -> None:
    """Attached again under another handle, the session no longer answers to the old one."""
    h = Harness()
    (a,) = h.open()
    h.attach(a, stream=1, handle=5)
    assert h.ear.detached == [(1, 0, Ending.TAKEN)]
    h.send([a], [0], [[1.0]], handles=[0])
    h.detach(a, handle=0)
    assert h.settle() == [Refusal(1, 0, 0, 1, Reason.HANDLE_UNKNOWN, 0)]
    assert h.get(a.id).attached


def test_a_refused_call_acknowledges_nothing() -> None:
    """A number from the future leaves the kept answers where they are."""
    h = Harness()
    (a,) = h.open()
    h.detach(a)
    h.call(a, 0, [1.0], stream=50)
    h.call(a, 10**9, [1.0], stream=51)
    h.call(a, 0, [1.0], stream=52)
    assert [outcome for outcome in h.settle() if isinstance(outcome, Answer)] == [
        Answer(50, 0, 0, 1, (1.0,)),
        Answer(52, 0, 0, 1, (1.0,)),
    ]


def test_a_call_without_a_number_that_is_refused_acknowledges_nothing() -> None:
    """Its input is no number: the answer that was kept before is still there for a repeat."""
    h = Harness()
    (a,) = h.open()
    h.detach(a)
    h.call(a, 0, [1.0], stream=50)
    h.settle()
    h.call(a, NO_SEQ, [float("nan")], stream=51)
    h.call(a, 0, [1.0], stream=52)
    assert h.settle() == [Refusal(51, 0, 1, 1, Reason.NON_FINITE_INPUT, 1), Answer(52, 0, 0, 1, (1.0,))]


def test_a_call_without_a_number_acknowledges_nothing_of_the_stream_that_holds_the_session() -> None:
    """The holder's answers, before the call's step and behind it, wait for the holder's own acknowledgement."""
    h = Harness()
    (a,) = h.open()
    h.send([a], [0], [[1.0]])
    h.call(a, NO_SEQ, [1.0], stream=50, secret=a.secret)
    h.send([a], [2], [[1.0]])
    h.settle()
    assert h.get(a.id).acked == 0
    h.send([a], [0], [[1.0]])
    h.send([a], [2], [[1.0]])
    assert h.settle() == [Answer(1, 0, 0, 1, (1.0,)), Answer(1, 0, 2, 1, (3.0,))]


def test_calls_without_numbers_never_fill_the_window() -> None:
    """Nobody would acknowledge for them."""
    h = Harness(window_steps=3)
    (a,) = h.open()
    h.detach(a)
    h.call(a, 0, [1.0], stream=50)
    for stream in range(51, 61):
        h.call(a, NO_SEQ, [1.0], stream=stream)
        assert isinstance(h.settle()[-1], Answer)


def test_calls_without_numbers_take_none_of_the_bytes_of_the_window() -> None:
    """Their outputs are not kept, though they are told."""
    h = Harness(window_bytes=8)  # one answer
    (a,) = h.open()
    for seq in range(4):
        h.call(a, NO_SEQ, [1.0], stream=50 + seq, secret=a.secret)
        assert h.settle() == [Answer(50 + seq, 0, seq, 1, (seq + 1.0,))]
    h.send([a], [4], [[1.0]])
    assert h.settle() == [Answer(1, 0, 4, 1, (5.0,))]


def test_numbers_at_the_end_of_their_range_are_refused_like_others() -> None:
    """No arithmetic overflows on the way."""
    h = Harness()
    (a,) = h.open()
    far = 2**62 - 1
    h.send([a], [far], [[1.0, 1.0]], keep=Keep.LAST)
    h.reset(a, far)
    assert {outcome.reason for outcome in h.settle() if isinstance(outcome, Refusal)} == {Reason.SEQUENCE_MISMATCH}
    assert h.get(a.id).next_seq == 0


def test_kept_answers_of_all_sessions_are_bounded() -> None:
    """Beyond the limit steps with outputs are refused; acknowledging makes room, and steps without outputs pass."""
    h = Harness(backend=FakeBackend(slots=64), cache_bytes=4096)
    sessions = h.open(32)
    zeros, one_page = [0] * 32, [[1.0] * 128] * 32
    h.send(sessions, zeros, one_page)
    h.settle()
    h.send(sessions[:2], [128, 128], [[1.0]] * 2)
    assert {outcome.reason for outcome in h.settle() if isinstance(outcome, Refusal)} == {Reason.QUEUE_FULL}
    h.send(sessions[:1], [128], [[1.0]], keep=Keep.NONE)
    assert isinstance(h.settle()[0], Answer)
    h.send(sessions, [129, *[128] * 31], [[1.0]] * 32, acked=[128] * 32)
    assert all(isinstance(outcome, Answer) for outcome in h.settle())
