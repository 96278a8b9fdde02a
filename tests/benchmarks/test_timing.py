"""Rates that bound what a server can do."""

from __future__ import annotations

import pytest

from benchmarks.timing import serial_bounds


def test_serial_bound_takes_both_times_for_every_step() -> None:
    """A step takes the echo's time and the kernel's in each round, so that two that are as fast give half of their rate."""
    assert serial_bounds([100.0, 300.0], [100.0, 600.0]) == pytest.approx([50.0, 200.0])
