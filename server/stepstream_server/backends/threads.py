"""How many threads a launch may use."""

from __future__ import annotations

from stepstream_server.config import BackendSettings
from stepstream_server.cores import default_threads

_ALONE_BYTES = 2 << 20  # of weights: up to here a launch is over before threads have woken


def compute_threads(settings: BackendSettings, weight_bytes: int) -> int:
    """As set, or one for a small model and the cores that the front door leaves for a large one."""
    return settings.threads or (1 if weight_bytes <= _ALONE_BYTES else default_threads())
