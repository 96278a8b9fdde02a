"""A server that is killed and started again on the same port and store, or whose workers are killed, at moments of a seed."""

from __future__ import annotations

import enum
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.chaos.judging import Outage
from benchmarks.chaos.playing import BEAT_SECONDS
from benchmarks.process import ROOT, children, listening, serve_command, vitals
from stepstream_server.process import choose_for_grpc

_LEAST_SECONDS = 0.2  # of a server's life, however slow its start was
_BUSY_SECONDS = 0.01, 0.05  # after a beat: what is asked at it is on its way by then, and not done
_STOP_SECONDS = 60.0
_SHOWN = 30  # lines of a log


class Blow(enum.Enum):
    """A misfortune of a server."""

    WORKER_KILLED = enum.auto()
    KILLED = enum.auto()
    STOPPED = enum.auto()  # in peace, by SIGTERM


@dataclass(frozen=True, slots=True)
class Kind:
    """Kinds of misfortunes, which happen one after the other and then again."""

    name: str
    says: str  # what is done, for people
    blows: Sequence[Blow]
    workers: Sequence[int]  # of the server, from one life to the next


WORKER = Kind("worker", "SIGKILL of a worker", [Blow.WORKER_KILLED], [2])
SERVER = Kind("server", "SIGKILL of the server", [Blow.KILLED], [0, 1])
RESTART = Kind("restart", "SIGTERM of the server", [Blow.STOPPED], [0, 1])
ALL = Kind("all", "SIGKILL of a worker, then of the server, then SIGTERM", list(Blow), [1])


class Disturbed:
    """A server on a store's file, and what happens to it. Its log is kept."""

    def __init__(self, models: Path, folder: Path, kind: Kind) -> None:
        self._models = models
        self._store = folder / "sessions.db"
        self._log = folder / "server.log"
        self._kind = kind
        self._lives = 0
        self.address = "127.0.0.1:0"
        began = time.monotonic()
        self._process = self._start()
        self.start_seconds = time.monotonic() - began
        self.outages: list[Outage] = []

    def disturb(self, seed: int, times: int, began: float, seconds: float, ended: threading.Event) -> None:
        """Does it so many times within some seconds, in equal parts of them, unless all has ended before: at random beats, and a
        random moment after each, when there is something in flight."""
        chance = np.random.default_rng(seed)
        part = seconds / (times + 1)
        for turn in range(times):
            beat = round(part * (turn + 0.5 + chance.random()) / BEAT_SECONDS) * BEAT_SECONDS
            due = began + beat + chance.uniform(*_BUSY_SECONDS)
            while due < time.monotonic() + _LEAST_SECONDS:  # its start was slow
                due += BEAT_SECONDS
            if ended.wait(due - time.monotonic()):
                return
            self._disturb(self._kind.blows[turn % len(self._kind.blows)])

    def _disturb(self, blow: Blow) -> None:
        began = time.monotonic()
        if blow is Blow.WORKER_KILLED:
            workers = children(self._process.pid)
            os.kill(max(workers, key=_descriptors), signal.SIGKILL)  # who has the most connections
            while children(self._process.pid) == workers:  # until it is gone, which takes the system some milliseconds
                threading.Event().wait(0.001)
            self.outages.append(Outage(began, time.monotonic()))
            return
        self._process.send_signal(signal.SIGKILL if blow is Blow.KILLED else signal.SIGTERM)
        self._process.communicate(timeout=_STOP_SECONDS)
        self._process = self._start()
        self.outages.append(Outage(began, time.monotonic()))

    def _start(self) -> subprocess.Popen[str]:
        """On the port that it had before."""
        workers = self._kind.workers[self._lives % len(self._kind.workers)]
        self._lives += 1
        flags = ("--listen", self.address, "--workers", str(workers), "--store.url", f"sqlite:{self._store}")
        choose_for_grpc()
        with self._log.open("ab") as log:
            process = subprocess.Popen(
                serve_command(self._models, *flags), cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True
            )
        try:
            self.address = listening(process)
        except RuntimeError as error:
            raise RuntimeError(f"{error}\n{self.log()}") from error
        return process

    def log(self) -> str:
        """The end of what its lives have logged."""
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-_SHOWN:])

    def stop(self) -> int:
        """Ends it in good order. Returns the exit code."""
        self._process.terminate()
        try:
            self._process.communicate(timeout=_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
        return self._process.returncode


def _descriptors(pid: int) -> int:
    """How many a process has open; 0 of one that has ended."""
    try:
        return vitals(pid).descriptors
    except OSError:
        return 0


@contextmanager
def disturbed(models: Path, folder: Path, kind: Kind) -> Iterator[Disturbed]:
    """The server from its first start to its last end."""
    folder.mkdir()
    server = Disturbed(models, folder, kind)
    try:
        yield server
    finally:
        server.stop()
