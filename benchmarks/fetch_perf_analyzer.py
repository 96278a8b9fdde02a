"""NVIDIA's load generator `perf_analyzer`, unmodified: fetched out of the wheels that carry it, without installing them.

`python -m benchmarks.fetch_perf_analyzer` puts it and CUDA's runtime library, without which it does not start, into
`benchmarks/.perf_analyzer`, and does nothing where they are there. It needs no GPU. Of the wheels that have it, 2.50.0 runs with
the glibc of Debian 12; 2.54.0 wants a newer one, and 2.62.0 and later are without it.
"""

from __future__ import annotations

import ctypes
import platform
import sys
from pathlib import Path

from benchmarks import fetching
from benchmarks.fetching import Package, Piece

FOLDER = Path(__file__).parent / ".perf_analyzer"
PROGRAM = FOLDER / "perf_analyzer"
_DEBIAN_LIBRARY = "libb64.so.0d"
_COMMAND = "python -m benchmarks.fetch_perf_analyzer"

PIECES = (
    Piece(
        Package("PyPI", "tritonclient", "2.50.0", "421fbb69ae6ab8cdb2c35b82134fcef2fe11e7af7718b1fcbc53335ab9bfe889"),
        "tritonclient-2.50.0.data/data/bin/perf_analyzer",
        "ae8cbf583a990235c617a50b380a7cd41e790ba8d414f382a8349e2ffbaae7fa",
        mode=0o755,
    ),
    Piece(
        Package(
            "PyPI", "nvidia-cuda-runtime-cu12", "12.9.79", "25bba2dfb01d48a9b59ca474a1ac43c6ebf7011f1b0b8cc44f54eb6ac48a96c3"
        ),
        "nvidia/cuda_runtime/lib/libcudart.so.12",
        "256e6409e4f06f618e1fb53d4844a6b81cdded1013afa8ade40c22f99eb133b7",
    ),
)


def missing() -> str:
    """What keeps `perf_analyzer` from running here, and what helps; empty if nothing does."""
    if why := _unsuitable() or fetching.missing(PIECES, FOLDER, _COMMAND):
        return why
    try:
        ctypes.CDLL(_DEBIAN_LIBRARY)
    except OSError:
        return f"{_DEBIAN_LIBRARY} is missing: install Debian's package `libb64-0d` (scripts/apt-packages does)"
    return ""


def fetch() -> None:
    """Downloads what is not there. Raises RuntimeError if that cannot be had, or is not what was pinned."""
    if _unsuitable():
        raise RuntimeError(_unsuitable())
    fetching.fetch(PIECES, FOLDER)


def _unsuitable() -> str:
    """Why there is no such program for this machine; empty if there is."""
    here = f"{platform.system()} on {platform.machine()}"
    return "" if here == "Linux on x86_64" else f"perf_analyzer is to be had for Linux on x86_64, and this is {here}"


def main() -> None:
    """Says what is missing, if anything still is, and ends with code 1 then."""
    try:
        fetch()
    except RuntimeError as error:
        sys.exit(str(error))
    sys.exit(missing() or None)


if __name__ == "__main__":
    main()
