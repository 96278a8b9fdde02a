"""How many threads a launch may use."""

from __future__ import annotations

import os

from stepstream_server.config import BackendSettings


def compute_threads(settings: BackendSettings) -> int:
    """As set, or all cores that this process may use but one, which the front door needs."""
    return settings.threads or max(1, len(os.sched_getaffinity(0)) - 1)
