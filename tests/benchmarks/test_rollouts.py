"""What is said of rollouts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import Mock

import pytest

from benchmarks import drive, rollouts
from benchmarks.load import Result
from benchmarks.process import HERE, Checkout, Server
from benchmarks.rollouts import row_21
from benchmarks.timing import SMOKE, Effort

ROUNDS = 3


def _run(rate: int) -> Result:
    """One second of so many steps, from a generator that is hardly busy."""
    return Result(rate, rate, 1.0, 0.1, 0.1, 0.001, 0.002, 0.003)


def test_one_rollout_is_held_to_kernel_and_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """The default server's has a target and as many rounds as what has one; a number of rollouts is compared with the kernel."""
    drawn: list[int] = []

    @contextmanager
    def serving(checkout: Checkout, models: Path, *flags: str) -> Iterator[Server]:
        yield Server(flags[-1] if flags else "default", 0)

    def run_kernel(kernel: Callable[..., object], steps: int, effort: Effort) -> Result:
        if kernel is bare_kernel:
            return _run(200)
        kernel()
        return _run(100)

    bare_kernel = Mock()
    monkeypatch.setattr(drive, "default_workers", lambda: 1)
    monkeypatch.setattr(Checkout, "serving", serving)
    monkeypatch.setattr(rollouts, "bind_model", lambda *_: bare_kernel)
    monkeypatch.setattr(rollouts, "BareRollout", lambda *_, **__: Mock(draw=drawn.append))
    monkeypatch.setattr(rollouts, "run_rolling", lambda _: _run(80))
    monkeypatch.setattr(rollouts, "run_kernel", run_kernel)
    lines = row_21(dataclasses.replace(SMOKE, rounds=ROUNDS, side_rounds=1, rollouts=(1, 4)), lambda _: None, HERE)
    assert [(each.case, each.value, each.target, each.bound) for each in lines] == [
        ("1 rollout, against kernel + draws", 0.8, 0.8, "at least"),
        ("4 rollouts", 0.4, None, "at least"),
        ("1 rollout, without workers, against kernel + draws", 0.8, None, "at least"),
    ]
    assert len(drawn) == ROUNDS + 1
    assert (lines[0].beside["kernel steps/s"], lines[0].beside["kernel + draws steps/s"]) == (200, 100)
