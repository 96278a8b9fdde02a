"""The scheduler: which of the waiting steps one turn runs, in which launches.

Single steps first: every waiting session's next step in one launch of length 1. Then chunk steps in groups of equal length
within a time budget, those first that have waited longest. Rows of different lengths are never padded into one launch:
measured, one row of 64 steps beside 63 single steps costs 5.1 ms padded against 0.6 ms split (H = 128).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stepstream_server.engine.ports import Ints, Launch

_LAUNCH_STEPS = 16_384  # rows x steps of one launch: bounds the kernel's scratch memory (4 H floats each, 33 MB at H = 128)
MEASURED_STEPS = 8  # of launches that only measure
_FIRST_GUESS = 8  # steps of a first chunk launch, before anything has been measured
_LEAST_SECONDS = 1e-7  # of a step: what a clock that did not move is taken for
_SMOOTHING = 0.25  # weight of the newest measurement: follows a change of load within a few launches, ignores one hiccup


@dataclass(frozen=True, slots=True)
class Group:
    """One launch: positions in the backlog, and the steps that each row takes."""

    positions: Ints
    length: int


class Pace:
    """How long one step of a batch takes, learnt per power of two of batch size from the launches of length > 1."""

    def __init__(self) -> None:
        self._seconds: dict[int, float] = {}  # bit length of the batch size -> seconds per step of the whole batch

    def learn(self, launch: Launch) -> None:
        """A launch of one step says more of what a launch costs than of what a step does."""
        if launch.length == 1:
            return
        bucket, seconds = launch.batch.bit_length(), max(launch.seconds / launch.length, _LEAST_SECONDS)
        known = self._seconds.get(bucket, seconds)
        self._seconds[bucket] = known + _SMOOTHING * (seconds - known)

    def steps_within(self, seconds: float, batch: int) -> int:
        """Steps of a batch of this size that fit into the time; at least 1."""
        pace = self._seconds.get(batch.bit_length())
        return _FIRST_GUESS if pace is None else max(1, int(seconds / pace))

    def seconds_for(self, batch: int, steps: int) -> float:
        """Estimated time of a launch. While it is unknown, one launch is budget enough."""
        return self._seconds.get(batch.bit_length(), np.inf) * steps


class Scheduler:
    """Plans the launches of a turn. Pure: looks at columns of the backlog, changes nothing but what it has learnt."""

    def __init__(self, max_batch: int, turn_budget: float, alone_budget: float) -> None:
        self._max_batch = max_batch
        self._turn_budget = turn_budget  # seconds for chunk steps while single steps wait
        self._alone_budget = alone_budget  # seconds while none do
        self.pace = Pace()

    def at_once(self, batch: int, length: int) -> bool:
        """Whether so many rows of the same length are one launch, no longer than chunks may hold single steps up."""
        if batch > self._max_batch:
            return False
        return length == 1 or (batch * length <= _LAUNCH_STEPS and self.pace.seconds_for(batch, length) <= self._turn_budget)

    def plan(self, positions: Ints, lengths: Ints, served: Ints, *, alone: bool = True) -> list[Group]:
        """Launches of one turn for the heads at `positions` [n], in order of arrival.

        lengths: steps left of each; served: turn in which its session last took part in a launch of several steps; alone: whether
        no others have been computed in this turn.
        """
        if not len(positions):
            return []
        if (lengths > 1).all():
            return self._chunks(positions, lengths, served, self._alone_budget if alone else self._turn_budget)
        # Chunks take part in the launch of single steps: their next step costs next to nothing there, and nobody starves.
        edges = range(0, len(positions), self._max_batch)
        groups = [Group(positions[edge : edge + self._max_batch], 1) for edge in edges]
        more = lengths > 1
        return groups + self._chunks(positions[more], lengths[more] - 1, served[more], self._turn_budget)

    def _chunks(self, positions: Ints, lengths: Ints, served: Ints, budget: float) -> list[Group]:
        """Groups of equal length, least recently served first, until the budget is spent; at least one if there is any."""
        groups: list[Group] = []
        order = np.argsort(served, kind="stable")
        while len(order) and (budget > 0 or not groups):
            batch = min(len(order), self._max_batch)
            limit = min(self.pace.steps_within(budget, batch), max(1, _LAUNCH_STEPS // batch))
            takes = np.minimum(lengths[order], limit)
            if (takes != takes[0]).any():  # then powers of two, so that rows of different lengths still share launches
                takes = 1 << np.frexp(takes)[1].astype(np.int64) - 1
            same = takes == takes[0]
            same[np.flatnonzero(same)[self._max_batch :]] = False
            chosen, steps = order[same], int(takes[0])
            groups.append(Group(np.sort(positions[chosen]), steps))
            budget -= self.pace.seconds_for(len(chosen), steps)
            order = order[~same]
        return groups
