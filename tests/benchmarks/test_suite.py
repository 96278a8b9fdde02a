"""The suite as a whole: does it run, and does it say everything?"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import __main__ as suite
from benchmarks import machine
from benchmarks.analyzed import ROWS as ANALYZED
from benchmarks.fetch_perf_analyzer import missing
from benchmarks.process import ROOT
from benchmarks.report import TITLES, markdown, read

REPORTED_ONLY = {16, 18, 23} | ({20} if missing() else set())  # without a target
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


def test_adopted_result_is_documented(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A result becomes the reference, its table and its plots stand in the documentation, and what is around them stays."""
    document, reference = tmp_path / "performance.md", tmp_path / "reference.json"
    reference.write_bytes(REFERENCE.read_bytes())
    document.write_text("before\n<!-- begin of figures -->\nold\n<!-- end of figures -->\nafter\n")
    monkeypatch.setattr(suite, "_DOCUMENT", document)
    monkeypatch.setattr(suite, "_REFERENCE", reference)
    monkeypatch.setattr(sys, "argv", ["benchmarks", "--adopt", str(REFERENCE)])
    suite.main()
    report, text = read(REFERENCE), document.read_text()
    assert text.startswith(f"before\n<!-- begin of figures -->\n{markdown(report)}")
    assert text.endswith("<!-- end of figures -->\nafter\n")
    assert read(reference) == report
    for picture in ("throughput.png", "memory.png"):
        assert f"]({picture})" in text
        assert (tmp_path / picture).read_bytes().startswith(b"\x89PNG")


def test_documented_table_is_the_reference_result() -> None:
    """docs/performance.md shows the committed result as it is, row by row."""
    report = read(REFERENCE)
    assert report.effort == "full"
    assert {line.row for line in report.lines} == set(TITLES)
    assert markdown(report) in (ROOT / "docs" / "performance.md").read_text()
