"""Rows 3 and 4: many steps per message, on one stream, four blocks in flight."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial

from benchmarks.drive import Targets, details, facts, rates, run, run_kernel, warning
from benchmarks.kernel import bind_model
from benchmarks.load import Result
from benchmarks.process import Server
from benchmarks.report import Line, line
from benchmarks.timing import Effort, interleave, ratios, serial_bounds
from stepstream_server.config import BackendSettings

_IN_FLIGHT = 4  # blocks; more would only be easier


def row_3(targets: Targets, effort: Effort, tell: Callable[[str], None]) -> list[Line]:
    """Measures blocks of 1,000 sessions × 1 step and of 1 session × 64 steps."""
    return [
        *_compare(3, targets, effort, tell, sessions=1000, length=1, target=0.85),
        *_compare(3, targets, effort, tell, sessions=1, length=64, target=0.65),
    ]


def row_4(targets: Targets, effort: Effort, tell: Callable[[str], None]) -> list[Line]:
    """Measures blocks of 64 sessions × 1 step."""
    return _compare(4, targets, effort, tell, sessions=64, length=1, target=0.5)


def _compare(
    row: int, targets: Targets, effort: Effort, tell: Callable[[str], None], *, sessions: int, length: int, target: float
) -> list[Line]:
    """Compares steps per second with the serial bound of echo and bare kernel for the same blocks, and with a plain server's."""
    case = f"{sessions:,} × {length}"
    tell(f"row {row}: {case}")
    results = _measure(targets, effort, sessions, length)
    speed = {name: rates(each) for name, each in results.items()}
    against = ratios(speed["server"], serial_bounds(speed["echo"], speed["kernel"]))
    return [
        line(row, case, against, "×", target, "at least", facts(results), details(results), warning(results)),
        line(row, f"{case}, against a plain server", ratios(speed["server"], speed["plain"]), "×"),
    ]


def _measure(targets: Targets, effort: Effort, sessions: int, length: int) -> dict[str, list[Result]]:
    """Runs servers and kernel in turn."""
    kernel = bind_model(targets.bundle.spec, targets.bundle.weights, BackendSettings(), sessions, length)
    kernel()

    def loaded(server: Server) -> Result:
        plan = targets.plan(server, effort, sessions=sessions, length=length)
        return run(dataclasses.replace(plan, in_flight=_IN_FLIGHT))

    servers = {"server": targets.server, "echo": targets.echo, "plain": targets.plain}
    runs: dict[str, Callable[[], Result]] = {name: partial(loaded, each) for name, each in servers.items()}
    return interleave(runs | {"kernel": partial(run_kernel, kernel, sessions * length, effort)}, effort.rounds)
