"""Medians of interleaved runs: what is compared takes turns, so that a slow minute of the machine hits all of it."""

from __future__ import annotations

import dataclasses
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

    name: str
    rounds: int  # of interleaved runs
    side_rounds: int  # of what is reported without a target: most of rows 2 and 21, rows 16 and 20
    load_seconds: float
    warm_up_seconds: float
    kernel_seconds: float
    batches: tuple[int, ...]  # of row 1
    large_batches: tuple[int, ...]  # of row 1's largest model
    streams: tuple[int, ...]  # of row 2, beside 64
    idle_sessions: int
    idle_rounds: int
    starts: int
    paced_rounds: int  # of rows 6 to 9, 15 and 23
    soak_steps: int
    analyzer_rounds: int  # of rows 17 to 20
    analyzer_window_ms: int  # a run takes three windows or more
    workers: tuple[int, ...]  # of row 20, beside none and as many as the server has by default, at least one
    rollouts: tuple[int, ...]  # at once, of row 21

    def with_rounds(self, rounds: int) -> Effort:
        """Gives as many rounds to whatever has rounds. Raises ValueError if they are none."""
        if rounds < 1:
            raise ValueError(f"expected at least one round, got {rounds}")
        return dataclasses.replace(
            self,
            rounds=rounds,
            side_rounds=rounds,
            idle_rounds=rounds,
            paced_rounds=rounds,
            analyzer_rounds=rounds,
            starts=rounds,
        )


FULL = Effort(
    name="full",
    rounds=5,
    side_rounds=3,
    load_seconds=1.5,
    warm_up_seconds=0.4,
    kernel_seconds=0.1,
    batches=(1, 16, 64, 256, 1000),
    large_batches=(1, 8, 128),
    streams=(1, 16, 256),
    idle_sessions=100_000,
    idle_rounds=9,
    starts=5,
    paced_rounds=5,
    soak_steps=10_000_000,
    analyzer_rounds=3,
    analyzer_window_ms=400,
    workers=(1, 2, 3),
    rollouts=(1, 16, 64, 256),
)
QUICK = Effort(
    name="quick",
    rounds=2,
    side_rounds=1,
    load_seconds=0.4,
    warm_up_seconds=0.2,
    kernel_seconds=0.05,
    batches=(1, 64, 1000),
    large_batches=(128,),
    streams=(),
    idle_sessions=100_000,
    idle_rounds=2,
    starts=2,
    paced_rounds=1,
    soak_steps=500_000,
    analyzer_rounds=1,
    analyzer_window_ms=200,
    workers=(),
    rollouts=(1, 64),
)
SMOKE = Effort(  # only whether it works: no figures
    name="smoke",
    rounds=1,
    side_rounds=1,
    load_seconds=0.1,
    warm_up_seconds=0.02,
    kernel_seconds=0.002,
    batches=(1, 16),
    large_batches=(1,),
    streams=(),
    idle_sessions=300,
    idle_rounds=1,
    starts=1,
    paced_rounds=1,
    soak_steps=100_000,
    analyzer_rounds=1,
    analyzer_window_ms=100,
    workers=(),
    rollouts=(1, 4),
)


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


def serial_bounds(echo: Sequence[float], kernel: Sequence[float]) -> list[float]:
    """Computes, round by round, the highest rate of a server that receives and sends as fast as the echo and computes as fast as
    the bare kernel, one after the other, from the rates of the two."""
    return [1 / (1 / alone + 1 / computing) for alone, computing in zip(echo, kernel, strict=True)]
