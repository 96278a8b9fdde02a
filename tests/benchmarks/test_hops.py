"""Ways between two processes: what goes in comes out, whatever fits at one time; engines answer and end."""

from __future__ import annotations

import os
import random
import select
from collections import deque

import pytest

from benchmarks.hops import WAYS, build, compare, engine, installed, paired


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    """Each in turn."""
    name: str = request.param
    if not installed(name):
        pytest.skip(f"{name} is not installed")
    return name


def test_frames_arrive_whole_and_in_order(way: str) -> None:
    """Frames of all sizes, at one time more than a receiver takes and in all more than a ring has; the rest goes when it can."""
    rng = random.Random(0)
    with paired(way) as (ours, theirs):
        here, there = build(way, theirs, engine=True), build(way, ours, engine=False)
        for _ in range(3):
            frames = [rng.randbytes(rng.choice((0, 1, 200, 8192, 300_000))) for _ in range(60)]
            expected = deque(frames)
            out = there.send(frames)
            while expected:
                select.select([here.wakes], [], [])
                for frame in here.receive():
                    assert bytes(frame) == expected.popleft()
                out = out or there.flush()
            assert out
        here.close()
        there.close()


def test_a_ring_says_that_it_is_full() -> None:
    """It would overwrite what nobody has read."""
    with paired("ring") as (ours, theirs):
        ends = [build("ring", each, engine=engine) for each, engine in ((ours, False), (theirs, True))]
        with pytest.raises(BufferError, match="in flight"):
            ends[0].send([bytes(9 << 20)])
        for each in ends:
            each.close()


def test_all_ways_have_figures() -> None:
    """Those that are there."""
    core = min(os.sched_getaffinity(0))
    rows = list(compare({"small": 200, "large": 256 << 10}, rounds=1, seconds=0.01, cores=(core, core)))
    ways = [each for each in WAYS if installed(each)]
    assert [row[:2] for row in rows] == [(size, each) for size in ("small", "large") for each in ways]
    assert all(sample.p50 > 0 and sample.rate > 0 and sample.cpu > 0 for row in rows for sample in row[2:])


def test_an_engine_ends_with_its_worker(way: str) -> None:
    """Though it was told nothing, and nobody stops it."""
    core = min(os.sched_getaffinity(0))
    with engine(way, (core, core)) as (_, pid):
        os.kill(pid, 0)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
