"""Collects what the `code` model reads: Python's standard library as source, whole files to train on and whole files held out.

The files are those of the running interpreter. Left out are tests, what a build generates, tables that are data rather than
programs (`encodings`, `pydoc_data`), IDLE, and packages installed beside the library.
"""

from __future__ import annotations

import hashlib
import sysconfig
from pathlib import Path

HERE = Path(__file__).parent
SHIPPED = HERE / "held_out"  # some held-out files, so that the figures do not depend on the reader's interpreter
SUFFIX = ".txt"  # after their names: they are read, never run
LIBRARY = Path(sysconfig.get_paths()["stdlib"])
LEFT_OUT = {
    "site-packages", "dist-packages",
    "test", "tests", "idle_test",
    "idlelib", "encodings", "pydoc_data",
}  # fmt: skip
GENERATED = ("_sysconfigdata", "config-")  # begin the names of what holds the paths of the machine that built the interpreter
HELD_OUT_ONE_IN = 20

Files = dict[str, bytes]  # path below the library, with slashes -> content


def load(library: Path = LIBRARY) -> Files:
    """Every source file of the library with at least two bytes, the least from which a next byte can be predicted, by path."""
    paths = sorted(path.relative_to(library) for path in library.rglob("*.py"))
    files = {path.as_posix(): (library / path).read_bytes() for path in paths if _is_wanted(path)}
    return {name: content for name, content in files.items() if len(content) > 1}


def load_shipped() -> Files:
    """The held-out files that lie beside this script, by path below the library of the interpreter that the model learnt from."""
    paths = sorted(SHIPPED.rglob(f"*.py{SUFFIX}"))
    return {path.relative_to(SHIPPED).as_posix().removesuffix(SUFFIX): path.read_bytes() for path in paths}


def is_held_out(name: str) -> bool:
    """Whether a file is held out. Its path alone decides, so that another version of the library is split alike."""
    return int(hashlib.sha256(name.encode()).hexdigest(), 16) % HELD_OUT_ONE_IN == 0


def split(files: Files) -> tuple[Files, Files]:
    """The files to train on, and the held-out ones."""
    trained = {name: content for name, content in files.items() if not is_held_out(name)}
    return trained, {name: content for name, content in files.items() if is_held_out(name)}


def _is_wanted(path: Path) -> bool:
    return not LEFT_OUT.intersection(path.parts) and not any(part.startswith(GENERATED) for part in path.parts)
