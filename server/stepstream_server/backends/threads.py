"""How many threads a launch may use."""

from __future__ import annotations

from stepstream_server.config import BackendSettings
from stepstream_server.cores import WIDE_ROWS, default_threads

_ALONE_BYTES = 2 << 20  # of weights: up to here a smaller launch is over before threads have woken


def is_small(weight_bytes: int) -> bool:
    """Tells whether a launch of few rows of a model is over before threads have woken."""
    return weight_bytes <= _ALONE_BYTES


def compute_threads(settings: BackendSettings, weight_bytes: int, rows: int) -> int:
    """As set; or one for a launch of few rows of a small model, else the cores that the front door leaves."""
    small = is_small(weight_bytes) and rows < WIDE_ROWS
    return settings.threads or (1 if small else default_threads())
