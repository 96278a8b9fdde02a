"""What is said of more and more workers."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from benchmarks import scaling
from benchmarks.analyzer import AnalyzerResult
from benchmarks.load import Result
from benchmarks.process import Server
from benchmarks.scaling import case_of, row_20
from benchmarks.timing import FULL
from stepstream_server.bundles import Bundle


def _runs(*rates: int) -> list[Result]:
    """A run of a second for each of these rates."""
    return [Result(rate, rate, 1.0, 0.5, 0.5, 0.001, 0.002, 0.003) for rate in rates]


def test_each_case_is_compared_with_its_echo_and_its_first() -> None:
    """A line per number of workers: the ratio of the same round, and what server and echo gained over the first case."""
    lines = scaling.scaling(
        {
            0: {"server": _runs(100, 110), "echo": _runs(200, 220)},
            2: {"server": _runs(210, 210), "echo": _runs(420, 210)},
        }
    )
    assert [(each.row, each.low, each.high, each.target) for each in lines] == [(20, 0.5, 0.5, None), (20, 0.5, 1.0, None)]
    assert [(each.beside["server's gain"], each.beside["echo's gain"]) for each in lines] == [(1.0, 1.0), (2.0, 1.5)]
    assert lines[1].series == {"workers": [2.0], "server": [210.0, 210.0], "echo": [420.0, 210.0]}


@pytest.mark.parametrize(
    ("default", "workers", "missing", "cases"),
    [
        (2, (1, 2, 3), "", ["0 workers", "1 worker", "2 workers (default)", "3 workers"]),
        (2, (), "", ["0 workers", "2 workers (default)"]),
        (0, (), "", ["0 workers (default)", "1 worker"]),
        (2, (), "no such program", ["0 workers", "2 workers (default)"]),
    ],
    ids=["full", "quick", "none by default", "without perf_analyzer"],
)
def test_each_number_of_workers_has_a_server_of_its_own(
    monkeypatch: pytest.MonkeyPatch, bundle: Bundle, default: int, workers: tuple[int, ...], missing: str, cases: list[str]
) -> None:
    """The default is among them, and one with none and one with at least one."""
    started: list[Sequence[str]] = []

    @contextmanager
    def running(command: Sequence[str]) -> Iterator[Server]:
        started.append(command)
        yield Server("nowhere", 0)

    requests = [AnalyzerResult(100.0, 0.1, 0.2, stable=True, server_cpu=0.001, generator_share=0.5)]
    monkeypatch.setattr(scaling, "default_workers", lambda: default)
    monkeypatch.setattr(scaling, "missing", lambda: missing)
    monkeypatch.setattr(scaling, "running", running)
    monkeypatch.setattr(scaling, "_steps", lambda *_: {"server": _runs(1), "echo": _runs(2)})
    monkeypatch.setattr(scaling, "_requests", lambda *_: {"server": requests, "echo": requests})
    lines = row_20(bundle, dataclasses.replace(FULL, workers=workers), lambda _: None)
    assert [command[-2:] for command in started] == [["--workers", case.split()[0]] for case in cases]
    assert [each.case for each in lines] == cases + [f"perf_analyzer, {case}" for case in cases if not missing]


def test_default_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The case that users have without asking is marked."""
    monkeypatch.setattr(scaling, "default_workers", lambda: 1)
    assert [case_of(each) for each in (0, 1, 2)] == ["0 workers", "1 worker (default)", "2 workers"]
