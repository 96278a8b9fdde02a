"""Row 9: what a step costs in processor time, wherever it is spent."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial

from benchmarks.drive import Targets, generators, run
from benchmarks.kernel import BareKernel, bind_model
from benchmarks.load import Plan
from benchmarks.report import Line, line
from benchmarks.timing import Effort, interleave
from stepstream_server.config import BackendSettings

_STREAMS = 64


def row_9(targets: Targets, effort: Effort, tell: Callable[[str], None]) -> list[Line]:
    """User and system seconds of the server's process per 1,000 steps, against those of the echo and of the kernel together.

    A closed loop of 64 single-step streams. The kernel runs all 64 in one launch: the least that computing them can cost.
    """
    tell("row 9")
    kernel = bind_model(targets.bundle.spec, targets.bundle.weights, BackendSettings(), _STREAMS, 1)
    kernel()
    runs: dict[str, Callable[[], float]] = {
        "server": partial(_of_process, targets.plan(targets.server, effort, _STREAMS)),
        "echo": partial(_of_process, targets.plan(targets.echo, effort, _STREAMS)),
        "kernel": partial(_of_kernel, kernel, effort.kernel_seconds),
    }
    spent = interleave(runs, effort.paced_rounds)
    against = [server / (echo + alone) for server, echo, alone in zip(*spent.values(), strict=True)]
    beside = {f"{name} CPU ms per 1,000 steps": statistics.median(each) * 1e6 for name, each in spent.items()}
    return [line(9, f"{_STREAMS} streams: CPU per step", against, "×", 1.4, beside=beside)]


def _of_process(plan: Plan) -> float:
    """CPU seconds per step of whoever is asked."""
    result = run(plan, generators())
    return result.server_cpu / max(result.steps, 1)


def _of_kernel(kernel: BareKernel, seconds: float) -> float:
    """The same of this process while it does nothing else."""
    calls, cpu, end = 0, time.process_time(), time.perf_counter() + seconds
    while not calls or time.perf_counter() < end:
        kernel()
        calls += 1
    return (time.process_time() - cpu) / (calls * _STREAMS)
