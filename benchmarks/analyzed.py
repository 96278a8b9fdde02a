"""Rows 17 to 19: clients of Triton, as `perf_analyzer` plays them, against a bare echo of the Open Inference Protocol."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from benchmarks.analyzer import STABLE_PERCENT, AnalyzerPlan, AnalyzerResult, analyze
from benchmarks.drive import LARGE, SMALL, echo_command, make_model, size_of
from benchmarks.kernel import bind_model
from benchmarks.process import HERE, Checkout, Server, running
from benchmarks.report import Line, line
from benchmarks.timing import Effort, interleave, median_seconds, ratios, serial_bounds
from stepstream_server.bundles import Bundle
from stepstream_server.config import BackendSettings

ROWS = {17, 18, 19}
_GATED_STREAMS = 64
_RATE = 2000  # requests per second of row 18: what one process answers without a queue on a small machine
_VARIATION = 40  # per cent of a sequence's length, in row 18

Runs = Mapping[str, Callable[[], AnalyzerResult]]
Results = Mapping[str, Sequence[AnalyzerResult]]


def analyzed(
    folder: Path, rows: Collection[int], effort: Effort, tell: Callable[[str], None], checkout: Checkout = HERE
) -> list[Line]:
    """The rows asked for, for a small and a larger model on one server, with an echo of each model's shapes beside."""
    bundles = [make_model(folder, name) for name in (SMALL, LARGE)]
    lines = []
    with checkout.serving(folder) as server:
        for bundle in bundles:
            with running(echo_command("oip_echo", str(bundle.path), workers=checkout.workers)) as echo:
                compared = Compared(server, echo, bundle, effort, tell)
                lines += [each for row in sorted(ROWS & set(rows)) for each in _ROWS[row](compared)]
    return lines


class Compared:
    """The server and the echo, which take turns."""

    def __init__(self, server: Server, echo: Server, bundle: Bundle, effort: Effort, tell: Callable[[str], None]) -> None:
        self.bundle = bundle
        self.size = size_of(bundle)
        self.small = bundle.spec.name == SMALL
        self.effort = effort
        self.tell = tell
        window_ms = effort.analyzer_window_ms
        self._plans = {
            name: AnalyzerPlan(each.address, each.pid, bundle.spec.name, window_ms)
            for name, each in {"server": server, "echo": echo}.items()
        }

    def run(self, beside: Runs | None = None, **changes: int | bool) -> dict[str, list[AnalyzerResult]]:
        """Runs in turn a plan that differs from the plainest by these fields, and what else is to take turns."""
        runs = {name: partial(analyze, replace(plan, **changes)) for name, plan in self._plans.items()}  # type: ignore[arg-type]
        return interleave({**runs, **(beside or {})}, self.effort.analyzer_rounds)


def _row_17(compared: Compared) -> list[Line]:
    """Measures a closed loop, one sequence per stream: requests per second and, what has a target, processor time per request of
    the small model and the share of the serial bound that the large one reaches."""
    case = _tell_17(compared, _GATED_STREAMS)
    if not compared.small:
        return _beside_kernel(compared, case)
    results = compared.run(concurrency=_GATED_STREAMS)
    spent = ratios(*([each.server_cpu for each in results[name]] for name in ("server", "echo")))
    lines = [throughput(17, case, results, None), line(17, f"{case}: CPU per request", spent, "×", 1.5, note=_note(results))]
    for streams in compared.effort.streams:
        case = _tell_17(compared, streams)
        lines.append(throughput(17, case, compared.run(concurrency=streams), None))
    return lines


def _tell_17(compared: Compared, streams: int) -> str:
    """Says what is about to be measured; returns how it is called."""
    case = f"{compared.size}, {streams} stream{'s' if streams > 1 else ''}"
    compared.tell(f"row 17: {case}")
    return case


def _beside_kernel(compared: Compared, case: str) -> list[Line]:
    """Compares requests per second with the echo's, and with the serial bound of the echo and of the bare kernel."""
    spec, weights = compared.bundle.spec, compared.bundle.weights
    kernel = bind_model(spec, weights, BackendSettings(), _GATED_STREAMS, 1)
    kernel()
    runs = {"kernel": partial(_run_kernel, kernel, compared.effort)}
    results = compared.run(runs, concurrency=_GATED_STREAMS)
    alone = [each.rate for each in results.pop("kernel")]
    speed = {name: [each.rate for each in several] for name, several in results.items()}
    share = ratios(speed["server"], serial_bounds(speed["echo"], alone))
    beside = {"echo requests/s": statistics.median(speed["echo"]), "kernel steps/s": statistics.median(alone)}
    bound = line(17, f"{case}, against the serial bound", share, "×", 0.75, "at least", beside, note=_note(results))
    return [throughput(17, case, results, None), bound]


def _run_kernel(kernel: Callable[[], object], effort: Effort) -> AnalyzerResult:
    """Calls a kernel, and makes that look like a run in which a launch answers a request of every stream."""
    seconds = median_seconds(kernel, effort.kernel_seconds)
    return AnalyzerResult(_GATED_STREAMS / seconds, seconds, seconds, True, seconds / _GATED_STREAMS, 0.0)


def _row_18(compared: Compared) -> list[Line]:
    """Open loop: p99."""
    compared.tell(f"row 18: {compared.size}")
    results = compared.run(concurrency=_GATED_STREAMS, rate=_RATE, variation=_VARIATION)
    p99 = ratios(*([each.p99 for each in results[name]] for name in ("server", "echo")))
    case = f"{compared.size}, {_GATED_STREAMS} sequences, {_RATE:,} requests/s: p99"
    return [line(18, case, p99, "×", beside=_beside(results), detail=_shares(results), note=_note(results))]


def _row_19(compared: Compared) -> list[Line]:
    """Closed loop, one call per request."""
    compared.tell(f"row 19: {compared.size}")
    results = compared.run(concurrency=_GATED_STREAMS, streaming=False)
    gate = 0.6 if compared.small else None
    return [throughput(19, f"{compared.size}, {_GATED_STREAMS} sequences", results, gate)]


_ROWS = {17: _row_17, 18: _row_18, 19: _row_19}


def throughput(row: int, case: str, results: Results, gate: float | None) -> Line:
    """Requests per second against the echo's."""
    against = ratios(*([each.rate for each in results[name]] for name in ("server", "echo")))
    return line(row, case, against, "×", gate, "at least", _beside(results), _shares(results), _note(results))


def _beside(results: Results) -> dict[str, float]:
    """Finds the medians of what perf_analyzer prints, and of the processor time that it takes to serve it."""
    rates = {f"{name} requests/s": statistics.median(each.rate for each in runs) for name, runs in results.items()}
    p50 = {f"{name} p50 µs": statistics.median(each.p50 for each in runs) * 1e6 for name, runs in results.items()}
    p99 = {f"{name} p99 µs": statistics.median(each.p99 for each in runs) * 1e6 for name, runs in results.items()}
    cpu = {f"{name} CPU µs/request": statistics.median(each.server_cpu for each in runs) * 1e6 for name, runs in results.items()}
    return rates | p50 | p99 | cpu


def _shares(results: Results) -> dict[str, float]:
    """Finds the medians of the processor time that it takes to ask."""
    return {
        f"generator's share of a core, {name}": statistics.median(each.generator_share for each in runs)
        for name, runs in results.items()
    }


def _note(results: Results) -> str:
    runs = [each for several in results.values() for each in several]
    unstable = sum(not each.stable for each in runs)
    return f"in {unstable} of {len(runs)} runs no three windows were within {STABLE_PERCENT} %" if unstable else ""
