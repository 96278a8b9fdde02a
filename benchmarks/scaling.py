"""Row 20: what workers bring. The server with none and with more and more, each beside an echo of as many processes."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Mapping, Sequence

from benchmarks.analyzed import Compared, throughput
from benchmarks.analyzed import Results as Requests
from benchmarks.drive import compare, details, echo_command, echo_sizes, facts, generators, plan_for, rates, warning
from benchmarks.fetch_perf_analyzer import missing
from benchmarks.load import Result
from benchmarks.process import Server, running, serve_command
from benchmarks.report import Line, line
from benchmarks.timing import Effort, ratios
from stepstream_server.bundles import Bundle
from stepstream_server.cores import default_workers

_STREAMS = 64

Steps = Mapping[str, Sequence[Result]]


def row_20(bundle: Bundle, effort: Effort, tell: Callable[[str], None]) -> list[Line]:
    """Steps per second of 64 single-step streams by number of workers; requests per second of perf_analyzer, if it is there.

    A server runs for its own case alone: processes that merely wait still wake now and then, and cores are few.
    """
    steps: dict[int, Steps] = {}
    requests: dict[int, Requests] = {}
    for workers in sorted({0, default_workers() or 1, *effort.workers}):
        tell(f"row 20: {case_of(workers)}")
        with running(serve_command(bundle.path.parent, "--workers", str(workers))) as server:
            steps[workers] = _steps(server, workers, bundle, effort)
            if not missing():
                requests[workers] = _requests(server, workers, bundle, effort, tell)
    analyzed = [throughput(20, f"perf_analyzer, {case_of(workers)}", results, None) for workers, results in requests.items()]
    return [*scaling(steps), *analyzed]


def scaling(steps: Mapping[int, Steps]) -> list[Line]:
    """A line per number of workers, the first of them none: the server against the echo, and each against its own first."""
    speeds = {workers: {name: rates(each) for name, each in results.items()} for workers, results in steps.items()}
    lines = []
    for workers, results in steps.items():
        speed = speeds[workers]
        gain = {f"{name}'s gain": statistics.median(each) / statistics.median(speeds[0][name]) for name, each in speed.items()}
        against = ratios(speed["server"], speed["echo"])
        each = line(
            20, case_of(workers), against, "×", beside=facts(results) | gain, detail=details(results), note=warning(results)
        )
        lines.append(dataclasses.replace(each, series={"workers": [float(workers)], **speed}))
    return lines


def case_of(workers: int) -> str:
    """How many, and whether that is what a server has that is not told."""
    return f"{workers} worker{'' if workers == 1 else 's'}{' (default)' if workers == default_workers() else ''}"


def _steps(server: Server, workers: int, bundle: Bundle, effort: Effort) -> Steps:
    with running(echo_command("echo", *echo_sizes(bundle), workers=workers)) as echo:
        plans = {name: plan_for(each, bundle, effort, _STREAMS) for name, each in {"server": server, "echo": echo}.items()}
        return compare(plans, effort.side_rounds, generators())


def _requests(server: Server, workers: int, bundle: Bundle, effort: Effort, tell: Callable[[str], None]) -> Requests:
    with running(echo_command("oip_echo", str(bundle.path), workers=workers)) as echo:
        return Compared(server, echo, bundle, effort, tell).run(concurrency=_STREAMS)
