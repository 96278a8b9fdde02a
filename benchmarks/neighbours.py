"""Rows 8, 15 and 23: what one client costs the others."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from benchmarks.drive import (
    DELAYS,
    Targets,
    behind,
    beside,
    paced_details,
    paced_plan,
    plan_for,
    rates,
    rolling_plan,
    run,
    run_paced,
)
from benchmarks.load import Plan
from benchmarks.paced import PacedResult
from benchmarks.process import Server, running, serve_command
from benchmarks.report import Line, line
from benchmarks.rolling import RollingPlan
from benchmarks.timing import Effort, interleave, ratios
from stepstream_server.bundles import Bundle, write
from stepstream_server.bundles.declare import declare
from stepstream_server.bundles.init import random_weights
from stepstream_server.spec import CellSpec, HeadSpec

_STREAMS = 64  # of honest clients
_SHARE = 0.3  # of the peak that they offer: there is room for somebody else
_CHUNK = 64  # steps
_CHUNKS_IN_FLIGHT = 4
_SILENT_SESSIONS = 1000
_ROLLOUTS = 64
_ALONE = "alone"

Cases = dict[str, tuple[str, Plan | RollingPlan, float | None]]  # by kind of client: what it is called, its plan, the target


def row_8(targets: Targets, effort: Effort, tell: Callable[[str], None]) -> list[Line]:
    """p99 of single steps beside one session that streams chunks without end, against the same without it."""
    tell("row 8")
    chunks = dataclasses.replace(targets.plan(targets.server, effort, length=_CHUNK), in_flight=_CHUNKS_IN_FLIGHT)
    with ExitStack() as stack:
        other = stack.enter_context(targets.checkout.serving(targets.bundle.path.parent))
        servers = {_ALONE: other, "chunks": targets.server}
        return _compare(8, {"chunks": ("an endless stream of chunks", chunks, 1.5)}, servers, targets.bundle, effort)


def row_15(bundle: Bundle, effort: Effort, tell: Callable[[str], None]) -> list[Line]:
    """p99 of honest single steps beside one client that misbehaves, against the same without it.

    Each kind has a server of its own, so that what one leaves behind does not trouble the others.
    """
    tell("row 15")
    with ExitStack() as stack:
        names = (_ALONE, "silent", "flood", "streams")
        servers = {name: stack.enter_context(running(serve_command(bundle.path.parent))) for name in names}
        cases: Cases = {
            "silent": ("a client that never reads", plan_for(servers["silent"], bundle, effort, 1, _SILENT_SESSIONS), None),
            "flood": ("a client that writes without end", plan_for(servers["flood"], bundle, effort, 1), None),
            "streams": ("a client that opens streams without end", plan_for(servers["streams"], bundle, effort, 1), None),
        }
        return _compare(15, cases, servers, bundle, effort)


def row_23(folder: Path, effort: Effort, tell: Callable[[str], None]) -> list[Line]:
    """p99 of single steps beside 64 endless rollouts of the same model, against the same without them."""
    tell("row 23")
    bundle = _predicting(folder)
    with ExitStack() as stack:
        servers = {name: stack.enter_context(running(serve_command(folder))) for name in (_ALONE, "rollouts")}
        rollouts = rolling_plan(servers["rollouts"], bundle, effort, _ROLLOUTS, temperature=0.0)
        return _compare(23, {"rollouts": (f"{_ROLLOUTS} endless rollouts", rollouts, None)}, servers, bundle, effort)


def _predicting(folder: Path) -> Bundle:
    """A random model of the size of all comparisons, whose output is its next input."""
    head = HeadSpec("output", "regression", 1, predicts="input")
    spec = declare("h128-predicting", CellSpec("lstm", 1, 128, 1), [head])
    return write(folder / spec.name, spec, random_weights(spec, seed=0))


def _compare(
    row: int,
    cases: Cases,
    servers: dict[str, Server],
    bundle: Bundle,
    effort: Effort,
) -> list[Line]:
    """A line per kind of client."""
    peak = rates([run(plan_for(servers[_ALONE], bundle, effort, _STREAMS))])[0]
    counts: dict[str, list[dict[str, float]]] = {name: [] for name in cases}

    def honest(name: str) -> PacedResult:
        plan = paced_plan(servers[name], bundle, effort, _STREAMS, _SHARE * peak)
        if name == _ALONE:
            return run_paced(plan)
        with beside(name, cases[name][1]) as done:
            result = run_paced(plan)
        counts[name].append(done)
        return result

    runs = {name: (lambda name=name: honest(name)) for name in servers}
    results = interleave(runs, effort.paced_rounds)
    lines = []
    for name, (case, _, target) in cases.items():
        compared = {_ALONE: results[_ALONE], "beside": results[name]}
        against = ratios([each.p99 for each in results[name]], [each.p99 for each in results[_ALONE]])
        details = paced_details(compared)
        shown = {f"{each} {delay}": details[f"{each} {delay}"] for each in compared for delay in DELAYS.values()}
        did = {f"its {what}": statistics.median(each.get(what, 0.0) for each in counts[name]) for what in counts[name][0]}
        shown |= {"honest steps/s": details["beside in time/s"]} | did
        lines.append(line(row, f"p99 beside {case}", against, "×", target, beside=shown, detail=details, note=behind(compared)))
    return lines
