"""The real command, but for its workers, which end before they have begun."""

from __future__ import annotations

from stepstream_server import cli
from stepstream_server.ipc import crew

if __name__ == "__main__":
    crew.MODULE = "stepstream_server.errors"  # a module that does nothing when it is run
    cli.main()
