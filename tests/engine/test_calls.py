"""One-shot calls of many rows: who may step, in which order, and that no row harms another."""

from __future__ import annotations

import numpy as np

from stepstream_server.engine.ports import NO_SEQ, CallersLeft, Keep
from stepstream_server.errors import Reason
from support.engine import Answer, Harness, Refusal


def test_rows_of_different_sessions_share_a_call_and_a_launch() -> None:
    """One call advances many sessions, each outcome under its row's handle."""
    h = Harness()
    ids = [h.open_as(name).id for name in ("a", "b", "c")]
    h.call_many(ids, [NO_SEQ, 0, NO_SEQ], [[1.0], [2.0], [3.0, 4.0]], stream=9, handles=[5, 6, 7])
    outcomes = h.settle()
    assert outcomes[:2] == [Answer(9, 5, 0, 1, (1.0,)), Answer(9, 6, 0, 1, (2.0,))]
    assert [(each.handle, each.first, each.sums) for each in outcomes[2:] if isinstance(each, Answer)] == [
        (7, 0, (3.0,)),
        (7, 1, (7.0,)),
    ]
    assert h.backend.launches[0] == (3, 1)


def test_neighbouring_calls_share_a_launch() -> None:
    """Calls of many streams that arrive together are computed together."""
    h = Harness()
    for number in range(8):
        h.open_as(f"s{number}")
    for number in range(8):
        h.call_many([f"s{number}"], [NO_SEQ], [[float(number)]], stream=number)
    assert len(h.turn()) == 8
    assert h.backend.launches == [(8, 1)]


def test_unnumbered_steps_of_one_session_take_consecutive_numbers() -> None:
    """Steps sent ahead by callers that do not number them are applied in order, each once."""
    h = Harness()
    h.open_as("a")
    for value in (1.0, 2.0, 3.0):
        h.call_many(["a"], [NO_SEQ], [[value]], stream=7, handles=[int(value)])
    assert h.settle() == [Answer(7, 1, 0, 1, (1.0,)), Answer(7, 2, 1, 1, (3.0,)), Answer(7, 3, 2, 1, (6.0,))]


def test_steps_sent_ahead_mix_with_repeats_and_other_sessions() -> None:
    """Where not every row goes on where the one before ended, each is judged after the one before."""
    h = Harness()
    h.open_as("a")
    h.open_as("b")
    h.call_many(["a", "b"], [0, 0], [[1.0], [10.0]], stream=7, handles=[1, 2])
    h.call_many(["a", "b"], [1, 5], [[2.0], [20.0]], stream=7, handles=[3, 4])
    h.call_many(["a", "b"], [1, 1], [[2.0], [30.0]], stream=7, handles=[5, 6])
    outcomes = sorted(h.settle(), key=lambda each: each.handle)
    assert outcomes == [
        Answer(7, 1, 0, 1, (1.0,)),
        Answer(7, 2, 0, 1, (10.0,)),
        Answer(7, 3, 1, 1, (3.0,)),
        Refusal(7, 4, 5, 1, Reason.SEQUENCE_MISMATCH, 1),
        Answer(7, 5, 1, 1, (3.0,)),
        Answer(7, 6, 1, 1, (40.0,)),
    ]


def test_what_is_wrong_with_one_row_harms_no_other() -> None:
    """Unknown, attached, wrongly claimed and invalid rows are refused by themselves."""
    h = Harness()
    (held,) = h.open()
    for name in ("a", "b", "c"):
        h.open_as(name)
    ids = ["a", "nobody", held.id, "b", "c", "a"]
    secrets = [b"", b"", b"", b"", b"not its secret!!", b""]
    values = [[1.0], [1.0], [1.0], [float("nan")], [1.0], [1.0]]
    h.call_many(ids, [NO_SEQ] * 6, values, stream=9, secrets=secrets)
    outcomes = {each.handle: each for each in h.settle()}
    assert outcomes.pop(0) == Answer(9, 0, 0, 1, (1.0,))
    assert {handle: each.reason for handle, each in outcomes.items() if isinstance(each, Refusal)} == {
        1: Reason.SESSION_NOT_FOUND,
        2: Reason.SESSION_IN_USE,
        3: Reason.NON_FINITE_INPUT,
        4: Reason.SECRET_MISMATCH,
    }
    assert outcomes[5] == Answer(9, 5, 1, 1, (2.0,))


def test_rows_of_one_session_in_one_call_are_taken_in_order() -> None:
    """Callers who know nothing of each other may be gathered into one command."""
    h = Harness()
    h.open_as("a")
    h.call_many(["a", "a"], [0, 1], [[1.0], [2.0]], stream=9)
    assert h.settle() == [Answer(9, 0, 0, 1, (1.0,)), Answer(9, 1, 1, 1, (3.0,))]


def test_the_secret_opens_an_attached_session_to_its_row_alone() -> None:
    """Secrets are per row."""
    h = Harness()
    a, b = h.open(2)
    h.call_many([a.id, b.id], [NO_SEQ] * 2, [[1.0], [2.0]], stream=9, secrets=[b"", b.secret])
    outcomes = sorted(h.settle(), key=lambda each: each.handle)
    assert outcomes == [Refusal(9, 0, 0, 1, Reason.SESSION_IN_USE, 0), Answer(9, 1, 0, 1, (2.0,))]


def test_a_numbered_row_acknowledges_below_its_number_and_an_unnumbered_one_keeps_nothing() -> None:
    """In a call of many rows as in one alone."""
    h = Harness()
    h.open_as("a")
    h.open_as("b")
    for step in range(3):
        h.call_many(["a", "b"], [step, NO_SEQ], [[1.0], [1.0]], stream=9)
        h.settle()
    assert (h.get("a").acked, h.get("b").acked) == (2, 3)
    h.call_many(["a", "b"], [2, 2], [[1.0], [1.0]], stream=9)
    outcomes = {each.handle: each for each in h.settle()}
    assert outcomes == {0: Answer(9, 0, 2, 1, (3.0,)), 1: Refusal(9, 1, 2, 1, Reason.ANSWER_DISCARDED, 3)}


def test_only_the_steps_of_the_stream_that_ended_are_dropped() -> None:
    """Two callers have chunks queued for one session each; one of them goes."""
    h = Harness(max_batch=1)
    h.open_as("a")
    h.open_as("b")
    h.call_many(["a"], [NO_SEQ], [[1.0] * 3], stream=8)
    h.call_many(["b"], [NO_SEQ], [[1.0] * 3], stream=9)
    h.hang_up(8)
    assert {each.stream for each in h.settle()} == {9}
    assert (h.get("a").next_seq, h.get("b").next_seq) == (0, 3)


def test_callers_who_leave_together_take_all_their_steps_along() -> None:
    """Two of them wait for one session, with a third between them who stays: its step is the next one now."""
    h = Harness()
    h.open_as("a")
    for stream in (7, 8, 9):
        h.call_many(["a"], [NO_SEQ], [[1.0]], stream=stream)
    h.door.submit(CallersLeft([9, 7]))
    assert h.settle() == [Answer(8, 0, 0, 1, (1.0,))]
    assert (h.get("a").next_seq, h.backend.launches) == (1, [(1, 1)])


def test_a_call_keeps_what_it_asks_for() -> None:
    """LAST: one output per row, the last step's."""
    h = Harness()
    h.open_as("a")
    h.call_many(["a"], [0], [[1.0, 2.0, 3.0]], stream=9, keep=Keep.LAST)
    steps = [(each.first, each.length, each.sums) for each in h.settle() if isinstance(each, Answer)]
    assert steps[-1][2] == (6.0,)
    assert sum(length for _, length, _ in steps) == 3
    h.call_many(["a"], [0], [[1.0, 2.0, 3.0]], stream=9, keep=Keep.ALL)
    assert Refusal(9, 0, 0, 2, Reason.ANSWER_NOT_KEPT, 3) in h.settle()


def test_a_thousand_rows_are_admitted_as_one() -> None:
    """A call of as many rows as there are sessions is one launch, with every row's own number."""
    h = Harness()
    ids = [h.open_as(f"s{number}").id for number in range(h.backend.slots)]
    h.call_many(ids, np.where(np.arange(len(ids)) % 2, 0, NO_SEQ).tolist(), [[1.0]] * len(ids), stream=9)
    assert [each.first for each in h.turn()] == [0] * len(ids)
    assert h.backend.launches == [(len(ids), 1)]
