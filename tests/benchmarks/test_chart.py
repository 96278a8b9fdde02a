"""The picture of all ratios."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from benchmarks import chart
from benchmarks.report import line

LINES = [
    line(2, "64 streams", [0.5], "×", 0.9, "at least"),
    line(2, "1 stream", [0.4], "×"),
    line(5, "p50", [100.0], "µs", 200.0),
    line(7, "p99", [1.2], "×", 1.5),
    *(
        dataclasses.replace(line(20, "workers", [0.5], "×"), series={"workers": [each], "server": [1.0], "echo": [2.0]})
        for each in (0.0, 1.0)
    ),
]


def test_ratios_with_a_target_are_drawn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One bar for each, neither for what has no target nor for times."""
    drawn: list[str] = []
    monkeypatch.setattr(chart, "_bar", lambda axes, at, each: drawn.append(each.case))
    chart.plot(LINES, tmp_path / "throughput.png")
    assert drawn == ["64 streams", "p99"]
    assert (tmp_path / "throughput.png").read_bytes().startswith(b"\x89PNG")
