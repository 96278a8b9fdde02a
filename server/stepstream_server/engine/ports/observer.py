"""The observer port: what a turn did, for metrics, and what turns add up to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from stepstream_server.engine.ports.basics import Ending, Floats, Ints, Origin, RolloutEnding
from stepstream_server.errors import Reason

_NO_STEPS, _NO_SECONDS = np.zeros(0, np.int64), np.zeros(0)  # of reports to which nothing was added yet


@dataclass(slots=True)
class Launch:
    """One launch, for metrics and for the scheduler's estimate of the next one."""

    batch: int  # rows
    length: int  # steps per row
    seconds: float  # from launch to collected


@dataclass(slots=True)
class TurnReport:
    """The deeds of one turn. Columns have one entry per answered row; `steps` weighs them."""

    launches: list[Launch] = field(default_factory=list)
    steps: Ints = field(default_factory=_NO_STEPS.view)
    queue_seconds: Floats = field(default_factory=_NO_SECONDS.view)  # arrival to launch
    step_seconds: Floats = field(default_factory=_NO_SECONDS.view)  # arrival to hand-over
    duplicates: int = 0  # steps answered from the cache
    failures: dict[Reason, int] = field(default_factory=dict)  # steps refused or failed
    opened: dict[Origin, int] = field(default_factory=dict)
    refused: dict[Reason, int] = field(default_factory=dict)  # sessions that were wanted and could not be had
    closed: dict[Ending, int] = field(default_factory=dict)
    replaced: list[str] = field(default_factory=list)  # ids of the sessions closed as REPLACED
    draws: int = 0  # steps that rollouts have drawn and fed, on all their paths
    first_draw_seconds: list[float] = field(default_factory=list)  # of rollouts: arrival to the hand-over of the first draw
    between_draws_seconds: list[Floats] = field(default_factory=list)  # of rollouts: from draw to draw
    rollouts_ended: dict[RolloutEnding, int] = field(default_factory=dict)
    written: int = 0  # records of durable sessions that have reached the store
    written_bytes: int = 0
    write_seconds: list[float] = field(default_factory=list)  # of groups, in the store
    store_failures: int = 0  # tasks that the store could not carry out
    restored: int = 0  # sessions, from the store
    replayed: int = 0  # steps of restored sessions that their clients have to send again
    lost: dict[Reason, int] = field(default_factory=dict)  # sessions that could not be restored, or from too early

    def add(self, steps: Ints, queue_seconds: Floats, step_seconds: Floats) -> None:
        """Adds answered rows: [n] each."""
        if len(self.steps):
            steps = np.concatenate([self.steps, steps])
            queue_seconds = np.concatenate([self.queue_seconds, queue_seconds])
            step_seconds = np.concatenate([self.step_seconds, step_seconds])
        self.steps, self.queue_seconds, self.step_seconds = steps, queue_seconds, step_seconds


@dataclass(frozen=True, slots=True)
class EngineStats:
    """The engine at one moment. Readable from any thread."""

    sessions: int
    capacity: int  # sessions that may be open at once
    streams: int
    pending_steps: int
    state_bytes: int  # of open sessions
    turns: int
    steps: int  # applied since start
    rollouts: int = 0  # under way
    rollout_slots: int = 0  # that rollouts hold, beside those of sessions
    durable_sessions: int = 0
    lag_seconds: float = 0.0  # since the oldest step was applied that is not in the store; 0: all are
    batching: int = 1  # rows of which each launch computes a multiple; 0: one session after the other


@dataclass(frozen=True, slots=True)
class InferenceTotals:
    """The sums over all turns of a model. A step of a row of many counts by itself, with the times of its row."""

    steps: int  # applied and answered
    failed_steps: int  # refused or failed
    seconds: float  # of all steps, arrival to hand-over
    queue_seconds: float  # of all steps, arrival to launch
    compute_seconds: float  # of all steps, each the whole launch that computed it
    launches: dict[int, tuple[int, float]]  # by rows: how many, and the seconds that they took
    last_at: float  # unix seconds, when the last step was answered; 0: none was


class Observer(Protocol):
    """Hears of every turn, on the thread that turns the engine."""

    def turn(self, report: TurnReport) -> None:
        """Must be quick: it is part of the turn."""

    def totals(self) -> InferenceTotals:
        """Gives the sums over all turns so far."""
