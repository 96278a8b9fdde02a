"""Rows 17 to 19: clients of Triton, as `perf_analyzer` plays them, against a bare echo of the Open Inference Protocol."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from benchmarks.analyzer import STABLE_PERCENT, AnalyzerPlan, AnalyzerResult, analyze
from benchmarks.drive import LARGE, SMALL, echo_command, make_model, size_of
from benchmarks.process import HERE, Checkout, Server, running
from benchmarks.report import Line, line
from benchmarks.timing import Effort, interleave, ratios
from stepstream_server.bundles import Bundle

ROWS = {17, 18, 19}
_GATED_STREAMS = 64
_RATE = 2000  # requests per second of row 18: what one process answers without a queue on a small machine
_VARIATION = 40  # per cent of a sequence's length, in row 18

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
        self.size = size_of(bundle)
        self.small = bundle.spec.name == SMALL
        self.effort = effort
        self.tell = tell
        window_ms = effort.analyzer_window_ms
        self._plans = {
            name: AnalyzerPlan(each.address, each.pid, bundle.spec.name, window_ms)
            for name, each in {"server": server, "echo": echo}.items()
        }

    def run(self, **changes: int | bool) -> dict[str, list[AnalyzerResult]]:
        """Interleaved runs of a plan that differs from the plainest by these fields."""
        runs = {name: partial(analyze, replace(plan, **changes)) for name, plan in self._plans.items()}  # type: ignore[arg-type]
        return interleave(runs, self.effort.analyzer_rounds)


def _row_17(compared: Compared) -> list[Line]:
    """Closed loop, one sequence per stream: requests per second; of the small model for other numbers of streams too."""
    lines = []
    for streams in (_GATED_STREAMS, *(compared.effort.streams if compared.small else ())):
        compared.tell(f"row 17: {compared.size}, {streams} streams")
        gate = 0.75 if compared.small and streams == _GATED_STREAMS else None
        case = f"{compared.size}, {streams} stream{'s' if streams > 1 else ''}"
        lines.append(throughput(17, case, compared.run(concurrency=streams), gate))
    return lines


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
    return [throughput(19, f"{compared.size}, {_GATED_STREAMS} sequences", results, None)]


_ROWS = {17: _row_17, 18: _row_18, 19: _row_19}


def throughput(row: int, case: str, results: Results, gate: float | None) -> Line:
    """Requests per second against the echo's."""
    against = ratios(*([each.rate for each in results[name]] for name in ("server", "echo")))
    return line(row, case, against, "×", gate, "at least", _beside(results), _shares(results), _note(results))


def _beside(results: Results) -> dict[str, float]:
    """Medians of what perf_analyzer prints."""
    rates = {f"{name} requests/s": statistics.median(each.rate for each in runs) for name, runs in results.items()}
    p50 = {f"{name} p50 µs": statistics.median(each.p50 for each in runs) * 1e6 for name, runs in results.items()}
    p99 = {f"{name} p99 µs": statistics.median(each.p99 for each in runs) * 1e6 for name, runs in results.items()}
    return rates | p50 | p99


def _shares(results: Results) -> dict[str, float]:
    """Medians of the processor time spent."""
    served = {
        f"{name}'s share of a core": statistics.median(each.server_share for each in runs) for name, runs in results.items()
    }
    made = {
        f"generator's share of a core, {name}": statistics.median(each.generator_share for each in runs)
        for name, runs in results.items()
    }
    return served | made


def _note(results: Results) -> str:
    runs = [each for several in results.values() for each in several]
    unstable = sum(not each.stable for each in runs)
    return f"in {unstable} of {len(runs)} runs no three windows were within {STABLE_PERCENT} %" if unstable else ""
