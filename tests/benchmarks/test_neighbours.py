"""Rows of one client beside others tell how it fares, also where the echo has to bear the same neighbours."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks import neighbours
from benchmarks.drive import beside
from benchmarks.load import Plan, Result
from benchmarks.neighbours import row_15
from benchmarks.paced import PacedResult, measure
from benchmarks.paced_lane import PacedPlan
from benchmarks.process import HERE, Checkout, Server
from benchmarks.rolling import RollingPlan
from benchmarks.timing import SMOKE
from stepstream_server.bundles import Bundle

ASKED_AT_ONCE = 256  # streams, before any is accepted
PEAK = 1000


def _paced(p99: float) -> PacedResult:
    """An open loop that kept its schedule, with this p99."""
    return PacedResult(300, 300, 0, 0, 0, 0, p99 / 2, p99, p99, 0.0, 0.0, 1.0, 0.1, 0.1, 300, {})


def test_streams_without_end_are_compared_with_the_echo_under_them(monkeypatch: pytest.MonkeyPatch, bundle: Bundle) -> None:
    """They have a target, for the same honest load on server and echo in the same rounds; others are compared with a server at
    rest and have none."""
    p99 = {"server 0": 0.01, "server 1": 0.02, "server 2": 0.03, "server 3": 0.9, "echo": 0.6}
    attacked: list[tuple[str, str]] = []
    offered: list[tuple[str, float]] = []
    servers = iter(range(4))

    @contextmanager
    def serving(checkout: Checkout, models: Path) -> Iterator[Server]:
        yield Server(f"server {next(servers)}", 0)

    @contextmanager
    def running(command: Sequence[str]) -> Iterator[Server]:
        assert command[-2:] == ["--processes", "3"]
        yield Server("echo", 0)

    @contextmanager
    def attack(kind: str, plan: Plan | RollingPlan) -> Iterator[dict[str, float]]:
        attacked.append((plan.address, kind))
        yield {"streams": 7.0}

    def run(plan: Plan) -> Result:
        return Result(PEAK, PEAK, 1.0, 0.1, 0.1, 0.0, 0.0, 0.0)

    def run_paced(plan: PacedPlan) -> PacedResult:
        offered.append((plan.address, plan.rate))
        return _paced(p99[plan.address])

    monkeypatch.setattr(Checkout, "serving", serving)
    for name, fake in {"running": running, "beside": attack, "run": run, "run_paced": run_paced}.items():
        monkeypatch.setattr(neighbours, name, fake)
    lines = row_15(bundle, dataclasses.replace(SMOKE, paced_rounds=2), lambda _: None, dataclasses.replace(HERE, workers=3))
    assert [(each.case, round(each.value, 6), each.target) for each in lines] == [
        ("p99 beside a client that never reads", 2.0, None),
        ("p99 beside a client that writes without end", 3.0, None),
        ("p99 beside streams opened without end, against the echo's", 1.5, 2.0),
    ]
    assert attacked[-4:] == [("echo", "streams"), ("server 3", "streams"), ("server 3", "streams"), ("echo", "streams")]
    assert set(offered) == {(address, 0.3 * PEAK) for address in p99}
    assert (lines[2].beside["its streams"], lines[2].beside["its streams, echo"]) == (7.0, 7.0)


def test_echo_bears_a_client_that_opens_streams(echo: Server) -> None:
    """It accepts them, so that the client goes on to open more, and answers honest steps all the while."""
    attacker = Plan(echo.address, echo.pid, "model", input_width=2, output_width=1)
    honest = PacedPlan(echo.address, echo.pid, "model", 2, 1, streams=2, connections=2, rate=100.0, seconds=0.3)
    with beside("streams", attacker) as did:
        result = measure(honest)
    assert did["streams"] > ASKED_AT_ONCE
    assert "cut off" not in did
    assert result.in_time == result.offered > 0
