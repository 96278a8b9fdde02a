"""What is read of processes: all of a tree's, whatever comes and goes in it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from benchmarks import process
from benchmarks.process import cpu_seconds, resident_bytes, started

MEMORY = 64 << 20
CPU_SECONDS = 0.1
# A process that starts another, which does so much before it says so, and ends at the next line of its input or its end.
_INNER = f"""
import sys, time
held = b"x" * {MEMORY}
while time.process_time() < {CPU_SECONDS}:
    pass
print("done", flush=True)
sys.stdin.readline()
"""
_OUTER = f"""
import subprocess, sys
inner = subprocess.Popen([sys.executable, "-c", {_INNER!r}])
inner.wait()
print("ended", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def tree() -> Iterator[subprocess.Popen[str]]:
    """A process whose child has done its work and waits."""
    with started([sys.executable, "-c", _OUTER]) as outer:
        assert _line(outer) == "done"
        yield outer


def _line(running: subprocess.Popen[str]) -> str:
    assert running.stdout is not None
    return running.stdout.readline().strip()


def test_descendants_count(tree: subprocess.Popen[str]) -> None:
    """Memory and processor time of a child are its parent's."""
    assert resident_bytes(tree.pid) >= MEMORY
    assert cpu_seconds(tree.pid) >= CPU_SECONDS / 2  # the kernel rounds each part down to a hundredth


def test_time_of_a_child_that_ended_stays(tree: subprocess.Popen[str]) -> None:
    """What a child has spent does not vanish with it, so that a difference of two readings is never too small; memory does."""
    before = cpu_seconds(tree.pid)
    assert tree.stdin is not None
    tree.stdin.write("\n")
    tree.stdin.flush()
    assert _line(tree) == "ended"
    assert cpu_seconds(tree.pid) >= before


def test_processes_may_vanish(monkeypatch: pytest.MonkeyPatch, tree: subprocess.Popen[str]) -> None:
    """A child that is gone when it is its turn counts nothing; one that was asked for must be there."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    monkeypatch.setattr(process, "children", lambda pid: [ended.pid] if pid == tree.pid else [])
    assert 0 < resident_bytes(tree.pid) < MEMORY
    with pytest.raises(OSError, match=str(ended.pid)):
        cpu_seconds(ended.pid)
