"""Fetching perf_analyzer: what is missing is said with what helps."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import fetch_perf_analyzer as fetching
from benchmarks.fetch_perf_analyzer import PIECES, fetch, missing


def test_what_is_missing_is_named_with_the_command_that_helps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing was fetched, the first file, its wheel and the command are named."""
    monkeypatch.setattr(fetching, "FOLDER", tmp_path)
    monkeypatch.setattr(fetching, "_unsuitable", str)
    assert f"of {PIECES[0].package} is missing" in missing()
    assert "python -m benchmarks.fetch_perf_analyzer" in missing()


def test_other_machines_are_told_that_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the program does not exist for the processor, that is said, and nothing is fetched."""
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert missing() == "perf_analyzer is to be had for Linux on x86_64, and this is Linux on aarch64"
    with pytest.raises(RuntimeError, match="aarch64"):
        fetch()
