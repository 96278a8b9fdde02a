"""The schedule of an open loop and its log: what must be right for the figures to mean anything."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks.schedule import ANSWERED, GIVEN_UP, REFUSED, Log, Schedule, periodic, poisson, quantile


def _log(due: list[float], deadline: float = math.inf) -> Log:
    """A log of steps of which those due in [1, 2) are measured."""
    return Log(Schedule(np.array(due), np.zeros(len(due), np.int64), 1.0, 2.0), deadline)


def test_schedule_is_drawn_beforehand_and_repeats() -> None:
    """The same seed gives the same times and streams, another seed gives others."""
    first, again, other = (poisson(1000.0, 4, 0.1, 0.5, 0.1, seed) for seed in (1, 1, 2))
    assert np.array_equal(first.due, again.due)
    assert np.array_equal(first.streams, again.streams)
    assert not np.array_equal(first.due[:10], other.due[:10])


def test_arrivals_are_a_poisson_process() -> None:
    """Gaps are exponential: their mean is 1 / rate, and their deviation as large as their mean; streams get equal shares."""
    schedule = poisson(10_000.0, 4, 1.0, 8.0, 1.0, seed=0)
    gaps = np.diff(schedule.due)
    assert (gaps >= 0).all()
    assert gaps.mean() == pytest.approx(1e-4, rel=0.02)
    assert gaps.std() == pytest.approx(1e-4, rel=0.02)
    assert np.bincount(schedule.streams) / len(schedule.due) == pytest.approx([0.25] * 4, abs=0.01)


def test_steady_beats_are_a_period_apart_on_every_stream() -> None:
    """Streams begin at moments of their own, and times ascend over all of them."""
    schedule = periodic(0.1, 5, 0.2, 1.0, 0.3, seed=0)
    assert (np.diff(schedule.due) >= 0).all()
    own = [schedule.due[schedule.streams == stream] for stream in range(5)]
    assert all(np.diff(due) == pytest.approx([0.1] * 14) for due in own)
    assert len({due[0] for due in own}) == 5
    assert all(0 <= due[0] < 0.1 for due in own)


def test_warm_up_and_tail_do_not_count() -> None:
    """Only what is due in the measured part is measured."""
    schedule = poisson(1000.0, 1, 0.5, 1.0, 0.5, seed=0)
    due = schedule.due[schedule.measured]
    assert due.min() >= 0.5 and due.max() < 1.5
    assert schedule.due.min() < 0.1 and schedule.due.max() > 1.9


def test_time_counts_from_when_a_step_was_due() -> None:
    """A generator or server that stalls is charged for all that became due meanwhile: no coordinated omission."""
    log = _log([1.0, 1.1, 1.2, 1.3])
    for step in range(4):  # all turned to and answered only at 1.5
        log.take(step, 1.5)
        log.end(step, 1.5, ANSWERED)
    figures = log.figures()
    assert (figures.p50, figures.p99, figures.p999) == pytest.approx((0.3, 0.5, 0.5))
    assert figures.lag_p99 == pytest.approx(0.5)
    assert figures.behind


def test_each_fate_is_counted_once() -> None:
    """Answered in time, answered late, refused, given up and without any outcome add up to what was offered."""
    log = _log([0.5, 1.0, 1.1, 1.2, 1.3, 1.4, 2.5], deadline=0.1)
    for step in range(7):
        log.take(step, log.due[step])
    log.end(0, 0.5, ANSWERED)  # warm-up
    log.end(1, 1.05, ANSWERED)
    log.end(2, 1.3, ANSWERED)
    log.end(3, 1.2, REFUSED)
    log.end(4, 1.4, GIVEN_UP)
    figures = log.figures()
    fates = (figures.in_time, figures.late, figures.refused, figures.given_up, figures.unanswered)
    assert fates == (1, 1, 1, 1, 1)
    assert figures.offered == 5
    assert log.open == 2
    assert not figures.behind


def test_quantile_is_a_value_that_occurred() -> None:
    """No interpolation towards times that nobody saw; of nothing it is 0."""
    assert quantile(np.array([1.0, 2.0, 100.0]), 0.99) == 100.0
    assert quantile(np.array([1.0, 2.0, 100.0]), 0.5) == 2.0
    assert quantile(np.array([]), 0.5) == 0.0
