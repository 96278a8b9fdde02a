"""Callers who could not replay a step: one-shot callers of durable sessions are answered once the store has it."""

from __future__ import annotations

import numpy as np
import pytest

from stepstream_server.engine.ports import NO_SEQ, ROW, Call, Opened
from stepstream_server.errors import Reason
from support.durable import Durable
from support.engine import Answer, Refusal

CALLER = 500


@pytest.fixture
def h() -> Durable:
    """An engine whose store is stepped by hand."""
    return Durable()


@pytest.fixture
def a(h: Durable) -> Opened:
    """A durable session that no stream holds."""
    (opened,) = h.opened("a", attached=False)
    return opened


def call_behind(h: Durable, session: Opened, seq: int, value: float, caller: int) -> None:
    """A caller that can repeat its step, and does not wait for the store."""
    rows = np.zeros(1, ROW)
    rows["stream"], rows["first"], rows["length"], rows["keep"], rows["behind"] = caller, seq, 1, 1, True
    rows["arrival"], rows["deadline"] = h.clock(), np.inf
    h.door.submit(Call(rows, [session.id], (), np.zeros(1, np.bool_), (np.array([[value]], np.float32),)))


def test_a_step_is_answered_once_the_store_has_it(h: Durable, a: Opened) -> None:
    """It is written at once; what the store has is told with the answer."""
    h.call(a, NO_SEQ, [1.0], stream=CALLER)
    assert h.turn() == []
    assert h.asked() == ["Write"]
    (answer,) = h.step()
    assert answer == Answer(CALLER, 0, 0, 1, (1.0,))
    assert h.ear.durable == {(CALLER, 0): 1}


def test_only_what_somebody_waits_for_is_written_at_once(h: Durable, a: Opened) -> None:
    """Others have their time."""
    (b,) = h.opened("b")
    h.send([b], [0], [[1.0]])
    h.call(a, NO_SEQ, [1.0], stream=CALLER)
    h.turn()
    (task,) = h.store.tasks
    assert task.group.keys == ["a"]  # type: ignore[union-attr]


def test_steps_that_come_while_the_store_writes_wait_for_the_next_group(h: Durable, a: Opened) -> None:
    """Each caller hears of its own step, not before the store has it."""
    for caller in (CALLER, CALLER + 1):
        h.call(a, NO_SEQ, [1.0], stream=caller)
        h.turn()
    h.call(a, NO_SEQ, [1.0], stream=CALLER + 2)
    h.turn()
    assert h.asked() == ["Write"]
    assert h.step() == [Answer(CALLER, 0, 0, 1, (1.0,))]
    assert h.asked() == ["Write"]
    assert h.step() == [Answer(CALLER + 1, 0, 1, 1, (2.0,)), Answer(CALLER + 2, 0, 2, 1, (3.0,))]
    assert h.ear.durable[CALLER + 2, 0] == 3
    h.engine.books.check()


def test_a_caller_that_can_repeat_its_step_need_not_wait(h: Durable, a: Opened) -> None:
    """It hears how far the store is."""
    call_behind(h, a, 0, 1.0, CALLER)
    assert h.turn() == [Answer(CALLER, 0, 0, 1, (1.0,))]
    assert h.ear.durable == {(CALLER, 0): 0}
    assert h.asked() == []


def test_a_repeat_waits_too(h: Durable, a: Opened) -> None:
    """It waits as long as the store does not have the step; then it is answered at once."""
    call_behind(h, a, 0, 1.0, CALLER)
    h.turn()
    h.call(a, 0, [1.0], stream=CALLER + 1)
    assert h.turn() == []
    assert h.step() == [Answer(CALLER + 1, 0, 0, 1, (1.0,))]
    h.call(a, 0, [1.0], stream=CALLER + 2)
    assert h.turn() == [Answer(CALLER + 2, 0, 0, 1, (1.0,))]
    assert h.ear.durable[CALLER + 2, 0] == 1


def test_a_refusal_does_not_wait(h: Durable, a: Opened) -> None:
    """There is nothing to be written."""
    h.call(a, 7, [1.0], stream=CALLER)
    (refused,) = h.turn()
    assert isinstance(refused, Refusal) and refused.reason is Reason.SEQUENCE_MISMATCH


def test_whoever_waits_hears_that_the_store_has_failed(h: Durable, a: Opened) -> None:
    """They hear which step was applied: whoever repeats it, under its number, is answered once the store has it."""
    h.call(a, 0, [1.0], stream=CALLER)
    h.turn()
    (refused,) = h.step("fail")
    assert isinstance(refused, Refusal)
    assert (refused.first, refused.length, refused.reason, refused.expected) == (0, 1, Reason.STORE_UNAVAILABLE, 1)
    assert "'a' has applied all steps below 1" in h.ear.messages[-1]
    h.call(a, 0, [1.0], stream=CALLER + 1)
    assert h.turn() == []
    assert h.asked() == [], "the store is not asked without end"
    h.clock.advance(0.1)
    h.turn()
    assert h.step() == [Answer(CALLER + 1, 0, 0, 1, (1.0,))]


def test_nobody_is_kept_who_has_left(h: Durable, a: Opened) -> None:
    """Else a store that does not answer would fill the memory with answers."""
    for caller in range(CALLER, CALLER + 3):
        h.call(a, NO_SEQ, [1.0], stream=caller)
    h.settle()
    h.hang_up(CALLER + 1)
    assert [each.stream for each in h.done()] == [CALLER, CALLER + 2]
    h.call(a, NO_SEQ, [1.0], stream=CALLER + 3)
    h.turn()
    h.lose_door()
    h.turn()
    assert h.step() == []
    assert len(h.engine._durable.writing.withheld) == 0  # type: ignore[union-attr]


def test_a_chunk_is_answered_as_far_as_the_store_has_it(h: Durable, a: Opened) -> None:
    """It may have been cut: each part is answered by itself."""
    h.backend.before_collect = lambda: h.clock.advance(1.0)
    h.engine.warm_up()
    h.call(a, 0, [1.0] * 3, stream=CALLER)
    told = []
    for _ in range(8):
        told += [(each.first, each.length) for each in h.step() if isinstance(each, Answer)]
    assert sum(length for _, length in told) == 3 and told == sorted(told)
    assert h.ear.durable[CALLER, 0] == 3


def test_a_stream_that_holds_the_session_does_not_wait(h: Durable, a: Opened) -> None:
    """Its client keeps the inputs. A one-shot caller with the session's secret, beside it, does."""
    attached = h.attach(a, stream=1)
    h.send([attached], [0], [[1.0]])
    h.call(a, NO_SEQ, [1.0], stream=CALLER, secret=a.secret)
    told = h.settle()
    assert told == [Answer(1, 0, 0, 1, (1.0,))]
    assert h.done() == [Answer(CALLER, 0, 1, 1, (2.0,))]
    assert h.ear.durable == {(1, 0): 2, (CALLER, 0): 2}


def test_an_answer_whose_session_ends_waits_for_that_ending() -> None:
    """The step is part of what the store is told to forget."""
    h = Durable()
    (a,) = h.opened("a", attached=False)
    h.call(a, NO_SEQ, [1.0], stream=CALLER)
    h.turn()
    h.submit_close(a)
    h.turn()
    assert h.asked() == ["Write", "End"]
    h.store.step()
    assert h.turn() == []
    assert h.step() == [Answer(CALLER, 0, 0, 1, (1.0,))]


def test_a_caller_is_told_that_the_ending_of_its_session_is_not_written() -> None:
    """It is told so as of any step."""
    h = Durable(always=True)
    h.call_many(["a"], [0], [[1.0]], stream=CALLER, starts=[True], ends=[True])
    h.done(1)
    assert h.asked()[-1] == "End"
    (refused,) = h.step("fail")
    assert isinstance(refused, Refusal) and refused.reason is Reason.STORE_UNAVAILABLE
