"""The suite as a whole: does it run, and does it say everything?"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import __main__ as suite
from benchmarks import chart, machine
from benchmarks.analyzed import ROWS as ANALYZED
from benchmarks.fetch_perf_analyzer import missing
from benchmarks.process import ROOT
from benchmarks.report import TITLES, line, markdown, read

REPORTED_ONLY = {16, 18, 20, 23}  # without a target
REFERENCE = ROOT / "benchmarks" / "results" / "reference.json"


def _run(*flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "benchmarks", *flags], cwd=ROOT, capture_output=True, text=True)


@pytest.mark.slow
@pytest.mark.timeout(900)  # dozens of processes are started, most of them one after the other; beside other work it took 300
def test_smoke_run_reports_every_row(tmp_path: Path) -> None:
    """The smallest run starts every server, finds every answer right, and writes each row with its figures and verdict."""
    done = _run("--smoke", "--out", str(tmp_path / "smoke.json"))
    assert done.returncode == 0, done.stderr
    data = json.loads((tmp_path / "smoke.json").read_text())
    rows = set(TITLES) - (ANALYZED if missing() else set())
    assert {line["row"] for line in data["lines"]} == rows
    assert {line["row"] for line in data["lines"] if line["met"] is not None} == rows - REPORTED_ONLY
    assert any("are left out" in note for note in data["notes"]) == bool(missing())
    assert all(line["low"] <= line["value"] <= line["high"] for line in data["lines"])
    assert data["machine"]["cores"] >= 1
    assert "smoke run" in done.stdout


def test_only_the_rows_asked_for_are_measured(tmp_path: Path) -> None:
    """`--rows 1` measures and writes row 1 alone, and says how many rounds it took if it was told."""
    done = _run("--smoke", "--rows", "1", "--rounds", "2", "--out", str(tmp_path / "one.json"))
    assert done.returncode == 0, done.stderr
    report = read(tmp_path / "one.json")
    assert {line.row for line in report.lines} == {1}
    assert any(line.low < line.high for line in report.lines)
    assert "Rounds of every row, as told: 2." in report.notes


@pytest.mark.parametrize("told", [None, 0], ids=["by default", "told"])
def test_server_without_workers_is_noted(monkeypatch: pytest.MonkeyPatch, told: int | None) -> None:
    """The echo has a process all the same, and on few cores it is the event loop that wants one."""
    monkeypatch.setattr(suite, "default_workers", lambda: 0 if told is None else 3)
    monkeypatch.setattr(machine, "describe", lambda: {"cores": 2})
    workers, cores, *_ = suite._notes({1}, told)
    assert workers.endswith(": 0; processes of the echo: 1.")
    assert "event loop where it has none" in cores


def test_no_rounds_are_refused() -> None:
    """Nothing can be said of what was not measured."""
    done = _run("--rounds", "0")
    assert done.returncode == 2
    assert "expected at least one round, got 0" in done.stderr


def test_unknown_rows_are_refused() -> None:
    """A row that the suite does not have is named, beside those that it has."""
    done = _run("--rows", "1,99")
    assert done.returncode == 2
    assert "no such row: [99]" in done.stderr


@pytest.fixture
def adopt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[Path], str]:
    """Makes a result the documented one, in copies of the reference and of a document, whose text it returns."""
    document, reference = tmp_path / "performance.md", tmp_path / "reference.json"
    reference.write_bytes(REFERENCE.read_bytes())
    document.write_text("before\n<!-- begin of figures -->\nold\n<!-- end of figures -->\nafter\n")

    def adopted(result: Path) -> str:
        monkeypatch.setattr(suite, "_DOCUMENT", document)
        monkeypatch.setattr(suite, "_REFERENCE", reference)
        monkeypatch.setattr(sys, "argv", ["benchmarks", "--adopt", str(result)])
        suite.main()
        return document.read_text()

    return adopted


def test_adopted_result_is_documented(adopt: Callable[[Path], str], tmp_path: Path) -> None:
    """A result becomes the reference, its table and its plots stand in the documentation, and what is around them stays."""
    report, text = read(REFERENCE), adopt(REFERENCE)
    assert text.startswith(f"before\n<!-- begin of figures -->\n{markdown(report)}")
    assert text.endswith("<!-- end of figures -->\nafter\n")
    assert read(tmp_path / "reference.json") == report
    for picture in ("throughput.png", "memory.png"):
        assert f"]({picture})" in text
        assert (tmp_path / picture).read_bytes().startswith(b"\x89PNG")


def test_rows_with_new_cases_are_adopted_beside_old_ones(
    monkeypatch: pytest.MonkeyPatch, adopt: Callable[[Path], str], tmp_path: Path
) -> None:
    """All cases of a row that was measured anew are replaced, however they were called; the picture shows rows of both runs."""
    drawn: list[str] = []
    monkeypatch.setattr(chart, "_bar", lambda axes, at, each: drawn.append(each.case))
    earlier = read(REFERENCE)
    lines = [line(5, "a new ratio", [3.0], "×", 2.0, "at least"), line(15, "another one", [1.5], "×", 2.0)]
    dataclasses.replace(earlier, notes=["said anew"], lines=lines).write(tmp_path / "part.json")
    text = adopt(tmp_path / "part.json")
    kept = [each for each in earlier.lines if each.row not in (5, 15)]
    assert read(tmp_path / "reference.json").lines == sorted([*lines, *kept], key=lambda each: each.row)
    assert "| 5 | a new ratio | 3 × | 3 to 3 | ≥ 2 × | met |  |" in text
    assert "Rows 5, 15 were measured in a run of their own: said anew" in text
    assert sorted(drawn) == sorted(each.case for each in [*lines, *kept] if each.unit == "×" and each.target is not None)


def test_documented_table_is_the_reference_result() -> None:
    """docs/performance.md shows the committed result as it is, row by row."""
    report = read(REFERENCE)
    assert report.effort == "full"
    page = (ROOT / "docs" / "performance.md").read_text()
    later = {row for row in TITLES if f"Row {row} came later" in page}
    assert {line.row for line in report.lines} == set(TITLES) - later
    assert markdown(report) in page
