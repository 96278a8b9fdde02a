"""Row 10: what idle sessions cost those that are active, and in memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import ExitStack

from benchmarks.drive import compare, details, facts, holding, plan_for, run, warning
from benchmarks.process import Server, resident_bytes, running, serve_command
from benchmarks.report import Line, line
from benchmarks.timing import Effort, ratios
from stepstream_server.bundles import Bundle

_ACTIVE = 64
_PER_STREAM = 10_000  # idle sessions; a message may open as many
_SPARE = 1024  # slots beyond the idle sessions'


def row_10(bundle: Bundle, effort: Effort, tell: Callable[[str], None]) -> list[Line]:
    """p50 and p99 of 64 single-step streams beside idle sessions, against the same server without them; bytes per session.

    Two servers with the same settings take turns. Each idle session has been stepped once, so that its state is in memory, has
    had its answer acknowledged, and stays attached to an open stream. Memory is compared with that of a server that has no room
    for them, so that what is set aside at the start counts too.
    """
    idle = effort.idle_sessions
    with ExitStack() as stack:
        tell(f"row 10: opening {idle:,} idle sessions")
        small = stack.enter_context(running(serve_command(bundle.path.parent, "--engine.capacity", str(_SPARE))))
        flags = ("--engine.capacity", str(idle + _SPARE))
        empty, full = (stack.enter_context(running(serve_command(bundle.path.parent, *flags))) for _ in range(2))
        for server in (small, empty, full):
            run(plan_for(server, bundle, effort, _ACTIVE))
        _fill(stack, full, bundle, effort)
        lines = _latency(bundle, {"without": empty, "with": full}, effort, tell)
        run(plan_for(small, bundle, effort, _ACTIVE))
        lines.append(_memory(small, full, bundle, idle))
    return lines


def _fill(stack: ExitStack, server: Server, bundle: Bundle, effort: Effort) -> None:
    """Idle sessions on streams of their own, until the stack unwinds."""
    sessions = min(effort.idle_sessions, _PER_STREAM)
    plan = plan_for(server, bundle, effort, effort.idle_sessions // sessions, sessions)
    stack.enter_context(holding(dataclasses.replace(plan, connections=1, max_blocks=1, idle=True)))


def _latency(bundle: Bundle, servers: dict[str, Server], effort: Effort, tell: Callable[[str], None]) -> list[Line]:
    tell(f"row 10: {effort.idle_rounds} rounds")
    plans = {name: plan_for(server, bundle, effort, _ACTIVE) for name, server in servers.items()}
    results = compare(plans, effort.idle_rounds)
    p50 = ratios([each.p50 for each in results["with"]], [each.p50 for each in results["without"]])
    p99 = ratios([each.p99 for each in results["with"]], [each.p99 for each in results["without"]])
    case = f"{effort.idle_sessions:,} idle sessions"
    return [
        line(10, f"{case}: p50", p50, "×", 1.05, beside=facts(results), detail=details(results), note=warning(results)),
        line(10, f"{case}: p99", p99, "×", 1.25),
    ]


def _memory(small: Server, full: Server, bundle: Bundle, idle: int) -> Line:
    state = bundle.spec.state_bytes
    both = [resident_bytes(server.pid) for server in (small, full)]
    beside = {"state B": float(state), "MiB without": both[0] / 2**20, "MiB with": both[1] / 2**20}
    return line(10, "memory per idle session beyond its state", [(both[1] - both[0]) / idle - state], "B", 1100.0, beside=beside)
