"""What is said of measured figures."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.report import Bound, Line, Report, combine, line, markdown, read
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


def _report(lines: dict[int, float], *notes: str, cores: int = 2) -> Report:
    """A run with one figure for each of these rows."""
    return Report("full", {"cores": cores}, [*notes], [line(row, "case", [value], "×") for row, value in lines.items()])


def test_rows_measured_anew_replace_theirs_alone() -> None:
    """Rows of a part of the suite stand beside the others of an earlier run, and a note tells them apart, once."""
    earlier = _report({1: 1.0, 3: 3.0}, "two cores")
    for value in (2.5, 2.0):
        earlier = combine(_report({2: value, 3: value}, "two cores", "other work ran"), earlier)
    assert [(each.row, each.value) for each in earlier.lines] == [(1, 1.0), (2, 2.0), (3, 2.0)]
    assert earlier.notes == ["two cores", "Rows 2, 3 were measured in a run of their own: other work ran"]


def test_run_of_everything_replaces_everything() -> None:
    """Nothing is left of the earlier run when all of its rows were measured anew."""
    report = _report({1: 2.0}, cores=64)
    assert combine(report, _report({1: 1.0})) == report


def test_rows_of_different_machines_are_not_combined() -> None:
    """Figures that do not compare are refused, with both machines named."""
    with pytest.raises(ValueError, match="machine: expected the earlier run's, {'cores': 2}, got {'cores': 64}"):
        combine(_report({2: 2.0}, cores=64), _report({1: 1.0}))


def test_runs_take_turns() -> None:
    """Rounds alternate their order, so that neither run always comes first."""
    order: list[str] = []
    results = interleave({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 3)
    assert "".join(order) == "abbaab"
    assert {name: len(each) for name, each in results.items()} == {"a": 3, "b": 3}
