"""A run of everything at once: how it is judged, and that everything is really used."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import pytest

from benchmarks import endurance
from benchmarks.endurance import Balance, Run, Trace, judge, measure, tell
from benchmarks.features import FEATURES
from benchmarks.process import Vitals
from benchmarks.users import UsersResult

MIB = 1 << 20
QUIET = Vitals(own=100 * MIB, resident=150 * MIB, descriptors=40, threads=9)
USED = UsersResult(used={each.__name__: 9 for each in FEATURES}, broken=0, skipped=0, failed=0, failures=[])
EVEN = Balance(opened={"OPENED": 5, "FORKED": 2}, closed={"CLOSED": 6, "EXPIRED": 1}, left={"streams": 0})


def trace(*vitals: Vitals) -> Trace:
    """A sample each second."""
    return Trace([float(at) for at in range(len(vitals))], list(vitals))


def growing(name: str, *values: int) -> Trace:
    """A process of which only one thing changes."""
    return trace(*(dataclasses.replace(QUIET, **{name: value}) for value in values))


def run_of(*processes: Trace, balance: Balance = EVEN, features: UsersResult = USED) -> Run:
    """A hundred seconds."""
    named = {f"process {number}": each for number, each in enumerate(processes)}
    return Run(100.0, {"server": 0.3, "client": 0.2}, named, balance, features)


def test_warm_up_does_not_count_and_growth_behind_it_does() -> None:
    """Memory of the first half may grow; in the second half it may by 1 %."""
    warm = [*range(50 * MIB, 100 * MIB, MIB), *[100 * MIB] * 51]
    assert judge("main", growing("own", *warm)).flat
    assert judge("main", growing("own", *(100 * MIB + at * MIB // 100 for at in range(101)))).flat
    for name in ("own", "resident"):
        verdict = judge("main", growing(name, *(100 * MIB + at * MIB // 25 for at in range(101))))
        assert not verdict.flat
        assert getattr(verdict, name) == pytest.approx((102 * MIB, 104 * MIB), rel=1e-3)


@pytest.mark.parametrize("name", ["descriptors", "threads"])
def test_what_stays_at_rest_counts_and_what_comes_and_goes_does_not(name: str) -> None:
    """The least of the last quarter is compared with the least of the third."""
    assert judge("main", growing(name, *[40, 70, 55, 40] * 25)).flat
    verdict = judge("main", growing(name, *[40, 70, 55, 40] * 18, *[41, 70, 55, 41] * 7))
    assert not verdict.flat
    assert getattr(verdict, name) == (40, 41)


def test_processes_that_came_or_went_are_not_judged() -> None:
    """A worker that was killed, and the one in its place: their memory begins anew."""
    whole = trace(*[QUIET] * 100)
    killed = trace(*[QUIET] * 60)
    replacement = Trace([float(at) for at in range(61, 100)], [QUIET] * 39)
    assert [each.process for each in run_of(whole, killed, replacement).verdicts()] == ["process 0"]


@pytest.mark.parametrize(
    ("balance", "features"),
    [
        (dataclasses.replace(EVEN, closed={"CLOSED": 6}), USED),
        (dataclasses.replace(EVEN, left={"streams": 1}), USED),
        (EVEN, dataclasses.replace(USED, failed=1, failures=["groups: ValueError: shape"])),
        (EVEN, dataclasses.replace(USED, used=USED.used | {"groups": 0})),
    ],
)
def test_what_is_left_over_fails_or_is_not_used_fails_the_run(balance: Balance, features: UsersResult) -> None:
    """Memory is not all."""
    assert run_of(trace(*[QUIET] * 100)).passed
    assert not run_of(trace(*[QUIET] * 100), balance=balance, features=features).passed


def test_a_run_is_told_as_a_table() -> None:
    """A row for each process, then what was counted."""
    lines = list(tell(run_of(growing("own", *(100 * MIB + at * MIB // 25 for at in range(101))))))
    assert lines[2] == "| process 0 | 102.00, 104.00 | +1.96% | 150.00, 150.00 | 40, 40 | 9, 9 | grew |"
    assert "opened: 7 (OPENED 5, FORKED 2)" in lines
    assert "left over: nothing" in lines


@pytest.mark.slow
def test_everything_is_used_and_all_that_was_opened_is_closed(long_run: bool) -> None:
    """Some seconds of the real thing; too short for memory to be judged."""
    for workers in (2, 0) if long_run else (2,):
        run = measure(0.1, 8.0, ("--workers", str(workers)))
        assert run.features.failures == []
        assert [name for name, count in run.features.used.items() if not count] == []
        assert run.balance.even
        assert sum(run.balance.opened.values()) > 100
        assert set(run.traces) == {"main", "client", *(f"worker {number + 1}" for number in range(workers))}


def test_command_says_by_its_code_whether_the_run_passed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """0 or 1, a table, and all samples in a file."""
    asked = []

    def measured(minutes: float, rate: float, flags: tuple[str, ...], kill: float) -> Run:
        asked.append((minutes, rate, flags, kill))
        return run_of(growing("own", *asked_memory[len(asked) - 1]))

    asked_memory = [[100 * MIB] * 100, [at * MIB for at in range(100, 200)]]
    monkeypatch.setattr(endurance, "measure", measured)
    monkeypatch.setattr(
        sys, "argv", ["endurance", "--minutes", "2", "--json", str(tmp_path / "run.json"), "--log.level", "error"]
    )
    assert [endurance.main(), endurance.main()] == [0, 1]
    assert asked[0] == (2.0, 12.0, ("--workers", "2", "--log.level", "error"), 0.0)
    assert "| process 0 | 100.00, 100.00 | +0.00%" in capsys.readouterr().out
    assert len(json.loads((tmp_path / "run.json").read_text())["traces"]["process 0"]["at"]) == 100
