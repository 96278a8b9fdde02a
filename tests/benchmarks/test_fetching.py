"""Fetching files out of packages: what is pinned is what is used, and nothing else ever runs."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import shutil
import tarfile
import zipfile
from pathlib import Path

import pytest

from benchmarks import fetching
from benchmarks.fetching import Package, Piece, fetch, missing

CONTENT = b"#!/bin/true\n"
MEMBER = "data/bin/tool"
PACKAGE = Package("PyPI", "tool", "1", "")
PIECE = Piece(PACKAGE, MEMBER, hashlib.sha256(CONTENT).hexdigest(), mode=0o755)


def _write_wheel(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(MEMBER, CONTENT)


def _write_tar(path: Path) -> None:
    with tarfile.open(path, "w:gz") as archive:
        entry = tarfile.TarInfo(MEMBER)
        entry.size = len(CONTENT)
        archive.addfile(entry, io.BytesIO(CONTENT))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is not there yet, and a wheel at hand in the place of the registry's."""
    wheel = tmp_path / "tool.whl"
    _write_wheel(wheel)
    monkeypatch.setattr(fetching, "_download", lambda package, folder: wheel)
    return tmp_path / "fetched"


def test_what_is_missing_is_named_with_the_command_that_helps(folder: Path) -> None:
    """The file, its package and the command are named where nothing was fetched."""
    expected = "tool of tool==1 is missing or is not the pinned file: run `python fetch.py`"
    assert missing([PIECE], folder, "python fetch.py") == expected


def test_fetched_file_has_its_mode_and_is_fetched_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is unpacked under its own name, can be run, and is not fetched again."""
    fetch([PIECE], folder)
    assert (folder / "tool").read_bytes() == CONTENT
    assert (folder / "tool").stat().st_mode & 0o777 == 0o755
    monkeypatch.delattr(fetching, "_download")
    fetch([PIECE], folder)
    assert [each.name for each in folder.iterdir()] == ["tool"]


def test_file_with_another_sum_is_not_kept(folder: Path) -> None:
    """An archive that holds another file than the pinned one is refused, and nothing is put in its place."""
    with pytest.raises(RuntimeError, match="expected sha256 0000"):
        fetch([dataclasses.replace(PIECE, sha256="0" * 64)], folder)
    assert list(folder.iterdir()) == []


def test_altered_file_counts_as_missing(folder: Path) -> None:
    """A file that was changed after it was fetched is not what was pinned, and is fetched anew."""
    fetch([PIECE], folder)
    (folder / "tool").write_bytes(b"other")
    assert "tool of tool==1 is missing or is not the pinned file" in missing([PIECE], folder, "")
    fetch([PIECE], folder)
    assert (folder / "tool").read_bytes() == CONTENT


def test_file_of_an_archive_of_npm_is_found(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A .tgz is read too."""
    archive = folder.parent / "tool-1.tgz"
    _write_tar(archive)
    monkeypatch.setattr(fetching, "_download", lambda package, folder: archive)
    fetch([dataclasses.replace(PIECE, package=Package("npm", "tool", "1", ""))], folder)
    assert (folder / "tool").read_bytes() == CONTENT


@pytest.mark.parametrize(("source", "suffix", "flag"), [(False, ".whl", "--only-binary"), (True, ".tar.gz", "--no-binary")])
def test_of_pypi_the_wheel_is_fetched_or_the_source_distribution(
    source: bool, suffix: str, flag: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pip is asked for the kind that was pinned, with its sum, so that it refuses another archive before it looks inside."""
    archive = tmp_path / f"tool-1{suffix}"
    (_write_tar if source else _write_wheel)(archive)
    asked: list[tuple[list[str], str]] = []

    def run(package: Package, command: list[str], folder: Path) -> None:
        asked.append((command, (folder / "requirements.txt").read_text()))
        shutil.copy(archive, folder)

    monkeypatch.setattr(fetching, "_run", run)
    package = Package("PyPI", "tool", "1", hashlib.sha256(archive.read_bytes()).hexdigest(), source=source)
    fetch([dataclasses.replace(PIECE, package=package)], tmp_path / "fetched")
    ((command, requirement),) = asked
    assert command[command.index(flag) + 1] == "tool"
    assert requirement == f"tool==1 --hash=sha256:{package.sha256}\n"
    assert (tmp_path / "fetched" / "tool").read_bytes() == CONTENT


def test_client_that_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without apt-get is told so in words."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeError, match="apt-get cannot be run, which downloads tool=1"):
        fetch([dataclasses.replace(PIECE, package=Package("Debian", "tool", "1", ""))], tmp_path / "fetched")


def test_a_package_that_cannot_be_had_does_not_keep_others_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its fault is returned, and the licence of those that were fetched is told."""
    lost, found = Package("npm", "lost", "1", "0"), Package("PyPI", "found", "2", "0")
    pieces = fetching.pinned({lost: {"package": {"a": "00"}}, found: {"in/side": {"b": "01", "c": "02"}}})
    assert pieces == (Piece(lost, "package/a", "00"), Piece(found, "in/side/b", "01"), Piece(found, "in/side/c", "02"))
    asked = []

    def fetch(several: list[Piece], folder: Path) -> None:
        asked.extend(several)
        if several[0].package == lost:
            raise RuntimeError("lost is away")

    monkeypatch.setattr(fetching, "fetch", fetch)
    assert fetching.fetch_each(pieces, {lost: "MIT", found: "BSD"}, tmp_path) == ["lost is away"]
    assert (tuple(asked), capsys.readouterr().out) == (pieces, f"{found} (PyPI): BSD\n")
