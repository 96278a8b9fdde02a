"""Has a file that nobody has looked at yet worked on in a process of its own, which may end as it likes.

A hostile graph may claim gigabytes, run for ever or crash the runtime. So whoever asks never parses it: a process that has the
runtime ready forks a job for each file, with limits on memory and time, and what comes back is JSON.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from stepstream_server.errors import BundleError

SECONDS = 600  # of one job: the trial of a model whose step takes 10 ms for 256 rows
# The runtime and its libraries take 0.3 GiB of addresses; the rest is for what is computed between nodes.
BASE_BYTES = 2 << 30
# Of a file: its bytes, the message made of them, the normalised copy as message and bytes, the copy whose values are exposed
# likewise, and in each of two sessions the weights as read and as packed.
COPIES = 12
MOST_COUNTED_BYTES = 1 << 31  # of a file and what lies beside it: no larger one is read


class Confinement:
    """A process that forks jobs, as a context manager: several files cost one start."""

    def __init__(self, seconds: float = SECONDS, base_bytes: int = BASE_BYTES) -> None:
        self._seconds = seconds
        self._base_bytes = base_bytes
        self._process: subprocess.Popen[bytes] | None = None
        self.peak_bytes = 0  # the most memory that a job held

    def __enter__(self) -> Self:
        command = [sys.executable, "-P", "-m", "stepstream_server.bundles.program.child", str(os.getpid())]
        # Threads of the linear algebra in numpy would reserve memory for nothing.
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "ORT_DISABLE_TELEMETRY": "1"}
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._process is not None:
            self._process.communicate()  # an end of its input ends it

    def run(self, task: str, file: Path, *arguments: str) -> Any:
        """Has one of `tasks.TASKS` done with `file`; returns what it gives, which JSON can hold.

        Raises BundleError with what the job refuses, or that it crashed, took too long or wanted more memory than it may have.
        """
        limit = self._base_bytes + COPIES * min(_bytes_of(file), MOST_COUNTED_BYTES)
        request = {"task": task, "arguments": [str(file), *arguments], "bytes": limit, "seconds": self._seconds}
        answer = self._ask(request)
        self.peak_bytes = max(self.peak_bytes, answer["peak_bytes"])
        if "value" in answer:
            return answer["value"]
        raise BundleError(answer.get("refused") or f"{file.name}: {_why(answer['status'], limit, self._seconds)}")

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        if self._process is None or self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError("a Confinement is entered before it is used")
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise BundleError("the process that looks at graphs ended; it may have been killed")
        answer: dict[str, Any] = json.loads(line)
        return answer


def _bytes_of(file: Path) -> int:
    """Bytes of a file and of those beside it whose names begin as its does: where exporters put the values of a large model."""
    try:
        return sum(each.stat().st_size for each in file.parent.iterdir() if each.name.startswith(file.stem))
    except OSError:
        return 0  # who reads it will tell


def _why(status: int, limit: int, seconds: float) -> str:
    """Explains a job's end without an answer."""
    if status == -signal.SIGALRM:
        return f"expected a graph that can be tried within {seconds:g} s, got one that takes longer"
    how = signal.Signals(-status).name if status < 0 else f"exit code {status}"
    return f"expected a graph that can be tried within {limit >> 20} MiB of memory, got one that crashed the runtime ({how})"
