"""The files of a bundle: read within bounds from its own folder, and written whole or not at all."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path

from stepstream_server.errors import BundleError

MANIFEST_FILE = "model.json"
MAX_MANIFEST_BYTES = 64 << 20  # labels of a million tokens take about 20 MB


def read_manifest(folder: Path, file: str) -> bytes:
    """The text of the manifest in a folder. Raises BundleError naming `file` if there is none."""
    return read_file(folder / MANIFEST_FILE, file, MAX_MANIFEST_BYTES)


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


def put_files(directory: Path, files: Mapping[str, bytes]) -> None:
    """Writes files by name into a folder, made if needed, one after the other: the manifest comes last, so that until then
    there is no bundle, or the old manifest's checksum does not fit. Raises BundleError for a folder that cannot be written."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            _replace(directory / name, data)
    except OSError as error:
        raise BundleError(f"{directory}: expected a folder that can be written, got: {error}") from error


def _replace(path: Path, data: bytes) -> None:
    """The whole file or none of it, even if the power fails."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
