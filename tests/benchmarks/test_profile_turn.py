"""Turns by hand: every case has its figures."""

from __future__ import annotations

import pytest

from benchmarks.profile_turn import CASES, Sizes, measure


@pytest.mark.parametrize("case", CASES)
def test_every_case_is_measured_hot_and_cold(case: str) -> None:
    """Each round gives the time of a turn and of a block, and no step is refused."""
    times = measure(case, Sizes(hidden=4, layers=1, threads=1), rounds=2, seconds=0.0)
    assert {heat: len(rounds) for heat, rounds in times.items()} == {"hot": 2, "cold": 2}
    assert all(each.turn_us > 0 and each.block_us > 0 for rounds in times.values() for each in rounds)
