"""The files of a bundle: read within bounds from its own folder, and written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from stepstream_server.errors import BundleError
from stepstream_server.programs.files import read_file

MANIFEST_FILE = "model.json"
MAX_MANIFEST_BYTES = 64 << 20  # labels of a million tokens take about 20 MB


def read_manifest(folder: Path, file: str) -> bytes:
    """The text of the manifest in a folder. Raises BundleError naming `file` if there is none."""
    return read_file(folder / MANIFEST_FILE, file, MAX_MANIFEST_BYTES)


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
