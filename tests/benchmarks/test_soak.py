"""How memory over steps is judged."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.report import Line
from benchmarks.soak import plot, second_half


def test_first_half_does_not_count() -> None:
    """What grows until half-way and stays is flat."""
    assert second_half([0, 10, 20, 30, 40], [0, 50, 100, 100, 100]) == pytest.approx((100, 100))


def test_growth_of_the_second_half_is_seen_through_noise() -> None:
    """A steady rise shows at the end of the fitted line, whatever single samples do."""
    steps = list(range(101))
    resident = [1000 + each + (5 if each % 2 else -5) for each in steps]
    assert second_half(steps, resident) == pytest.approx((1050, 1100), abs=2)


def test_plot_is_drawn_from_the_figures(tmp_path: Path) -> None:
    """The committed picture can be drawn again from the committed result."""
    series = {"steps": [0.0, 1e6, 2e6, 3e6], "MiB": [50.0, 100.0, 100.0, 101.0]}
    plot(Line(11, "memory", 1.0, 1.0, 1.0, "×", beside={"sessions": 1000.0}, series=series), tmp_path / "memory.png")
    assert (tmp_path / "memory.png").read_bytes().startswith(b"\x89PNG")
