"""When steps are due, and what became of each: the part of an open loop that must not depend on how the server does.

Times are drawn before anything is sent. A step's time counts from when it was due, never from when it was sent, so that a
server that stalls is charged for every step that it kept waiting, the generator's own lateness included.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_LAG_SHARE = 0.25  # of the p99 that the generator's own p99 of lateness may be
ANSWERED, WAITING, GIVEN_UP, REFUSED = 0, 1, 2, 3  # what became of a step; waiting: nothing yet


@dataclass(frozen=True, slots=True)
class Schedule:
    """Due times, ascending, in seconds from the beginning, each with the stream that it is for: [n]."""

    due: Floats
    streams: Ints
    begin: float  # due from here on is measured; what comes before warms up
    end: float  # due from here on only keeps the load up while what is measured is answered

    @property
    def measured(self) -> NDArray[np.bool_]:
        """Which steps count: [n]."""
        return (self.due >= self.begin) & (self.due < self.end)


def poisson(rate: float, streams: int, warm_up: float, seconds: float, tail: float, seed: int) -> Schedule:
    """Arrivals of `rate` steps per second over all streams: independent Poisson processes of equal rates, seconds each.

    Given how many arrivals a Poisson process has, their times are independent and uniform.
    """
    rng = np.random.default_rng(seed)
    whole = warm_up + seconds + tail
    count = int(rng.poisson(rate * whole))
    due = np.sort(rng.uniform(0.0, whole, count))
    return Schedule(due, rng.integers(0, streams, count), warm_up, warm_up + seconds)


def periodic(period: float, streams: int, warm_up: float, seconds: float, tail: float, seed: int) -> Schedule:
    """Arrivals at a steady beat: one each `period` seconds on every stream, which have begun at moments of their own."""
    begun = np.random.default_rng(seed).uniform(0.0, period, streams)
    beats = np.arange(int((warm_up + seconds + tail) / period))
    due = (begun + period * beats[:, None]).ravel()
    order = np.argsort(due, kind="stable")
    return Schedule(due[order], order % streams, warm_up, warm_up + seconds)


@dataclass(frozen=True, slots=True)
class Figures:
    """What became of the measured steps. Times in seconds from when a step was due."""

    offered: int
    in_time: int  # answered by their deadlines
    late: int  # answered after them
    refused: int
    given_up: int  # never sent: the server took no more, or there was too little time left
    unanswered: int
    p50: float  # of those answered
    p99: float
    p999: float
    lag_p50: float  # how late the generator itself was to turn to a step
    lag_p99: float

    @property
    def behind(self) -> bool:
        """Whether the generator kept its schedule too badly for the times to be the server's."""
        return self.lag_p99 > _LAG_SHARE * self.p99


class Log:
    """What became of each step of a schedule, and how late the generator itself was."""

    def __init__(self, schedule: Schedule, deadline: float) -> None:
        self._schedule = schedule
        self._deadline = deadline  # seconds after due by which an answer counts; inf: whenever
        self.due: list[float] = schedule.due.tolist()
        self.streams: list[int] = schedule.streams.tolist()  # beside it
        self._taken: list[float] = [np.inf] * len(self.due)
        self._ended: list[float] = [np.inf] * len(self.due)
        self._fate: list[int] = [WAITING] * len(self.due)
        self.open = len(self.due)  # steps of which nothing has become yet

    def take(self, step: int, now: float) -> None:
        """The generator turns to a step, at best when it is due."""
        self._taken[step] = now

    def end(self, step: int, now: float, fate: int) -> None:
        """A step has its outcome."""
        self._ended[step] = now
        self._fate[step] = fate
        self.open -= 1

    def figures(self) -> Figures:
        """Of the measured steps."""
        measured = self._schedule.measured
        due, fate = self._schedule.due[measured], np.array(self._fate, np.int64)[measured]
        ended, taken = np.array(self._ended)[measured], np.array(self._taken)[measured]
        took, lag = (ended - due)[fate == ANSWERED], taken - due
        in_time = int(np.count_nonzero(took <= self._deadline))
        return Figures(
            offered=len(due),
            in_time=in_time,
            late=len(took) - in_time,
            refused=int(np.count_nonzero(fate == REFUSED)),
            given_up=int(np.count_nonzero(fate == GIVEN_UP)),
            unanswered=int(np.count_nonzero(fate == WAITING)),
            p50=quantile(took, 0.5),
            p99=quantile(took, 0.99),
            p999=quantile(took, 0.999),
            lag_p50=quantile(lag, 0.5),
            lag_p99=quantile(lag, 0.99),
        )


def quantile(values: Floats, share: float) -> float:
    """The least value that at least `share` of the values do not exceed; 0 of none."""
    return float(np.quantile(values, share, method="inverted_cdf")) if len(values) else 0.0
