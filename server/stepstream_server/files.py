"""Files that may be replaced while the server runs."""

from __future__ import annotations

from pathlib import Path

Stamp = tuple[int, int, int] | None  # mtime in ns, bytes and inode of what a path leads to; None if there is nothing to read


def stamp(path: Path) -> Stamp:
    """Tells one state of a file from another. Follows links, since a Secret of Kubernetes is replaced by turning a link."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
