"""How many threads a launch may use."""

from __future__ import annotations

from stepstream_server.config import BackendSettings
from stepstream_server.cores import default_threads


def compute_threads(settings: BackendSettings) -> int:
    """As set, or the cores that the front door leaves."""
    return settings.threads or default_threads()
