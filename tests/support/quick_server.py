"""The real command, but for workers that die young: they are replaced at once, so that a test can kill many of them."""

from __future__ import annotations

from stepstream_server import cli
from stepstream_server.ipc import crew

if __name__ == "__main__":
    crew._YOUNG_SECONDS = 0.0
    cli.main()
