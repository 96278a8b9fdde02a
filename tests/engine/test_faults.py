"""Steps that a launch could not apply: the rows at fault are told why and quarantined, the others are answered."""

from __future__ import annotations

from dataclasses import replace

import pytest

from stepstream_server.engine.ports import Commit, Ints, RolloutEnding
from stepstream_server.errors import Reason
from support.backend import FakeBackend, counter_spec
from support.engine import Answer, Harness, Refusal

POISON, VENOM = 13.0, 4.0  # makes the state infinite; makes the model raise an error


@pytest.fixture
def h() -> Harness:
    """A model that both may happen to."""
    return Harness(FakeBackend(poison=POISON, venom=VENOM))


def test_each_row_hears_its_own_fault(h: Harness) -> None:
    """In one launch: an error of the model, a number that is none, and a step that is well."""
    failed, infinite, well = opened = h.open(3)
    h.send(opened, [0, 0, 0], [[VENOM], [POISON], [1.0]])
    assert h.settle() == [
        Answer(1, 2, 0, 1, (1.0,)),
        Refusal(1, 0, 0, 1, Reason.MODEL_FAILED, 0),
        Refusal(1, 1, 0, 1, Reason.NON_FINITE_STATE, 0),
    ]
    assert h.backend.launches == [(3, 1)]
    assert [h.get(each.id).quarantined for each in (failed, infinite, well)] == [True, True, False]
    message = "the model raised an error at one of the 1 steps from 0 on: none was applied, "
    assert h.ear.messages[0] == message + "the session is quarantined until it is reset"


def test_a_session_at_which_the_model_failed_goes_on_behind_a_reset(h: Harness) -> None:
    """Until then nothing is accepted, and what was applied before stays."""
    (a,) = h.open()
    h.send([a], [0], [[1.0]])
    h.send([a], [1], [[2.0, VENOM]])
    h.send([a], [3], [[1.0]])
    assert h.settle() == [
        Answer(1, 0, 0, 1, (1.0,)),
        Refusal(1, 0, 1, 2, Reason.MODEL_FAILED, 1),
        Refusal(1, 0, 3, 1, Reason.SEQUENCE_MISMATCH, 1),
    ]
    h.send([a], [1], [[1.0]])
    assert h.settle() == [Refusal(1, 0, 1, 1, Reason.SESSION_QUARANTINED, 1)]
    h.reset(a, 1)
    h.send([a], [2], [[5.0]])
    assert h.settle()[-1] == Answer(1, 0, 2, 1, (5.0,))


@pytest.mark.parametrize("commit", list(Commit))
def test_a_rollout_at_which_the_model_fails_says_so(h: Harness, commit: Commit) -> None:
    """The draws before it stay told. A session that each step commits to is quarantined, any other is as it was."""
    (a,) = h.open()
    h.send([a], [0], [[1.0]])
    h.settle()
    h.generate(a, 10, commit=commit)
    (refused,) = [each for each in h.settle() if isinstance(each, Refusal)]
    assert (refused.reason, h.drawn()) == (Reason.MODEL_FAILED, [1.0, 2.0])  # the next draw is 4
    assert h.ear.messages == ["the model raised an error at a step of the rollout"]
    assert h.reports.failures == {Reason.MODEL_FAILED: 1}
    assert h.get(a.id).quarantined == (commit is Commit.EACH)
    assert h.get(a.id).next_seq == (3 if commit is Commit.EACH else 1)


class Ranged(Harness):
    """A counting model whose input is at most 3 away from 0, and whose sum begins at 7."""

    spec = replace(
        counter_spec(),
        inputs=(replace(counter_spec().inputs[0], range=3.0),),
        states=(replace(counter_spec().states[0], initial=(7.0,)), counter_spec().states[1]),
    )

    def __init__(self) -> None:
        super().__init__(Beginning())


class Beginning(FakeBackend):
    """States begin at [7, 0]."""

    def zero(self, slots: Ints) -> None:
        self.states[slots] = [7, 0]


def test_draws_stay_within_the_range_of_the_input() -> None:
    """A rollout feeds nothing that would be refused of a caller."""
    h = Ranged()
    (a,) = h.open()
    h.send([a], [0], [[-9.0 + 3.0]])
    assert [each.reason for each in h.settle() if isinstance(each, Refusal)] == [Reason.INPUT_OUT_OF_RANGE]
    h.send([a], [0], [[-3.0, -3.0]])
    h.settle()  # the sum is 1
    h.generate(a, 5)
    h.settle()
    assert (h.drawn(), h.ending()) == ([1.0, 2.0, 3.0, 3.0, 3.0], RolloutEnding.LENGTH)


def test_a_state_as_it_begins_has_no_last_output() -> None:
    """Its numbers do not matter: a state of zeros that steps have led to has one."""
    h = Ranged()
    fresh, moved = h.open(2)
    h.send([moved], [0], [[-3.0, -3.0, -1.0]], handles=[1])
    h.settle()
    request = h.generate(fresh, 1)
    h.turn()
    assert h.ear.replies[request].field == "prompt"
    h.generate(moved, 1)
    h.settle()
    assert h.drawn() == [0.0]


def test_a_model_of_several_inputs_is_not_rolled_out() -> None:
    """Its output predicts one of them alone."""
    spec = counter_spec()
    assert spec.rollout_head is spec.heads[0]
    assert replace(spec, inputs=(*spec.inputs, replace(spec.inputs[0], name="other"))).rollout_head is None
