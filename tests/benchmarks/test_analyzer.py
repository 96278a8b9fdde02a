"""Runs of perf_analyzer: what they are asked, and what is read from them."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import analyzer
from benchmarks.analyzer import AnalyzerPlan, analyze, read_report, read_windows
from benchmarks.process import Server
from support.perf_analyzer import require_perf_analyzer

WINDOW_MS = 100


def plan(target: Server, **changes: int | bool) -> AnalyzerPlan:
    """The shortest run against a server."""
    return AnalyzerPlan(target.address, target.pid, "small", WINDOW_MS, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "changes",
    [{"concurrency": 8}, {"concurrency": 8, "streaming": False}, {"concurrency": 8, "rate": 400, "variation": 40}],
    ids=["streams", "unary", "rate"],
)
def test_every_kind_of_run_has_figures(oip_echo: Server, changes: dict[str, int | bool]) -> None:
    """Streams, unary calls and an open loop against the echo end without an error, and say how many were answered and when."""
    require_perf_analyzer()
    result = analyze(plan(oip_echo, **changes))
    assert result.rate > 0
    assert 0 < result.p50 <= result.p99
    assert result.generator_share > 0


def test_processor_time_is_that_of_all_requests_of_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the server has spent from beginning to end is shared out among the requests of that time, at the rate of all windows,
    of which those that agreed may have been faster."""

    def finish(plan: AnalyzerPlan, command: list[str], timeout: float) -> subprocess.CompletedProcess[str]:
        Path(command[-1]).write_text("Inferences/Second,p50 latency,p99 latency\n300,1000,2000\n")
        said = "  Pass [1] throughput: 150 infer/sec. Avg\n  Pass [2] throughput: 250.0 infer/sec. Avg\n"
        return subprocess.CompletedProcess(command, 0, said, "")

    spent, now = iter([5.0, 6.0]), iter([0.0, 2.0])
    monkeypatch.setattr(analyzer, "missing", lambda: "")
    monkeypatch.setattr(analyzer, "_finish", finish)
    monkeypatch.setattr(analyzer, "cpu_seconds", lambda _: next(spent))
    monkeypatch.setattr(analyzer, "time", SimpleNamespace(perf_counter=lambda: next(now)))
    result = analyze(plan(Server("nowhere", 0)))
    assert result.rate == 300
    assert result.server_cpu == pytest.approx(1.0 / (200 * 2.0))


def test_run_that_does_not_settle_is_marked(oip_echo: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where windows differ by more than was asked there are figures all the same, and they say so."""
    require_perf_analyzer()
    monkeypatch.setattr(analyzer, "STABLE_PERCENT", 1e-6)
    assert not analyze(plan(oip_echo, concurrency=8)).stable


def test_run_that_fails_says_why(oip_echo: Server) -> None:
    """A server that does not answer is an error with the flags and perf_analyzer's own words, not a figure."""
    require_perf_analyzer()
    nobody = AnalyzerPlan("127.0.0.1:1", oip_echo.pid, "small", WINDOW_MS)
    with pytest.raises(RuntimeError, match=r"perf_analyzer -m small -u 127.0.0.1:1 .*ended with code"):
        analyze(nobody)


def test_run_without_the_program_says_what_is_missing(oip_echo: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is started when the program is not the pinned one."""
    monkeypatch.setattr(analyzer, "missing", lambda: "perf_analyzer is missing")
    with pytest.raises(RuntimeError, match="perf_analyzer is missing"):
        analyze(plan(oip_echo))


def test_run_without_windows_is_refused() -> None:
    """An error shows what perf_analyzer said instead."""
    with pytest.raises(ValueError, match="expected the rate of each window, got 'nothing'"):
        read_windows("nothing")


def test_report_without_figures_is_refused(tmp_path: Path) -> None:
    """A report of other than one line of figures is an error that says how many there are."""
    report = tmp_path / "report.csv"
    report.write_text("Concurrency,Inferences/Second\n")
    with pytest.raises(ValueError, match="expected one line of figures, got 0"):
        read_report(report)
