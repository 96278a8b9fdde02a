"""Rows 6 and 7: more steps than the server can do, and fewer."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable
from functools import partial

from benchmarks.drive import DELAYS, Targets, behind, paced_details, paced_plan, rates, run, run_paced
from benchmarks.paced import PacedResult
from benchmarks.process import Server
from benchmarks.report import Line, line
from benchmarks.timing import Effort, interleave, ratios

_STREAMS = 64
_DEADLINE = 0.25  # seconds: some ten round trips at the peak
_FEW, _EAGER = 4, 512  # steps in flight per stream: a careful client's, and half the session's window
_OVERLOAD, _BUSY = 2.0, 0.7  # times the peak


def row_6(targets: Targets, effort: Effort, tell: Callable[[str], None]) -> list[Line]:
    """Goodput (steps answered within 250 ms of being due) when twice the peak is offered, against the peak of the same round.

    The peak is of a closed loop with as many steps in flight as the careful clients have. Eager clients send whatever is due.
    """

    def offered() -> tuple[float, PacedResult, PacedResult]:
        peak = _peak(targets, targets.server, effort, _FEW)
        plan = paced_plan(targets.server, targets.bundle, effort, _STREAMS, _OVERLOAD * peak)
        plan = dataclasses.replace(plan, deadline_seconds=_DEADLINE, warm_up_seconds=effort.warm_up_seconds + _DEADLINE)
        few, eager = (run_paced(dataclasses.replace(plan, in_flight=each)) for each in (_FEW, _EAGER))
        return peak, few, eager

    tell("row 6")
    peaks, *cases = zip(*[offered() for _ in range(effort.paced_rounds)], strict=True)
    lines = []
    for name, gate, results in zip((f"{_FEW} in flight", "all that is due in flight"), (0.9, None), cases, strict=True):
        goodput = [each.in_time / each.seconds for each in results]
        beside = {"peak steps/s": statistics.median(peaks), "goodput steps/s": statistics.median(goodput)}
        details = paced_details({"server": results})
        wanted = ("offered/s", "given up/s", "refused/s", "late/s", *DELAYS.values())
        beside |= {name: details[f"server {name}"] for name in wanted}
        note = behind({"server": results})
        lines.append(line(6, f"twice the peak, {name}", ratios(goodput, peaks), "×", gate, "at least", beside, details, note))
    return lines


def row_7(targets: Targets, effort: Effort, tell: Callable[[str], None]) -> list[Line]:
    """p99 of an open loop at 70 % of the peak, against the echo's at 70 % of its own; peaks are those of row 2."""

    def busy(target: Server) -> PacedResult:
        peak = _peak(targets, target, effort, 1)
        return run_paced(paced_plan(target, targets.bundle, effort, _STREAMS, _BUSY * peak))

    tell("row 7")
    compared = {"server": targets.server, "echo": targets.echo}
    results = interleave({name: partial(busy, target) for name, target in compared.items()}, effort.paced_rounds)
    p99 = {name: [each.p99 for each in several] for name, several in results.items()}
    details = paced_details(results)
    wanted = ("offered/s", *DELAYS.values(), "lag p99 µs")
    beside = {f"{name} {figure}": details[f"{name} {figure}"] for name in results for figure in wanted}
    against = ratios(p99["server"], p99["echo"])
    return [line(7, "70 % of the peak: p99", against, "×", 2.0, beside=beside, detail=details, note=behind(results))]


def _peak(targets: Targets, target: Server, effort: Effort, in_flight: int) -> float:
    """Steps per second of a closed loop."""
    return rates([run(dataclasses.replace(targets.plan(target, effort, _STREAMS), in_flight=in_flight))])[0]
