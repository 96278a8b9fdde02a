"""Compiled rules do what their lines say: every history has the same outcomes and leaves the same books as in plain Python."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from support.engine import Answer, Refusal
from support.histories import HISTORIES, World
from support.plain import as_plain_python

pytestmark = pytest.mark.skipif("NUMBA_DISABLE_JIT" in os.environ, reason="nothing is compiled: NUMBA_DISABLE_JIT is set")


class Heard(World):
    """Remembers all outcomes in their order."""

    def __init__(self, limits: dict[str, float]) -> None:
        super().__init__(1, **limits)
        self.outcomes: list[Answer | Refusal] = []

    def turn(self, times: int = 1, *, seconds: float = float("-inf")) -> list[Answer | Refusal]:
        outcomes = super().turn(times, seconds=seconds)
        self.outcomes += outcomes
        return outcomes


@settings(max_examples=60, deadline=None)
@given(HISTORIES, st.sampled_from([1, 3, 6, 9]), st.sampled_from([1, 2, 64]), st.sampled_from([8, 24, 1 << 20]))
def test_every_history_is_the_same_in_plain_python(history: list[Any], window: int, max_batch: int, window_bytes: int) -> None:
    """Outcomes to the bit, in their order; and the records of all sessions, with whatever stands in the queue."""
    limits: dict[str, float] = {"window_steps": window, "max_batch": max_batch, "window_bytes": window_bytes}
    with np.errstate(all="ignore"):
        compiled = played(history, limits)
        with as_plain_python() as replaced:
            plain = played(history, limits)
    assert replaced > 50
    assert repr(compiled.outcomes) == repr(plain.outcomes)  # NaN is itself there
    assert [each.tobytes() for each in arrays(compiled)] == [each.tobytes() for each in arrays(plain)]


def arrays(world: World) -> list[NDArray[Any]]:
    """All that compiled rules read and write."""
    found: list[NDArray[Any]] = []
    for each in world.engine.books.records:
        found += [each] if isinstance(each, np.ndarray) else each
    return found


def played(history: list[Any], limits: dict[str, float]) -> Heard:
    """A world after its history."""
    world = Heard(limits)
    world.play(history)
    return world
