"""What is said of measured figures."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.report import Bound, Line, Report, line, markdown, read
from benchmarks.timing import interleave


@pytest.mark.parametrize(
    ("value", "bound", "met"),
    [(0.9, "at least", True), (0.89, "at least", False), (0.9, "at most", True), (0.91, "at most", False)],
)
def test_verdict_follows_the_bound(value: float, bound: Bound, met: bool) -> None:
    """A figure at its target meets it, whichever way the bound points."""
    assert line(2, "case", [value], "×", 0.9, bound).met is met


def test_line_is_the_median_of_its_rounds() -> None:
    """A line shows the middle round and the extremes."""
    each = line(2, "case", [3.0, 1.0, 2.0], "×")
    assert (each.value, each.low, each.high, each.met) == (2.0, 1.0, 3.0, None)


def test_report_survives_writing(tmp_path: Path) -> None:
    """What is written as JSON reads back the same and renders the same."""
    lines = [Line(1, "B 16", 1.5, 1.25, 2.0, "×", 1.15, "at most", {"turn µs": 12345.6}, {"hidden": 1.0}, "a note", {"x": [1.0]})]
    report = Report("smoke", {"cores": 2, "cpu": "one", "memory_gib": 4, "versions": {"Python": "3"}}, ["said"], lines)
    report.write(tmp_path / "new" / "report.json")
    assert read(tmp_path / "new" / "report.json") == report
    assert "| 1 | B 16 | 1.5 × | 1.25 to 2 | ≤ 1.15 × | missed | turn µs 12,346; a note |" in markdown(report)


def test_runs_take_turns() -> None:
    """Rounds alternate their order, so that neither run always comes first."""
    order: list[str] = []
    results = interleave({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 3)
    assert "".join(order) == "abbaab"
    assert {name: len(each) for name, each in results.items()} == {"a": 3, "b": 3}
