"""Whom the server is compared with, and what is said of each run."""

from __future__ import annotations

import pytest

from benchmarks import drive
from benchmarks.drive import details, echo_command, paced_details
from benchmarks.load import Result
from benchmarks.paced import PacedResult

RESULT = Result(steps=10, blocks=10, seconds=1.0, generator_cpu=0.5, server_cpu=0.1, p50=1.0, p99=2.0, p999=3.0)
PACED = PacedResult(10, 10, 0, 0, 0, 0, 1.0, 2.0, 3.0, 0.1, 0.2, 1.0, 0.5, 0.1, 10, {})


@pytest.mark.parametrize(
    ("default", "workers", "processes"),
    [(3, None, "3"), (0, None, "1"), (3, 0, "1"), (1, 2, "2")],
    ids=["by default", "by default none", "none", "told"],
)
def test_echo_has_as_many_processes_as_the_server(
    monkeypatch: pytest.MonkeyPatch, default: int, workers: int | None, processes: str
) -> None:
    """As many as workers, and one where there are none: the server itself is a process then."""
    monkeypatch.setattr(drive, "default_workers", lambda: default)
    assert echo_command("echo", "--flag", workers=workers)[-3:] == ["--flag", "--processes", processes]


@pytest.mark.parametrize("said", [details({"server": [RESULT]}), paced_details({"server": [PACED]})], ids=["closed", "open"])
def test_every_run_says_three_percentiles(said: dict[str, float]) -> None:
    """Of a closed loop and of an open one, in microseconds."""
    figures = {name: said[f"server {name} µs"] for name in ("p50", "p99", "p99.9")}
    assert figures == {"p50": 1e6, "p99": 2e6, "p99.9": 3e6}
