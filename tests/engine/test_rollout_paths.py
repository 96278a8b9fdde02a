"""Rollouts of several paths: quantiles over sample paths, each of which is what a rollout of one path would draw."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from stepstream_server.engine.ports import Commit, Computed, Ints, RolloutEnding, Tensor
from stepstream_server.engine.rollouts.sampling import Draws, chances
from stepstream_server.errors import Reason
from stepstream_server.spec import CellModel, CellSpec, HeadSpec, ModelSpec, StateSpec, TensorSpec
from support.backend import FakeBackend, faults_of
from support.engine import Harness, Refusal
from support.rollouts import CALLER

LEVELS = (0.1, 0.5, 0.9)
SPREAD = np.array([-2.0, -0.5, 0.0, 1.0, 3.0], np.float32)  # of the predictions around half the running sum
HEAD = HeadSpec("y", "quantiles", 5, levels=(0.1, 0.3, 0.5, 0.7, 0.9), predicts="x")


def prediction(total: Any) -> NDArray[np.float32]:
    """Quantiles of the next value after values of this sum."""
    quantiles: NDArray[np.float32] = np.float32(0.5) * np.asarray(total, np.float32)[..., None] + SPREAD
    return quantiles


class WanderingBackend(FakeBackend):
    """A model of one number whose next value is about half the sum of all. A value above `poison` makes its step non-finite."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.states = np.zeros((self.slots, 6), np.float32)

    def read(self, slots: Ints) -> dict[str, Tensor]:
        return {"sum": self.states[slots, :1], "last.y": self.states[slots, 1:]}

    def launch(self, function: str, slots: Ints, inputs: tuple[Tensor, ...], length: int) -> Any:
        assert len(set(slots.tolist())) == len(slots)
        assert set(slots.tolist()).isdisjoint(self.free)
        self.launches.append((len(slots), length))
        sums = self.states[slots, :1] + np.cumsum(inputs[0][..., 0], axis=1, dtype=np.float32)
        outputs = prediction(sums)
        outputs[inputs[0][..., 0] > self.poison] = np.inf
        return slots, sums, outputs

    def collect(self, ticket: Any) -> Computed:
        slots, sums, outputs = ticket
        finite = np.isfinite(outputs).all(axis=(1, 2))
        self.states[slots[finite]] = np.concatenate([sums[finite, -1:], outputs[finite, -1]], axis=1)
        return Computed((outputs,), None if finite.all() else faults_of(finite))


class Wandering(Harness):
    """Sessions and rollouts of that model."""

    spec = ModelSpec(
        name="wanderer",
        version=1,
        inputs=(TensorSpec("x", "float32", (1,)),),
        outputs=(TensorSpec("y", "float32", (5,)),),
        states=(StateSpec("sum", (1,)), StateSpec("last.y", (5,))),
        computation=CellModel(CellSpec("rnn", 1, 1, 1)),
        heads=(HEAD,),
        fingerprint="2" * 64,
    )

    def __init__(self, paths: int = 40, max_batch: int = 1024, poison: float = float("nan"), **settings: float) -> None:
        """paths: that one caller may have."""
        backend = WanderingBackend(slots=4 + 2 * paths, max_batch=max_batch, poison=poison)
        super().__init__(backend, capacity=4, max_rollout_paths=2 * paths, **settings)

    def quantiles(self, levels: int = len(LEVELS)) -> NDArray[np.float32]:
        """What the caller was told: [steps, levels]."""
        return np.array(self.drawn(), np.float32).reshape(-1, levels)


def one_path(prompt: list[float], steps: int, seed: int, path: int, temperature: float) -> list[float]:
    """The draws of a path by themselves."""
    draws, row, total = Draws(HEAD, 1), np.zeros(1, np.int64), np.float32(0)
    for value in prompt:
        total += np.float32(value)
    drawn = []
    for seq in range(len(prompt), len(prompt) + steps):
        draws._temperature[0] = temperature
        draws.last[0] = prediction(total)
        draws._chances[0, 0], draws._first[0] = chances(seed, seq, path, 1)[0], seq
        drawn.append(float(draws.draw(row, np.array([seq]))[0, 0]))
        total += np.float32(drawn[-1])
    return drawn


@pytest.mark.parametrize("max_batch", [1, 3, 7, 1024])
@pytest.mark.parametrize("fed_before", [True, False])
def test_quantiles_are_those_of_the_paths(max_batch: int, fed_before: bool) -> None:
    """Each path as it would be alone, however many fit into a launch; the prompt is fed once."""
    h = Wandering(max_batch=max_batch)
    (a,) = h.open()
    prompt = [1.0, -2.0, 0.5]
    if fed_before:
        h.send([a], [0], [prompt])
        h.settle()
    h.backend.launches.clear()
    settings: dict[str, Any] = {"seed": 21, "temperature": 0.8, "paths": 20, "levels": LEVELS, "commit": Commit.NONE}
    h.generate(a, 6, [] if fed_before else prompt, **settings)
    h.settle()
    paths = np.array([one_path(prompt, 6, 21, path, 0.8) for path in range(20)], np.float32)
    assert np.array_equal(h.quantiles(), np.quantile(paths, LEVELS, axis=0).T.astype(np.float32))
    assert h.ending() is RolloutEnding.LENGTH
    assert [piece.first for piece in h.ear.pieces[CALLER]] == [3, 4, 5, 6, 7, 8]
    assert [piece.next for piece in h.ear.pieces[CALLER]] == [4, 5, 6, 7, 8, 9]
    assert sum(batch * length for batch, length in h.backend.launches) == 20 * 6 + (0 if fed_before else 3)
    assert max(batch for batch, _ in h.backend.launches) <= max_batch
    assert len(h.backend.free) == h.backend.slots - 1
    assert h.get(a.id).next_seq == (3 if fed_before else 0)
    assert h.engine.stats().rollout_slots == 0


def test_slots_are_held_for_every_path_and_come_back() -> None:
    """Ended normally, or by a caller that leaves in the midst of the prompt or of the draws."""
    for launches in range(17):  # one for the prompt, then three steps of five paths
        h = Wandering(max_batch=1)
        h.generate(None, 3, [1.0, 2.0], temperature=1.0, paths=5, levels=LEVELS)
        for _ in range(launches):
            h.turn()
        assert h.engine.stats().rollout_slots == (0 if launches in (0, 16) else 5)
        h.hang_up(CALLER)
        h.settle()
        assert len(h.backend.free) == h.backend.slots
        assert len(h.engine._rollouts._free) == 80
        assert h.engine._rollouts.prompted == 0


def test_paths_go_together_beside_the_steps_of_others() -> None:
    """A rollout of one path and a session's steps share their launches."""
    h = Wandering()
    (a,) = h.open()
    h.generate(None, 4, [1.0], stream=501, temperature=1.0, paths=6, levels=(0.5,))
    h.generate(None, 4, [1.0], stream=502, temperature=1.0, seed=5)
    h.settle()
    h.backend.launches.clear()
    h.generate(None, 4, [1.0], stream=503, temperature=1.0, paths=6, levels=(0.5,))
    h.generate(None, 4, [1.0], stream=504, temperature=1.0, seed=5)
    h.call(a, 0, [1.0], stream=9, secret=a.secret)
    h.settle()
    assert h.backend.launches[-4:] == [(7, 1)] * 4
    assert h.drawn(503) == h.drawn(501)
    assert h.drawn(504) == h.drawn(502) == one_path([1.0], 4, 5, 0, 1.0)


def test_those_that_are_alike_are_told_apart() -> None:
    """Rollouts whose quantiles are computed together hear what they hear alone, each of its own paths and levels."""
    kinds = [(6, (0.5,)), (6, LEVELS), (3, LEVELS), (6, LEVELS)]
    wanted: list[dict[str, Any]] = [
        {"stream": 501 + number, "seed": number, "temperature": 1.0, "paths": paths, "levels": levels}
        for number, (paths, levels) in enumerate(kinds)
    ]
    together, alone = Wandering(), Wandering()
    for each in wanted:
        together.generate(None, 4, [1.0], **each)
    together.settle()
    for each in wanted:
        alone.generate(None, 4, [1.0], **each)
        alone.settle()
        stream, levels = each["stream"], each["levels"]
        assert len(together.drawn(stream)) == 4 * len(levels)
        assert together.drawn(stream) == alone.drawn(stream)
    assert together.drawn(502) != together.drawn(504)


def test_quantiles_of_many_are_one_operation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a thousand forecasts by a few paths would take tens of milliseconds of every turn, for which all others wait."""
    operations = []
    quantile = np.quantile

    def counted(*arguments: Any, **options: Any) -> Any:
        operations.append(arguments)
        return quantile(*arguments, **options)

    monkeypatch.setattr(np, "quantile", counted)
    h = Wandering()
    for number in range(20):
        h.generate(None, 5, [1.0], stream=501 + number, temperature=1.0, paths=2, levels=LEVELS)
    h.settle()
    assert len(operations) == 5


@pytest.mark.parametrize("max_batch", [1, 4, 1024])
def test_several_paths_fail_as_one(max_batch: int) -> None:
    """One of them would not be finite: nothing more is told, the caller hears it once, and others never notice."""
    settings: dict[str, Any] = {"temperature": 1.5, "paths": 12, "levels": LEVELS, "seed": 4}
    paths = np.array([one_path([1.0], 12, 4, path, 1.5) for path in range(12)])
    steps_before = 3
    poison = float(np.sort(paths[:, :steps_before].max(axis=1))[-1])
    first_bad = int((paths > poison).any(axis=0).argmax())
    assert first_bad >= steps_before
    assert 0 < (paths[:, first_bad] > poison).sum() < 12
    h = Wandering(poison=poison, max_batch=max_batch)
    (a,) = h.open()
    h.send([a], [0], [[-1.0, -1.0]])
    h.settle()
    h.generate(a, 12, stream=501, commit=Commit.END)
    h.generate(None, 12, [1.0], **settings)
    outcomes = h.settle()
    assert [(each.stream, each.reason) for each in outcomes if isinstance(each, Refusal)] == [(CALLER, Reason.NON_FINITE_STATE)]
    assert h.ending() is None
    assert np.array_equal(h.quantiles(), np.quantile(paths[:, :first_bad], LEVELS, axis=0).T.astype(np.float32))
    assert h.drawn(501) == one_path([-1.0, -1.0], 12, 0, 0, 0.0)
    assert h.get(a.id).next_seq == 14
    assert len(h.backend.free) == h.backend.slots - 1
    assert len(h.engine._rollouts._free) == 80


@pytest.mark.parametrize("steps", [1, 2])
def test_paths_that_fail_at_their_last_step(steps: int) -> None:
    """The caller hears of the failure alone, not that all is drawn."""
    paths = np.array([one_path([1.0], steps, 4, path, 1.5) for path in range(12)])
    poison = float(np.sort(paths[:, -1])[-2])
    h = Wandering(poison=poison)
    h.generate(None, steps, [1.0], temperature=1.5, paths=12, levels=LEVELS, seed=4)
    outcomes = h.settle()
    assert [each.reason for each in outcomes if isinstance(each, Refusal)] == [Reason.NON_FINITE_STATE]
    assert h.ending() is None
    assert len(h.drawn()) < steps * len(LEVELS)


def test_a_prompt_that_fails_fails_all_paths() -> None:
    """Before any of them has drawn."""
    h = Wandering(poison=100.0)
    h.generate(None, 5, [1.0, 500.0, 1.0], temperature=1.0, paths=12, levels=LEVELS)
    outcomes = h.settle()
    assert [each.reason for each in outcomes if isinstance(each, Refusal)] == [Reason.NON_FINITE_STATE]
    assert h.drawn() == []
    assert len(h.backend.free) == h.backend.slots
    assert h.engine._rollouts.prompted == 0
