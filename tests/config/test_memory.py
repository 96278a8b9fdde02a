"""Memory is given back at the right time, and to the last."""

from __future__ import annotations

import ctypes
import gc
import subprocess
import sys
import weakref

import pytest

from stepstream_server.memory import Memory, give_back, resident_bytes

MIB = 1 << 20


class Process:
    """A process of some size; memory that it does not need any more can be given back."""

    def __init__(self, size: int) -> None:
        self.size = size  # MiB
        self.spare = 0
        self.given_back: list[float] = []  # seconds at which it was
        self.now = 0.0
        self.memory = Memory(lambda: (self.size + self.spare) * MIB, self._give_back, self.now)

    def _give_back(self) -> None:
        self.given_back.append(self.now)
        self.spare = 0

    def run(self, seconds: int) -> None:
        """Looks every ten seconds."""
        for _ in range(0, seconds, 10):
            self.now += 10
            self.memory.look(self.now)


def test_what_does_not_grow_is_left_alone() -> None:
    """A few MiB more or less are no growth."""
    process = Process(100)
    process.run(100)
    process.spare = 7
    process.run(10_000)
    assert process.given_back == []


def test_a_burst_is_given_back_within_seconds() -> None:
    """Each of several bursts is given back, the last one like the first."""
    process = Process(100)
    for _ in range(3):
        process.run(1000)
        process.spare = 800
        process.run(20)
        assert process.spare == 0
    assert len(process.given_back) == 3


def test_what_is_in_use_is_looked_at_more_and_more_seldom() -> None:
    """Looking takes time in proportion to it."""
    process = Process(100)
    process.size = 900
    process.run(5000)
    pauses = [after - before for before, after in zip(process.given_back, process.given_back[1:], strict=False)]
    assert pauses == [20, 40, 80, 160, 320, 640, 640, 640, 640, 640, 640][: len(pauses)]
    assert len(pauses) >= 9


def test_a_burst_that_was_looked_at_while_it_lasted_is_given_back_later() -> None:
    """A burst that lasted is given back after no more than as long again, and the next one soon."""
    process = Process(100)
    process.size = 900
    process.run(300)
    process.size, process.spare = 100, 800
    process.run(320)
    assert process.spare == 0
    process.spare = 800
    process.run(20)
    assert process.spare == 0


class Ring:
    """Refers to itself, as calls do that were reset."""

    def __init__(self) -> None:
        self.own = self


def test_what_nobody_refers_to_is_freed() -> None:
    """Cycles are freed that have grown so old that Python would hardly look at them again."""
    ring = Ring()
    gc.collect()
    seen = weakref.ref(ring)
    del ring
    assert seen() is not None
    give_back()
    assert seen() is None


def test_this_process_has_a_size() -> None:
    """The size is in bytes: an interpreter takes some MiB."""
    if not resident_bytes():
        pytest.skip("no /proc here")
    assert 4 * MIB < resident_bytes() < 1 << 40


# Prints the MiB that are taken by two arrays of zeros of 12 MiB and by two larger ones that were freed before.
SET_ASIDE = """
import sys
import numpy as np
from stepstream_server.memory import STARTING_BYTES, map_arrays, resident_bytes
if sys.argv[1:]:
    map_arrays(STARTING_BYTES)
before = resident_bytes()
for mib in (30, 25):
    np.ones(mib << 20, np.uint8)
held = [np.zeros(12 << 20, np.uint8) for _ in range(2)]
print((resident_bytes() - before) >> 20)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="not glibc's allocator")
def test_room_that_is_set_aside_takes_memory_when_it_is_written() -> None:
    """Large arrays may have been freed before, as at a start; left alone, the allocator gives what it kept of them, cleared."""

    def taken(*flags: str) -> int:
        done = subprocess.run([sys.executable, "-c", SET_ASIDE, *flags], capture_output=True, text=True, check=True)
        return int(done.stdout)

    assert taken("untouched") <= 2
    assert taken() >= 20  # else the allocator has changed, and need not be told
