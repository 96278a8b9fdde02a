"""Reads a file of somebody else's whole, within bounds."""

from __future__ import annotations

import stat
from pathlib import Path

from stepstream_server.errors import BundleError


def read_file(path: Path, name: str, most_bytes: int) -> bytes:
    """The bytes of a file. Raises BundleError by its `name` for one that cannot be read or has more than `most_bytes`."""
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):  # a device or a pipe may never end
            raise BundleError(f"{name}: expected a readable file, got something else")
        if found.st_size > most_bytes:
            raise BundleError(f"{name}: expected at most {most_bytes} bytes, got {found.st_size}")
        return path.read_bytes()
    except OSError as error:
        raise BundleError(f"{name}: expected a readable file, got {error.strerror}") from error
