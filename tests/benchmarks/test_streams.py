"""What is said of single steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks import drive, streams
from benchmarks.drive import LARGE, SMALL, Targets, make_model
from benchmarks.load import Plan, Result
from benchmarks.process import Checkout, Server
from benchmarks.streams import row_2, row_5
from benchmarks.timing import SMOKE
from stepstream_server.bundles import Bundle


def _run(rate: int) -> Result:
    """One second of so many steps, from a generator that is hardly busy."""
    return Result(rate, rate, 1.0, 0.1, 0.1, 0.001, 0.002, 0.003)


def test_many_streams_have_a_target_for_either_way_that_they_come(monkeypatch: pytest.MonkeyPatch, bundle: Bundle) -> None:
    """64 streams are held to one share of the echo's rate over as many connections and to another over one; fewer to none."""

    def compare(plans: Mapping[str, Plan], *_: int) -> dict[str, list[Result]]:
        return {name: [_run(60 if name == "server" else 100)] for name in plans}

    monkeypatch.setattr(streams, "compare", compare)
    lines = row_2(_targets(bundle), dataclasses.replace(SMOKE, streams=(16,)), lambda _: None)
    assert [(each.case, each.value, each.target) for each in lines if "plain" not in each.case] == [
        ("64 streams, 64 connections", 0.6, 0.72),
        ("64 streams, 1 connection", 0.6, 0.6),
        ("16 streams, 16 connections", 0.6, None),
    ]
    assert [each.met for each in lines if each.target] == [False, True]


def _targets(bundle: Bundle, address: str = "") -> Targets:
    """Servers that nobody can reach, known by what they are."""
    server, echo, plain = (Server(f"{address}{name}", 0) for name in ("server", "echo", "plain"))
    return Targets(server, echo, plain, bundle)


@pytest.mark.parametrize(
    ("default", "told", "other"), [(1, "0", "without workers"), (0, "1", "with a worker")], ids=["some by default", "none"]
)
def test_lone_session_is_held_to_its_parts_and_to_plain_servers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, default: int, told: str, other: str
) -> None:
    """The default server has a target for its round trip and one for its rate with each size, the other server has none."""
    micros = {"server": 500, "other": 400, "echo": 100, "plain": 600, "large server": 900, "large plain": 1800}
    asked: list[str] = []

    @contextmanager
    def serving(checkout: Checkout, models: Path, *flags: str) -> Iterator[Server]:
        asked.extend(flags)
        yield Server("other", 0)

    @contextmanager
    def large_targets(checkout: Checkout) -> Iterator[Targets]:
        yield _targets(make_model(tmp_path, LARGE), "large ")

    def run(plan: Plan) -> Result:
        return _lone(micros[plan.address])

    monkeypatch.setattr(drive, "default_workers", lambda: default)
    monkeypatch.setattr(Checkout, "serving", serving)
    monkeypatch.setattr(streams, "large_targets", large_targets)
    monkeypatch.setattr(streams, "run", run)
    monkeypatch.setattr(streams, "run_kernel", lambda *_: _lone(10))
    monkeypatch.setattr(streams, "compare", lambda plans, _: {name: [run(each)] for name, each in plans.items()})
    lines = row_5(_targets(make_model(tmp_path, SMALL)), SMOKE, lambda _: None)
    assert asked == ["--workers", told]
    assert [(each.case, round(each.value, 6), each.unit, each.target, each.bound) for each in lines] == [
        ("p50 beyond echo + kernel", 390, "µs", 200, "at most"),
        (f"p50 beyond echo + kernel, {other}", 290, "µs", None, "at most"),
        ("H 128 × 1, rate against a plain server", 1.2, "×", 1.2, "at least"),
        ("H 512 × 2, rate against a plain server", 2.0, "×", 2.0, "at least"),
    ]


def _lone(micros: int) -> Result:
    """A million steps, one behind the other."""
    return Result(1_000_000, 1_000_000, float(micros), 0.1, 0.1, micros * 1e-6, 0.0, 0.0)
