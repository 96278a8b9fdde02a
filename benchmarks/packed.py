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
from benchmarks.timing import Effort, interleave, ratios
from stepstream_server.config import BackendSettings

_IN_FLIGHT = 4  # blocks; more would only be easier


def row_3(targets: Targets, effort: Effort, tell: Callable[[str], None]) -> list[Line]:
    """1,000 sessions × 1 step and 1 session × 64 steps: steps per second against the bare kernel."""
    lines = []
    for sessions, length in ((1000, 1), (1, 64)):
        case = f"{sessions:,} × {length}"
        tell(f"row 3: {case}")
        servers = {"server": targets.server, "echo": targets.echo, "plain": targets.plain}
        results = _measure(targets, servers, effort, sessions, length)
        speed = {name: rates(each) for name, each in results.items()}
        against = ratios(speed["server"], speed["kernel"])
        beside, detail = facts(results), details(results)
        lines.append(line(3, case, against, "×", 0.8, "at least", beside, detail, warning({"server": results["server"]})))
        lines.append(line(3, f"{case}, against a plain server", ratios(speed["server"], speed["plain"]), "×"))
    return lines


def row_4(targets: Targets, effort: Effort, tell: Callable[[str], None]) -> list[Line]:
    """64 sessions × 1 step: steps per second against the slower of the bare kernel and the echo of the same blocks."""
    tell("row 4: 64 × 1")
    results = _measure(targets, {"server": targets.server, "echo": targets.echo, "plain": targets.plain}, effort, 64, 1)
    speed = {name: rates(each) for name, each in results.items()}
    slower = [min(pair) for pair in zip(speed["kernel"], speed["echo"], strict=True)]
    against = ratios(speed["server"], slower)
    return [
        line(
            4, "64 × 1", against, "×", 0.8, "at least", facts(results), details(results), warning({"server": results["server"]})
        ),
        line(4, "64 × 1, against a plain server", ratios(speed["server"], speed["plain"]), "×"),
    ]


def _measure(targets: Targets, servers: dict[str, Server], effort: Effort, sessions: int, length: int) -> dict[str, list[Result]]:
    """Interleaved runs of servers and of the kernel."""
    kernel = bind_model(targets.bundle.spec, targets.bundle.weights, BackendSettings(), sessions, length)
    kernel()

    def loaded(server: Server) -> Result:
        plan = targets.plan(server, effort, sessions=sessions, length=length)
        return run(dataclasses.replace(plan, in_flight=_IN_FLIGHT))

    runs: dict[str, Callable[[], Result]] = {name: partial(loaded, each) for name, each in servers.items()}
    return interleave(runs | {"kernel": partial(run_kernel, kernel, sessions * length, effort)}, effort.rounds)
