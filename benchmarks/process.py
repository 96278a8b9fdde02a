"""Processes under test: started, found, read in /proc and ended by their number."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from stepstream_server.process import choose_for_grpc

ROOT = Path(__file__).resolve().parent.parent
_TICKS = os.sysconf("SC_CLK_TCK")  # per second
_STOP_SECONDS = 60.0  # a server drains within 30


@dataclass(frozen=True, slots=True)
class Server:
    """A server process that listens."""

    address: str  # HOST:PORT
    pid: int


@dataclass(frozen=True, slots=True)
class Checkout:
    """A working tree with an environment of its own: whose server is run, and with how many workers."""

    root: Path
    python: str
    workers: int | None = None  # None: as many as it has by default

    @contextmanager
    def serving(self, models: Path, *flags: str) -> Iterator[Server]:
        """The server of this tree from its `listening HOST:PORT` line to its end. Raises RuntimeError as `listening` does."""
        told = () if self.workers is None else ("--workers", str(self.workers))
        with running(serve_command(models, *told, *flags, python=self.python), self.root) as server:
            yield server


def checkout_at(folder: Path, workers: int | None = None) -> Checkout:
    """The working tree in a folder. Raises ValueError if it has no environment."""
    root = folder.absolute()
    python = root / ".venv" / "bin" / "python"
    if not python.exists():
        raise ValueError(
            f"{folder}: no {python.relative_to(root)} there; make its environment first: make -C {folder} .venv/.dev"
        )
    return Checkout(root, str(python), workers)


HERE = Checkout(ROOT, sys.executable)


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and its descendants, of those too that ended and were waited for. Raises OSError."""
    return _of_tree(pid, _ticks) / _TICKS


def resident_bytes(pid: int) -> int:
    """Memory of a process and its descendants that is in RAM and their own. Raises OSError."""
    return _of_tree(pid, _resident_bytes)


def _of_tree(pid: int, read: Callable[[int], int]) -> int:
    """The sum of what is read of a process, which must be there, and of its descendants, which may vanish meanwhile."""
    total = read(pid)
    for child in children(pid):
        with suppress(OSError):
            total += _of_tree(child, read)
    return total


def children(pid: int) -> list[int]:
    """Processes that a process has started and that run; those of a thread that ends meanwhile are another's by then."""
    found: list[int] = []
    with suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with suppress(OSError):
                found += map(int, Path(f"/proc/{pid}/task/{thread}/children").read_text().split())
    return found


def _ticks(pid: int) -> int:
    """proc(5): fields 14 to 17, counted behind the name."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15]))


@dataclass(frozen=True, slots=True)
class Vitals:
    """Memory, descriptors and threads of one process."""

    own: int  # bytes in RAM that are its own
    resident: int  # bytes in RAM, with files that others may have there, too
    descriptors: int
    threads: int


def vitals(pid: int) -> Vitals:
    """Reads the vitals of one process. Raises OSError."""
    status = _status(pid)
    own, resident = _bytes(status, "RssAnon"), _bytes(status, "VmRSS")
    return Vitals(own, resident, len(os.listdir(f"/proc/{pid}/fd")), int(status["Threads"]))


def _resident_bytes(pid: int) -> int:
    return _bytes(_status(pid), "RssAnon")


def _status(pid: int) -> dict[str, str]:
    return dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())


def _bytes(status: dict[str, str], name: str) -> int:
    """0 of a process that has ended and was not waited for."""
    return int(status.get(name, "0 kB").split()[0]) * 1024


def serve_command(models: Path, *flags: str, python: str = sys.executable) -> list[str]:
    """The real server on free ports. It says where it listens in words, which servers of other checkouts always do."""
    fixed = ["--models", str(models), "--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0"]
    told = ["--log.level", "warning", "--log.format", "console"]
    return [python, "-m", "stepstream_server", "serve", *fixed, *told, *flags]


def module_command(module: str, *flags: str) -> list[str]:
    """A module of this package."""
    return [sys.executable, "-m", f"benchmarks.{module}", *flags]


@contextmanager
def running(command: Sequence[str], folder: Path = ROOT) -> Iterator[Server]:
    """A server from its `listening HOST:PORT` line to its end. Raises RuntimeError as `listening` does."""
    with started(command, folder) as process:
        yield Server(listening(process), process.pid)


@contextmanager
def started(command: Sequence[str], folder: Path = ROOT) -> Iterator[subprocess.Popen[str]]:
    """A process with pipes on its standard input and output; ended with SIGTERM, and killed if it does not heed it.

    What is compared reads alike: bare servers, and those of other checkouts, run with gRPC's experiments that the server chooses.
    """
    choose_for_grpc()
    process = subprocess.Popen(command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with process:
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.communicate(timeout=_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()


def listening(process: subprocess.Popen[str], what: str = "listening") -> str:
    """Waits for the line that says HOST:PORT, or the URL of "metrics". Raises RuntimeError if the process ends before it."""
    for line in process.stdout or ():
        word, _, address = line.strip().partition(" ")
        if word == what:
            return address
    raise RuntimeError(f"{process.args!r}: ended with code {process.wait()} before it listened")


def read_json(process: subprocess.Popen[str]) -> dict[str, float]:
    """The next line that a process prints. Raises RuntimeError if it ended instead."""
    line = process.stdout.readline() if process.stdout else ""
    if not line:
        raise RuntimeError(f"{process.args!r}: ended with code {process.wait()} and no result")
    result: dict[str, float] = json.loads(line)
    return result
