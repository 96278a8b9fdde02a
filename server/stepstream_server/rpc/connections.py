"""How many connections a front door takes, and the word in the log while it takes no more.

gRPC closes a connection beyond them as soon as it is made. Were descriptors to run out instead, scrapes of the metrics would
wait, and the server could open no file.
"""

from __future__ import annotations

import asyncio
import math
import os
import resource
import sys
from collections.abc import Callable

import structlog

from stepstream_server.config import DoorSettings

# Descriptors that are not for connections: engines, files, libraries, and the scrapes of the process that has the metrics.
_KEPT = 128
_LOOK_SECONDS = 1.0  # between two looks at how many there are
_FOLDER = "/proc/self/fd" if sys.platform == "linux" else "/dev/fd"  # of the process's descriptors

log = structlog.get_logger(__name__)


def most_connections(settings: DoorSettings) -> int:
    """Twice as many as streams and calls, for those between two calls; fewer where descriptors are scarce."""
    descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    wanted = 2 * (settings.max_streams + settings.max_calls)
    if descriptors == resource.RLIM_INFINITY:
        return wanted
    return min(wanted, max(descriptors - _KEPT, descriptors // 2))


class Connections:
    """Says once when all connections are in use, and once when there is room again."""

    def __init__(self, most: int, count: Callable[[], float] | None = None) -> None:
        """count: tells how many descriptors are open; the system's word if None."""
        self._most = most
        self._count = count or _open_descriptors
        self._others = self._count()  # open before there was any connection
        self._full = False

    async def watch(self) -> None:
        """Looks every second, for ever."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            self.look()

    def look(self) -> None:
        """Compares what there is with what may be."""
        full = self._count() - self._others >= self._most
        if full and not self._full:
            log.warning("connections_refused", most=self._most, reason="all are in use; further ones are closed at once")
        if self._full and not full:
            log.info("connections_taken_again", most=self._most)
        self._full = full


def _open_descriptors() -> float:
    """Linux tells from 6.2 on, as the size of a folder; else they are counted, which takes some 2 us for each, and a descriptor:
    where none is left they are without number."""
    if sys.platform == "linux" and (told := os.stat(_FOLDER).st_size):
        return told
    try:
        return len(os.listdir(_FOLDER))
    except OSError:
        return math.inf
