"""Compiled rules on disk: found again, not needed where nothing can be written, and told about where they are missing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

REHEARSED = """
import json, sys
from stepstream_server.engine.compiled import cache_folder
from stepstream_server.engine.steps import rehearsal
before = rehearsal.is_prepared()
rehearsal.rehearse()
from stepstream_server.engine.steps import admission
print(json.dumps([before, sum(admission.admit.stats.cache_hits.values()), str(cache_folder())]))
"""
UNPRIVILEGED = 65534  # nobody


def rehearsed(folder: Path, **options: object) -> tuple[bool, int, str]:
    """In a process of its own: whether the rules lay there before, how often the largest was found, and where."""
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(folder)}
    command = [sys.executable, "-c", REHEARSED]
    run = subprocess.run(command, capture_output=True, text=True, env=environment, check=True, **options)  # type: ignore[call-overload]
    before, hits, where = json.loads(run.stdout)
    return before, hits, where


@pytest.fixture(scope="module")
def filled() -> Iterator[Path]:
    """A folder with compiled rules, as `stepstream-server compile` fills it, that everybody may read."""
    with tempfile.TemporaryDirectory() as folder:
        yield compiled_into(Path(folder))


def compiled_into(folder: Path) -> Path:
    """Fills a folder."""
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(folder)}
    command = [sys.executable, "-m", "stepstream_server", "compile"]
    run = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert run.stdout == f"compiled into {folder}/stepstream\n"
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return folder


@pytest.mark.slow
def test_what_was_compiled_is_found_by_the_next_process(filled: Path) -> None:
    """In the folder that the environment names."""
    assert rehearsed(filled) == (True, 1, f"{filled}/stepstream")


@pytest.mark.slow
@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody who may not write here")
def test_a_folder_that_cannot_be_written_to_is_read(filled: Path) -> None:
    """By a user without a home, as on a file system that is mounted read-only."""
    for parent in (*Path(sys.executable).parents, *Path(sys.executable).resolve().parents):
        if not parent.stat().st_mode & 0o001:
            pytest.skip(f"others may not enter {parent}, where the interpreter is")
    assert rehearsed(filled, user=UNPRIVILEGED, cwd="/") == (True, 1, f"{filled}/stepstream")


@pytest.mark.slow
def test_other_sources_are_not_taken_for_these(filled: Path, tmp_path: Path) -> None:
    """A digest of the engine stands in each index: rules that were compiled of other lines are compiled again."""
    code = "from stepstream_server.engine import compiled\ncompiled._digest = lambda: 'another'\n" + REHEARSED.replace(
        "rehearsal.rehearse()\n", ""
    ).replace("sum(admission.admit.stats.cache_hits.values())", "0")
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(filled)}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert json.loads(run.stdout)[0] is False


def test_workers_and_clients_do_not_bring_the_compiler_along() -> None:
    """It takes half a second and a hundred megabytes to import."""
    code = "import sys, stepstream, stepstream_server.worker; print('numba' in sys.modules, 'llvmlite' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "False False\n"
