"""How many cores this process may use, and how they are divided between the door and computing."""

from __future__ import annotations

import os
from pathlib import Path

_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # of a container, as cgroup v2 shows it: "QUOTA PERIOD" in microseconds, or "max PERIOD"
_MOST_WORKERS = 4


def usable_cores(quota: Path = _QUOTA) -> int:
    """Cores that the system lets this process run on at a time: by affinity, and by the limit of its container."""
    cores = len(os.sched_getaffinity(0))
    try:
        allowed, period = quota.read_text().split()
        return max(1, min(cores, round(int(allowed) / int(period))))
    except (OSError, ValueError):  # there is no such limit
        return cores


def default_workers() -> int:
    """Worker processes: half of the cores, up to four.

    On 2 cores one worker moves blocks 1.3 times as fast as none, and two are slower than one. On 16 cores three moved 1.9 times
    as many single steps as none, and eight 1.4 times: the more there are, the fewer steps each brings, and a turn costs the
    engine nearly the same for few as for many.
    """
    return max(1, min(usable_cores() // 2, _MOST_WORKERS))


def default_threads() -> int:
    """Threads of one launch: the cores that this leaves. A small model has no use for more than one; large ones do."""
    return max(1, usable_cores() - default_workers())
