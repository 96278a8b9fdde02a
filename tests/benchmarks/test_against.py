"""This checkout compared with another: when that says something, and whom it can be compared with."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from benchmarks import against
from benchmarks.against import ROWS, Compared, Verdict, chosen, compare, verdict
from benchmarks.process import HERE, ROOT, Checkout, checkout_at
from benchmarks.report import Line, line
from benchmarks.timing import SMOKE, Effort
from stepstream_server.bundles import Bundle


@pytest.mark.parametrize(
    ("this", "more", "expected"),
    [
        ([9.0, 11.0, 20.0], True, ""),
        ([12.0], True, ""),
        ([13.0, 12.5, 1.0], True, "faster"),
        ([13.0, 12.5, 1.0], False, "slower"),
        ([7.0, 7.9, 99.0], True, "slower"),
        ([7.0, 7.9, 99.0], False, "faster"),
    ],
)
def test_verdict_wants_a_median_outside_the_others_range(this: Sequence[float], more: bool, expected: Verdict) -> None:
    """However far the own rounds reach: it is the middle that counts, against the extremes of the other."""
    assert verdict(this, [8.0, 10.0, 12.0], more=more) == expected


def test_a_single_round_gives_no_verdict() -> None:
    """One figure has no range that another could lie outside of."""
    assert verdict([1.0], [2.0], more=True) == ""


@pytest.mark.parametrize(
    ("figure", "expected"),
    [
        ("server steps/s", "faster"),
        ("tokens/s", "faster"),
        ("×, more is better", "faster"),
        ("×", "slower"),
        ("server p50 µs", "slower"),
        ("server CPU µs/step", "slower"),
        ("s", "slower"),
    ],
)
def test_figures_know_which_way_is_better(figure: str, expected: Verdict) -> None:
    """More per second is faster, and more of anything else that is measured is slower."""
    assert Compared("2", "case", figure, [3.0, 3.0], [1.0, 2.0]).verdict == expected


def test_a_figure_of_nothing_has_no_ratio() -> None:
    """Processor time may be too short to be seen."""
    assert Compared("9", "case", "server CPU µs/step", [1.0], [0.0]).ratio is None


def test_streams_without_end_can_be_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Row 15 is measured of both checkouts in turn, without what it compares with a server at rest; figures of the echo are not
    the checkouts'."""
    measured: list[str] = []

    def row(bundle: Bundle, effort: Effort, tell: Callable[[str], None], checkout: Checkout) -> list[Line]:
        measured.append(checkout.python)
        value = 1.0 if checkout.python == "this" else 2.0
        return [line(15, "case", [value], "×", 2.0, beside={"server p99 µs": value, "echo p99 µs": 1.0})]

    monkeypatch.setattr(against, "row_15_streams", row)
    sides = {name: dataclasses.replace(HERE, python=name) for name in ("this", "other")}
    compared = compare(sides, ["15"], dataclasses.replace(SMOKE, rounds=2), lambda _: None)
    assert measured == ["this", "other", "other", "this"]
    assert [(each.row, each.figure, each.this, each.other) for each in compared] == [
        ("15", figure, [1.0, 1.0], [2.0, 2.0]) for figure in ("×", "server p99 µs")
    ]


def test_rows_without_a_comparison_are_refused() -> None:
    """The sentence names the rows, and those that can be compared."""
    assert chosen(None) == ROWS
    assert chosen("2,turns") == ("2", "turns")
    with pytest.raises(ValueError, match=r"^cannot compare row 1, 6 with another checkout's; can compare 2, 3, .*, turns$"):
        chosen("1,2,6")


def test_a_folder_without_an_environment_is_refused(tmp_path: Path) -> None:
    """It says how to make one, before anything is measured."""
    with pytest.raises(ValueError, match=r"no \.venv/bin/python there; make its environment first"):
        checkout_at(tmp_path)
    done = _run("--against", str(tmp_path))
    assert (done.returncode, done.stdout) == (2, "")
    assert "no .venv/bin/python there" in done.stderr


def test_this_checkout_against_itself(tmp_path: Path) -> None:
    """Both servers are measured and written, with a figure of each for every round."""
    out = tmp_path / "against.json"
    done = _run("--against", str(ROOT), "--smoke", "--rows", "9", "--workers", "0", "--out", str(out))
    assert done.returncode == 0, done.stderr
    written = json.loads(out.read_text())
    assert written["this"] == written["other"] == str(ROOT)
    assert any("as told: 0" in note for note in written["notes"])
    assert {(each["row"], each["figure"]) for each in written["figures"]} == {("9", "×"), ("9", "server CPU ms per 1,000 steps")}
    assert all((len(each["this"]), len(each["other"]), each["verdict"]) == (1, 1, "") for each in written["figures"])
    assert "64 streams: CPU per step" in done.stdout


def _run(*flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "benchmarks", *flags], cwd=ROOT, capture_output=True, text=True)
