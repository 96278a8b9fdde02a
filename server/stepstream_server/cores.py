"""How many cores this process may use, and how they are divided between the door and computing."""

from __future__ import annotations

import os
from pathlib import Path

_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # of a container, as cgroup v2 shows it: "QUOTA PERIOD" in microseconds, or "max PERIOD"
WIDE_ROWS = 256  # from here on a launch of any model takes a millisecond or so, which is worth waking threads for
_FEW_CORES = 3  # up to here the engine and gRPC share a process
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
    """Worker processes: none on up to three cores, else half of the cores, up to four.

    On 2 cores none make 1.4 times the single steps that one makes, with half of its processor time, and a lone step takes 0.6
    times as long; blocks move as fast. On 16 cores three moved 1.9 times as many single steps as none, and eight 1.4 times: the
    more there are, the fewer steps each brings, and a turn costs the engine nearly the same for few as for many.
    """
    cores = usable_cores()
    return min(cores // 2, _MOST_WORKERS) if cores > _FEW_CORES else 0


def default_threads() -> int:
    """Threads of one launch: the cores that this leaves. Few rows of a small model have no use for more than one."""
    return max(1, usable_cores() - default_workers())
