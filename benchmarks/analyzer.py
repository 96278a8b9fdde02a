"""One run of NVIDIA's `perf_analyzer`, unmodified, as a user of Triton starts it, and what it says."""

from __future__ import annotations

import csv
import os
import re
import resource
import statistics
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Never

from benchmarks.fetch_perf_analyzer import FOLDER, PROGRAM, missing
from benchmarks.process import cpu_seconds

STABLE_PERCENT = 30  # windows that differ by less count as a measurement
_ANY_PERCENT = 1000  # so that windows which differ count too
# What it says where it gives no figures though nothing failed: windows differed, or it was behind its own schedule all the time.
_NO_FIGURES = "Failed to obtain stable measurement", "No valid requests recorded"
_WINDOWS = 3  # that it wants to agree
_TRIALS = 10  # windows at most until three in a row agree
_AGAIN = 2  # more runs where there were no figures
_WINDOW = re.compile(r"Pass \[\d+\] throughput: ([\d.]+) infer/sec")  # as it says each with -v
_SPARE_SECONDS = 30.0  # to start, and to end the sequences that are open


@dataclass(frozen=True, slots=True)
class AnalyzerPlan:
    """What is asked of one run. Sequences follow each other; each has `length` requests, give or take `variation` per cent."""

    address: str
    pid: int  # of the process that serves it
    model: str
    window_ms: int
    concurrency: int = 1  # sequences at a time, each with one request in flight; over a stream each, if streamed
    rate: int = 0  # requests per second over those sequences, at random times, answered or not; 0: a closed loop
    streaming: bool = True
    length: int = 50
    variation: int = 20

    def flags(self, trials: int, percent: float) -> list[str]:
        """Of the command line."""
        sequences = ["--sequence-length", self.length, "--sequence-length-variation", self.variation]
        window = ["-p", self.window_ms, "-r", trials, "-s", percent]
        open_loop = ["--request-rate-range", self.rate, "--request-distribution", "poisson", "--num-of-sequences"]
        load = [*(open_loop if self.rate else ["--concurrency-range"]), self.concurrency]
        flags = ["-m", self.model, "-u", self.address, "-i", "grpc", *sequences, *window, *load, "-v"]
        return [str(each) for each in [*flags, *(["--streaming"] if self.streaming else [])]]


@dataclass(frozen=True, slots=True)
class AnalyzerResult:
    """Medians and rates are those of the windows that were measured; processor time is that of the whole run."""

    rate: float  # requests answered per second
    p50: float  # s
    p99: float  # s
    stable: bool  # whether three windows agreed
    server_cpu: float  # s per request, of the process that serves and its descendants
    generator_share: float  # of a core


def analyze(plan: AnalyzerPlan) -> AnalyzerResult:
    """One run. Where no three windows agree there are no figures; it is then run again, and any three will do.

    Raises RuntimeError if the program is missing, if a request failed, or if it does not come to an end.
    """
    if why := missing():
        raise RuntimeError(why)
    for trials, percent in [(_TRIALS, STABLE_PERCENT), *[(_WINDOWS, _ANY_PERCENT)] * _AGAIN]:
        if result := _run(plan, trials, percent):
            return result
    _fail(plan, f"no figures from {1 + _AGAIN} runs")


def _run(plan: AnalyzerPlan, trials: int, percent: float) -> AnalyzerResult | None:
    """None if it gave no figures and nothing failed."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.csv"
        command = [str(PROGRAM), *plan.flags(trials, percent), "-f", str(report)]
        served, made, begun = cpu_seconds(plan.pid), _children_seconds(), time.perf_counter()
        done = _finish(plan, command, _SPARE_SECONDS + trials * plan.window_ms / 1000)
        seconds = time.perf_counter() - begun
        said = done.stdout + done.stderr
        if done.returncode and any(reason in said for reason in _NO_FIGURES):
            return None
        if done.returncode or not report.exists():
            _fail(plan, f"it ended with code {done.returncode}: {said.strip()[-2000:]}")
        figures = read_report(report)
    requests = statistics.mean(read_windows(done.stdout)) * seconds  # those between windows and behind the last one too
    return AnalyzerResult(
        rate=figures["Inferences/Second"],
        p50=figures["p50 latency"] / 1e6,
        p99=figures["p99 latency"] / 1e6,
        stable=percent == STABLE_PERCENT,
        server_cpu=(cpu_seconds(plan.pid) - served) / requests,
        generator_share=(_children_seconds() - made) / seconds,
    )


def read_report(path: Path) -> dict[str, float]:
    """The one line of figures in what `-f` writes: times in microseconds. Raises ValueError if there is not one line."""
    with path.open(newline="") as file:
        lines = list(csv.DictReader(file))
    if len(lines) != 1:
        raise ValueError(f"{path.name}: expected one line of figures, got {len(lines)}")
    return {name: float(value) for name, value in lines[0].items()}


def read_windows(said: str) -> list[float]:
    """Reads requests per second of every window, also of those that did not agree. Raises ValueError if there is none."""
    rates = [float(rate) for rate in _WINDOW.findall(said)]
    if not rates:
        raise ValueError(f"expected the rate of each window, got {said[-500:]!r}")
    return rates


def environment() -> dict[str, str]:
    """In which it finds the library that was fetched with it."""
    return os.environ | {"LD_LIBRARY_PATH": str(FOLDER)}


def _finish(plan: AnalyzerPlan, command: list[str], timeout: float) -> subprocess.CompletedProcess[str]:
    """Runs it to its end; what does not end in time is killed."""
    try:
        return subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired as error:
        _fail(plan, f"no end within {error.timeout:.0f} s")


def _fail(plan: AnalyzerPlan, what: str) -> Never:
    raise RuntimeError(f"perf_analyzer {' '.join(plan.flags(_TRIALS, STABLE_PERCENT))}: {what}")


def _children_seconds() -> float:
    """User and system time of the processes that were started from here and have ended."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime
