"""Rollouts of a real network: the same bits as steps that a caller sends, however launches, chunks and commits cut them."""

from __future__ import annotations

from typing import Any, Literal, cast

import pytest

from stepstream_server import backends
from stepstream_server.config import BackendSettings
from stepstream_server.engine.ports import Commit, Opened, RolloutEnding
from stepstream_server.spec import HeadSpec
from support.engine import Answer, Harness
from support.models import random_model
from support.rollouts import CALLER

TOKENS = 40
FORECASTER = HeadSpec("y", "quantiles", 3, levels=(0.1, 0.5, 0.9), predicts="x")
PROMPT = [number * 7 % TOKENS for number in range(23)]
SETTINGS: dict[str, Any] = {"seed": 12, "temperature": 0.9}


class Real(Harness):
    """An engine over ONNX Runtime, or torch. seconds: what each launch seems to take."""

    def __init__(
        self, *, tokens: bool = True, max_batch: int = 64, seconds: float = 0.0, kind: Literal["onnx", "torch"] = "onnx"
    ) -> None:
        if tokens:
            self.spec, weights = random_model(inputs=8, hidden=32, layers=2, outputs=TOKENS, tokens=TOKENS, seed=3)
        else:
            self.spec, weights = random_model(inputs=1, hidden=24, heads=[FORECASTER], seed=4)
        backend = backends.build(self.spec, weights, BackendSettings(kind=kind, threads=1), slots=64, max_batch=max_batch)
        super().__init__(cast(Any, backend), capacity=16, max_rollout_paths=48)
        self.engine.clock = lambda: self._tick(seconds)

    def _tick(self, seconds: float) -> float:
        self.clock.advance(seconds)
        return self.clock()

    def state(self, session: Opened) -> dict[str, bytes]:
        """The bytes of a session's state."""
        states = self.backend.read(self.engine.books.table.slot[[session.session]])
        return {name: values.tobytes() for name, values in states.items()}

    def pushed(self, values: list[Any], *, cuts: int) -> tuple[dict[str, bytes], list[float]]:
        """The state, and the first number of each output, of a new session that is sent the values, so many at once."""
        (session,) = self.open(first_handle=99)
        answers: list[float] = []
        for first in range(0, len(values), cuts):
            self.send([session], [first], [values[first : first + cuts]], handles=[99])
            answers += [number for each in self.settle() if isinstance(each, Answer) for number in each.sums]
        state = self.state(session)
        self.detach(session, handle=99, close=True)
        self.turn()
        return state, answers


@pytest.mark.parametrize("seconds", [0.0, 0.0015, 1.0], ids=["whole prompts", "some steps", "step by step"])
def test_commits_and_steps_of_a_caller_give_the_same_bits(seconds: float) -> None:
    """END and EACH leave what pushing the same tokens leaves, beside others and with the prompt cut in any way; outputs too."""
    h = Real(seconds=seconds)
    end, each, once, busy = h.open(4)
    h.generate(end, 30, PROMPT, stream=501, outputs=True, **SETTINGS)
    h.generate(each, 30, PROMPT, stream=502, commit=Commit.EACH, outputs=True, **SETTINGS)
    h.generate(once, 30, PROMPT, stream=503, commit=Commit.NONE, **SETTINGS)
    h.generate(None, 40, [5, 6], stream=504, seed=1, temperature=1.3)
    step = 0
    while h.engine.busy or not step:
        h.send([busy], [step], [[step % TOKENS]], handles=[3], acked=[step])
        h.turn()
        step += 1
    assert h.ending(501) is h.ending(502) is h.ending(503) is RolloutEnding.LENGTH
    drawn = h.drawn(501)
    assert len(set(drawn)) > 5
    assert drawn == h.drawn(502) == h.drawn(503)
    expected, outputs = h.pushed(PROMPT + drawn, cuts=1)
    assert h.state(end) == h.state(each) == expected
    assert h.pushed(PROMPT + drawn, cuts=13)[0] == expected
    for stream in (501, 502):
        told = [row[0] for piece in h.ear.pieces[stream] for row in piece.outputs[0]]
        assert told == outputs[len(PROMPT) :]
    state, _ = h.pushed([number % TOKENS for number in range(step)], cuts=64)
    assert h.state(busy) == state


def test_a_rollout_is_the_same_alone_and_among_many() -> None:
    """Beside 20 others that come and go, in launches of any size."""
    alone = Real()
    alone.generate(None, 40, PROMPT, **SETTINGS)
    alone.settle()
    for max_batch in (5, 64):
        h = Real(max_batch=max_batch)
        h.generate(None, 40, PROMPT, **SETTINGS)
        for other in range(20):
            h.generate(None, 3 + other, PROMPT[other:] or [1], stream=600 + other, seed=other, temperature=1.0)
            h.turn()
        h.settle()
        assert h.drawn() == alone.drawn()


def test_values_are_fed_as_they_are_told() -> None:
    """A forecast's float32 values, pushed by a caller, leave the same bits."""
    h = Real(tokens=False)
    (a,) = h.open()
    h.generate(a, 25, [0.5, -0.25, 1.0], seed=8, temperature=0.7)
    h.settle()
    assert h.pushed([0.5, -0.25, 1.0, *h.drawn()], cuts=4)[0] == h.state(a)


def test_paths_are_the_same_however_launches_cut_them() -> None:
    """Quantiles to the bit; and one path of several is the rollout of one."""
    told = []
    for max_batch in (2, 7, 64):
        h = Real(tokens=False, max_batch=max_batch)
        h.generate(None, 20, [0.5, 1.0], seed=8, temperature=1.0, paths=15, levels=(0.1, 0.5, 0.9))
        h.settle()
        told.append(h.drawn())
    assert told[0] == told[1] == told[2]
    assert len(told[0]) == 60
    h = Real(tokens=False)
    h.generate(None, 20, [0.5, 1.0], stream=CALLER, seed=8, temperature=1.0)
    h.generate(None, 1, [0.5, 1.0], stream=501, seed=8, temperature=1.0, paths=2, levels=(1e-9, 1 - 1e-9))
    h.settle()
    low, high = h.drawn(501)
    assert min(abs(h.drawn()[0] - low), abs(h.drawn()[0] - high)) < 1e-6


def test_the_backend_for_devices_rolls_out_too() -> None:
    """torch copies states on its device, reads a last output from there, and gives texts the same bits alone and among others."""
    alone, among = Real(kind="torch"), Real(kind="torch")
    (session,), (same,) = alone.open(), among.open()
    for number in range(9):
        among.generate(None, 30, [number, 3], stream=600 + number, seed=number, temperature=1.0)
    for h, one in ((alone, session), (among, same)):
        h.generate(one, 12, PROMPT, stream=501, **SETTINGS)
        h.settle()
        h.generate(one, 12, stream=502, commit=Commit.NONE, **SETTINGS)
        h.settle()
    assert len(set(alone.drawn(501))) > 3
    assert (alone.drawn(501), alone.drawn(502)) == (among.drawn(501), among.drawn(502))
    assert alone.state(session) == among.state(same)
