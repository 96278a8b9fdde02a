"""What one model's turns add up to. Whoever turns the engine writes it once per turn, a scrape reads it; a short lock between."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from stepstream_server.engine.ports import Ending, InferenceTotals, Origin, RolloutEnding, TurnReport
from stepstream_server.errors import Reason
from stepstream_server.telemetry.histogram import Histogram
from stepstream_server.telemetry.series import ROWS, SECONDS

# The endings that end a session; the others only let go of it. Counted from 0, so that the first event shows as an increase.
SESSION_ENDINGS = (Ending.CLOSED, Ending.EXPIRED, Ending.EVICTED, Ending.MOVED, Ending.REPLACED)
# Why sessions are lost, likewise.
LOSSES = (Reason.SESSION_LOST, Reason.RECORD_UNREADABLE, Reason.MODEL_MISMATCH)

Buckets = tuple[list[tuple[str, float]], float]  # cumulative counts up to +Inf, and the sum


@dataclass(frozen=True, slots=True)
class Totals:
    """Everything counted since the start, at one moment."""

    steps: float
    launches: float
    duplicates: int
    opened: dict[Origin, int]
    refused: dict[Reason, int]
    closed: dict[Ending, int]
    failures: dict[Reason, int]
    batch_size: Buckets
    compute_seconds: Buckets
    queue_seconds: Buckets
    step_seconds: Buckets
    draws: int
    rollouts_ended: dict[RolloutEnding, int]
    first_draw_seconds: Buckets
    between_draws_seconds: Buckets
    written: int
    written_bytes: int
    write_seconds: Buckets
    store_failures: int
    restored: int
    replayed: int
    lost: dict[Reason, int]


class TurnTotals:
    """The engine's observer port: adds turn after turn."""

    def __init__(self, wall_clock: Callable[[], float] = time.time) -> None:
        self._wall_clock = wall_clock  # unix seconds
        self._lock = threading.Lock()
        self._duplicates = 0
        self._opened = Counter(dict.fromkeys(Origin, 0))
        self._refused = Counter(dict.fromkeys(Reason, 0))
        self._closed = Counter(dict.fromkeys(SESSION_ENDINGS, 0))
        self._failures = Counter(dict.fromkeys(Reason, 0))
        self._batch_size = Histogram(ROWS)
        self._compute_seconds = Histogram(SECONDS)
        self._queue_seconds = Histogram(SECONDS)
        self._step_seconds = Histogram(SECONDS)
        self._draws = 0
        self._rollouts_ended = Counter(dict.fromkeys(RolloutEnding, 0))
        self._first_draw_seconds = Histogram(SECONDS)
        self._between_draws_seconds = Histogram(SECONDS)
        self._written = self._written_bytes = self._store_failures = self._restored = self._replayed = 0
        self._write_seconds = Histogram(SECONDS)
        self._lost = Counter(dict.fromkeys(LOSSES, 0))
        self._launches: dict[int, tuple[int, float]] = {}  # by rows, at most as many as a batch may have: count, seconds
        self._launched_seconds = 0.0  # of all steps, each the whole launch that computed it
        self._last_at = 0.0

    def turn(self, report: TurnReport) -> None:
        """Adds one turn: some 3 us for one row, 20 us for 1,000."""
        with self._lock:
            self._duplicates += report.duplicates
            if report.opened or report.refused or report.closed or report.failures or report.rollouts_ended:
                self._add_events(report)
            if report.written or report.store_failures or report.restored or report.replayed or report.lost:
                self._add_store(report)
            for launch in report.launches:
                self._batch_size.add_one(launch.batch)
                self._compute_seconds.add_one(launch.seconds)
                count, seconds = self._launches.get(launch.batch, (0, 0.0))
                self._launches[launch.batch] = count + 1, seconds + launch.seconds
                self._launched_seconds += launch.seconds * launch.batch * launch.length
            if report.draws:
                self._add_draws(report)
            if report.steps.size:
                self._last_at = self._wall_clock()
                self._queue_seconds.add(report.queue_seconds, report.steps)
                self._step_seconds.add(report.step_seconds, report.steps)

    def _add_events(self, report: TurnReport) -> None:
        self._opened.update(report.opened)
        self._refused.update(report.refused)
        self._closed.update(report.closed)
        self._failures.update(report.failures)
        self._rollouts_ended.update(report.rollouts_ended)

    def _add_store(self, report: TurnReport) -> None:
        self._written += report.written
        self._written_bytes += report.written_bytes
        self._store_failures += report.store_failures
        self._restored += report.restored
        self._replayed += report.replayed
        self._lost.update(report.lost)
        for seconds in report.write_seconds:
            self._write_seconds.add_one(seconds)

    def _add_draws(self, report: TurnReport) -> None:
        self._draws += report.draws
        for seconds in report.first_draw_seconds:
            self._first_draw_seconds.add_one(seconds)
        for between in report.between_draws_seconds:
            self._between_draws_seconds.add(between, np.ones(len(between), np.int64))

    def read(self) -> Totals:
        """All totals, of the same turn."""
        with self._lock:
            batch_size = self._batch_size.read()
            step_seconds = self._step_seconds.read()
            return Totals(
                steps=step_seconds[0][-1][1],
                launches=batch_size[0][-1][1],
                duplicates=self._duplicates,
                opened=dict(self._opened),
                refused=dict(self._refused),
                closed=dict(self._closed),
                failures=dict(self._failures),
                batch_size=batch_size,
                compute_seconds=self._compute_seconds.read(),
                queue_seconds=self._queue_seconds.read(),
                step_seconds=step_seconds,
                draws=self._draws,
                rollouts_ended=dict(self._rollouts_ended),
                first_draw_seconds=self._first_draw_seconds.read(),
                between_draws_seconds=self._between_draws_seconds.read(),
                written=self._written,
                written_bytes=self._written_bytes,
                write_seconds=self._write_seconds.read(),
                store_failures=self._store_failures,
                restored=self._restored,
                replayed=self._replayed,
                lost=dict(self._lost),
            )

    def totals(self) -> InferenceTotals:
        """Totals as inference servers count them, which is by step."""
        with self._lock:
            return InferenceTotals(
                steps=self._step_seconds.count,
                failed_steps=self._failures.total(),
                seconds=self._step_seconds.sum,
                queue_seconds=self._queue_seconds.sum,
                compute_seconds=self._launched_seconds,
                launches=dict(self._launches),
                last_at=self._last_at,
            )
