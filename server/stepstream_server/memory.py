"""Memory that a burst has taken is given back to the system once it is over.

Neither Python nor the C library does so unasked. Calls that ended by being reset lie in cycles, which only a look for garbage
over all objects finds, and Python looks so rarely that an idle server never does; what is free lies in pieces that the allocator
keeps. A server that was flooded once would stay as large as it was at its largest.

Nor does memory that was set aside stay untaken by itself: see `map_arrays`.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
from collections.abc import Callable
from pathlib import Path

# Arrays that have pages of their own: at the start, when room for sessions is set aside; and while the server serves, when the
# arrays of a turn are made anew all the time, and each page would cost a fault: the most that glibc comes to by itself.
STARTING_BYTES, SERVING_BYTES = 1 << 20, 32 << 20
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_FIRST_SECONDS = 10.0  # after growth was seen; the longest that a burst's memory is kept
_LONGEST_SECONDS = 640.0  # doubled up to here while nothing is to be had: it may take a tenth of a second where much is in use
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt(3)
_WORTH_BYTES = 8 << 20  # of growth, and of what comes back: less is not worth another look


class Memory:
    """When to look for memory that can be given back: soon after growth, then more and more seldom while there is none."""

    def __init__(self, resident: Callable[[], int], give_back: Callable[[], None], now: float) -> None:
        """resident: bytes of this process that are in RAM."""
        self._resident = resident
        self._give_back = give_back
        self._least = resident()
        self._pause = _FIRST_SECONDS
        self._next = now + self._pause

    def look(self, now: float) -> None:
        """Gives back what can be, if it is time for it and the process is larger than it once was. now: monotonic seconds."""
        before = self._resident()
        if before < self._least + _WORTH_BYTES:
            self._least = min(self._least, before)
            self._pause = _FIRST_SECONDS
            self._next = now + self._pause
        elif now >= self._next:
            self._give_back()
            after = self._resident()
            self._pause = _FIRST_SECONDS if before - after >= _WORTH_BYTES else min(2 * self._pause, _LONGEST_SECONDS)
            self._next = now + self._pause


def resident_bytes() -> int:
    """Bytes of this process that are in RAM; 0 where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE_BYTES
    except OSError:
        return 0


async def keep_small() -> None:
    """Looks every few seconds, for ever."""
    loop = asyncio.get_running_loop()
    memory = Memory(resident_bytes, give_back, loop.time())
    while True:
        await asyncio.sleep(_FIRST_SECONDS)
        memory.look(loop.time())


def map_arrays(least_bytes: int) -> None:
    """From now on each array of so many bytes has pages of its own from the system: zero, in RAM only once they are written, and
    returned when it is freed.

    Unasked the C library does so until the first large array is freed, as at a start many are; from then on it cuts those of up
    to 32 MiB out of what it has and writes zeros into them. Room for a hundred thousand sessions would be in RAM from the start.
    """
    if (choose := getattr(ctypes.CDLL(None), "mallopt", None)) is not None:  # glibc alone has both of these
        choose(_MMAP_THRESHOLD, least_bytes)
        choose(_TRIM_THRESHOLD, 2 * least_bytes)  # as it would by itself


def give_back() -> None:
    """Frees what nobody refers to, and returns free pages to the system. Takes time in proportion to what is in use."""
    gc.collect()
    if (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:  # glibc alone has it
        trim(0)
