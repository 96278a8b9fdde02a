"""The deeds of sessions: scripts, decided by a seed and a number, so that a disturbed and an undisturbed run do the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Outputs = Literal["all", "last", "none"]

READINGS, WORDS = "ecg", "memory"  # shipped models: of an electrocardiogram's readings, and of a story's words
GROUP = 8  # sessions that are stepped together
IN_FLIGHT = 8  # single steps at once, at least
_VOCABULARY = 171  # of WORDS
_SURE = 60.0  # seconds of a timeout that does not fire
_TEXTS = ("I grew up in Pakistan.", "My father once flew to Spain.", "We ate soup and bread. I speak fluent")


@dataclass(frozen=True, slots=True)
class Burst:
    """Single steps, all in flight at once."""

    steps: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """Steps in one call."""

    steps: int
    outputs: Outputs


@dataclass(frozen=True, slots=True)
class Reset:
    """Back to the initial state."""

    steps: int = 1  # it takes a number as a step does


@dataclass(frozen=True, slots=True)
class Timed:
    """Single steps in flight, behind them some more with a timeout, and behind these one whose answer tells what was applied."""

    steps: int  # behind a burst, with the timeout, in one call
    timeout: float  # seconds
    before: int = IN_FLIGHT


@dataclass(frozen=True, slots=True)
class TakeOver:
    """Single steps in flight at one client, while another takes the session over and repeats what the first had not heard."""

    steps: int


@dataclass(frozen=True, slots=True)
class Roll:
    """A rollout that commits each step."""

    prompt: str
    steps: int  # drawn at most
    seed: int
    stop: str


Act = Burst | Chunk | Reset | Timed | TakeOver | Roll


@dataclass(frozen=True, slots=True)
class Script:
    """One session's life, or that of a group of them."""

    model: str
    sessions: int  # 1, or those of a group
    start: float  # share of a run's time after which it is opened
    seed: int  # of its inputs
    acts: Sequence[Act]

    @property
    def steps(self) -> int:
        """Steps of each session, if all that is planned is applied."""
        return sum(_length(act) for act in self.acts)


def script(seed: int, number: int, steps: int) -> Script:
    """The script of this number, with about so many steps for each of its sessions.

    Of ten, two are of a model of words and one is of a group.
    """
    chance = np.random.default_rng((seed, number))
    kind = number % 10
    model, sessions, makers = READINGS, 1, _LONE
    if kind in (3, 7):
        model, makers = WORDS, _WORDS
    elif kind == 9:
        sessions, makers = GROUP, _GROUP
    acts: list[Act] = []
    while sum(map(_length, acts)) < steps:
        acts.append(makers[int(chance.integers(len(makers)))](chance))
    return Script(model, sessions, float(chance.uniform(0, 0.05)), int(chance.integers(1 << 32)), acts)


def inputs(script: Script, act: int, steps: int) -> NDArray[np.float32] | NDArray[np.int64]:
    """Inputs of an act: [steps] of words, else [steps, 1]; of a group [sessions, steps, 1]."""
    chance = np.random.default_rng((script.seed, act))
    if script.model == WORDS:
        return chance.integers(_VOCABULARY, size=steps)
    shape = (steps, 1) if script.sessions == 1 else (script.sessions, steps, 1)
    return chance.standard_normal(shape, np.float32)


def _length(act: Act) -> int:
    """Steps that an act takes, if all are applied; of a rollout about so many."""
    match act:
        case Timed(steps=steps, before=before):
            return before + steps + 1
        case Roll(prompt=prompt, steps=steps):
            return len(prompt.split()) + steps
        case _:
            return act.steps


def _burst(chance: np.random.Generator) -> Act:
    return Burst(int(chance.integers(IN_FLIGHT, 2 * IN_FLIGHT + 1)))


def _chunk(chance: np.random.Generator) -> Act:
    kept: Sequence[Outputs] = ("all", "last", "none")
    return Chunk(int(chance.integers(1, 25)), kept[int(chance.integers(3))])


def _reset(chance: np.random.Generator) -> Act:
    return Reset()


def _timed(chance: np.random.Generator) -> Act:
    """Most of them fire, before the step has been sent or while it is on its way."""
    within = _SURE if chance.random() < 0.1 else float(10 ** chance.uniform(-4, -1.5))
    return Timed(int(chance.integers(1, 6)), within)


def _take_over(chance: np.random.Generator) -> Act:
    return TakeOver(int(chance.integers(IN_FLIGHT, 2 * IN_FLIGHT + 1)))


def _roll(chance: np.random.Generator) -> Act:
    prompt = _TEXTS[int(chance.integers(len(_TEXTS)))]
    stop = "." if chance.random() < 0.25 else ""
    return Roll(prompt, int(chance.integers(8, 65)), int(chance.integers(1 << 32)), stop)


_Maker = Callable[[np.random.Generator], Act]
_GROUP: Sequence[_Maker] = (_burst, _burst, _burst, _chunk, _chunk, _reset)
_LONE: Sequence[_Maker] = (*_GROUP, _timed, _take_over)
_WORDS: Sequence[_Maker] = (*_LONE, _roll, _roll, _roll)
