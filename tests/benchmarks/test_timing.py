"""Rates that bound what a server can do, and how often anything is measured."""

from __future__ import annotations

import pytest

from benchmarks.timing import FULL, serial_bounds


def test_serial_bound_takes_both_times_for_every_step() -> None:
    """A step takes the echo's time and the kernel's in each round, so that two that are as fast give half of their rate."""
    assert serial_bounds([100.0, 300.0], [100.0, 600.0]) == pytest.approx([50.0, 200.0])


def test_rounds_can_be_chosen_for_all_that_has_any() -> None:
    """Whatever takes turns or is repeated does so as often as was asked, and each run is as long as before."""
    effort = FULL.with_rounds(7)
    repeated = (effort.rounds, effort.side_rounds, effort.idle_rounds, effort.paced_rounds, effort.analyzer_rounds, effort.starts)
    assert repeated == (7,) * 6
    assert (effort.name, effort.load_seconds) == (FULL.name, FULL.load_seconds)
    with pytest.raises(ValueError, match="expected at least one round, got 0"):
        FULL.with_rounds(0)
