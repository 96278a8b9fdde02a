"""Rows of perf_analyzer tell rates, processor time per request and the serial bound of its runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks import analyzed
from benchmarks.analyzer import AnalyzerPlan, AnalyzerResult
from benchmarks.process import HERE, Checkout, Server
from benchmarks.report import Line
from benchmarks.timing import SMOKE

SERVER, ECHO, KERNEL = (AnalyzerResult(rate, 0.1, 0.2, True, cpu, 0.5) for rate, cpu in ((30, 0.003), (100, 0.002), (100, 0.01)))


@contextmanager
def _up(*_: object) -> Iterator[Server]:
    """An echo that nobody can reach."""
    yield Server("echo", 0)


@contextmanager
def _serving(checkout: Checkout, models: Path) -> Iterator[Server]:
    """A server that nobody can reach."""
    yield Server("server", 0)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[tuple[int, str], Line]:
    """Lines of rows 17 and 19 by case, of runs that go as the results above say."""

    def analyze(plan: AnalyzerPlan) -> AnalyzerResult:
        return SERVER if plan.address == "server" else ECHO

    monkeypatch.setattr(Checkout, "serving", _serving)
    monkeypatch.setattr(analyzed, "running", _up)
    monkeypatch.setattr(analyzed, "analyze", analyze)
    monkeypatch.setattr(analyzed, "_run_kernel", lambda *_: KERNEL)
    effort = dataclasses.replace(SMOKE, streams=(1,), analyzer_rounds=2)
    lines = analyzed.analyzed(tmp_path, {17, 19}, effort, lambda _: None, HERE)
    return {(each.row, each.case): each for each in lines}


def test_rows_of_perf_analyzer_have_these_cases(measured: dict[tuple[int, str], Line]) -> None:
    """Rates against the echo's are reported for every case, and other numbers of streams for the small model alone."""
    assert [case for case, each in measured.items() if each.value == 0.3] == [
        (17, "H 128 × 1, 64 streams"),
        (17, "H 128 × 1, 1 stream"),
        (19, "H 128 × 1, 64 sequences"),
        (17, "H 512 × 2, 64 streams"),
        (19, "H 512 × 2, 64 sequences"),
    ]
    assert {each.beside["server CPU µs/request"] for each in measured.values() if each.value == 0.3} == {3000}


def test_targets_of_perf_analyzer_are_met_or_missed(measured: dict[tuple[int, str], Line]) -> None:
    """Streams are held to the echo's processor time where computing is little, and to the serial bound where it is much; unary
    calls to a share of the echo's rate."""
    held = {case: each for case, each in measured.items() if each.target is not None}
    assert {case: (each.target, each.bound) for case, each in held.items()} == {
        (17, "H 128 × 1, 64 streams: CPU per request"): (1.5, "at most"),
        (17, "H 512 × 2, 64 streams, against the serial bound"): (0.75, "at least"),
        (19, "H 128 × 1, 64 sequences"): (0.6, "at least"),
    }
    assert [each.value for each in held.values()] == pytest.approx([1.5, 0.3, 0.6])
    assert measured[17, "H 512 × 2, 64 streams, against the serial bound"].beside["kernel steps/s"] == 100
