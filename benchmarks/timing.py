"""Medians of interleaved runs: what is compared takes turns, so that a slow minute of the machine hits all of it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")

_LEAST_CALLS = 3


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured. Seconds are per run."""

    rounds: int  # of interleaved runs
    load_seconds: float
    warm_up_seconds: float
    kernel_seconds: float
    batches: tuple[int, ...]  # of row 1
    streams: tuple[int, ...]  # of row 2, beside 64
    idle_sessions: int
    idle_rounds: int
    starts: int
    paced_rounds: int  # of rows 6 to 9, 15 and 16
    soak_steps: int
    analyzer_rounds: int  # of rows 17 to 19
    analyzer_window_ms: int  # a run takes three windows or more


FULL = Effort(7, 1.5, 0.4, 0.1, (1, 16, 64, 256, 1000), (1, 16, 256), 100_000, 9, 5, 5, 10_000_000, 3, 400)
QUICK = Effort(3, 0.4, 0.2, 0.05, (1, 64, 1000), (), 100_000, 3, 2, 1, 1_000_000, 1, 200)
SMOKE = Effort(1, 0.1, 0.02, 0.002, (1, 16), (), 300, 1, 1, 1, 100_000, 1, 150)  # only whether it works: no figures


def interleave(runs: Mapping[str, Callable[[], T]], rounds: int) -> dict[str, list[T]]:
    """Each run once per round, every other round backwards."""
    results: dict[str, list[T]] = {name: [] for name in runs}
    for turn in range(rounds):
        for name in list(runs)[:: -1 if turn % 2 else 1]:
            results[name].append(runs[name]())
    return results


def median_seconds(run: Callable[[], object], seconds: float) -> float:
    """Of one call, over as many as fit."""
    times: list[float] = []
    end = time.perf_counter() + seconds
    while (begun := time.perf_counter()) < end or len(times) < _LEAST_CALLS:
        run()
        times.append(time.perf_counter() - begun)
    return statistics.median(times)


def ratios(values: Sequence[float], others: Sequence[float]) -> list[float]:
    """Round by round."""
    return [value / other for value, other in zip(values, others, strict=True)]
