"""Row 16: how quickly sessions come and go when nothing else happens."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import asdict
from functools import partial

from benchmarks.drive import Targets, generate
from benchmarks.openings import OpeningsPlan, OpeningsResult
from benchmarks.process import Server
from benchmarks.report import Line, line
from benchmarks.timing import Effort, interleave

_CASES = {  # callers, sessions per message
    "one by one, unary, 64 callers": (64, 0),
    "one by one, on 64 streams": (64, 1),
    "1,000 per message, on one stream": (1, 1000),
}


def row_16(targets: Targets, effort: Effort, tell: Callable[[str], None]) -> list[Line]:
    """Sessions opened and closed per second, with the echo of the same messages beside."""
    lines = []
    for case, (callers, sessions) in _CASES.items():
        tell(f"row 16: {case}")
        servers = {"server": targets.server, "echo": targets.echo}
        runs = {name: partial(_run, targets, each, effort, callers, sessions) for name, each in servers.items()}
        results = interleave(runs, effort.side_rounds)
        speed = {name: [each.sessions / each.seconds for each in several] for name, several in results.items()}
        beside = {"echo sessions/s": statistics.median(speed["echo"])}
        for name, several in results.items():
            busy = statistics.median(each.generator_cpu / each.seconds for each in several)
            beside[f"generator's share of a core, {name}"] = busy
        lines.append(line(16, f"opened and closed, {case}", speed["server"], "1/s", beside=beside))
    return lines


def _run(targets: Targets, server: Server, effort: Effort, callers: int, sessions: int) -> OpeningsResult:
    name = targets.bundle.spec.name
    plan = OpeningsPlan(server.address, server.pid, name, callers, sessions, effort.warm_up_seconds, effort.load_seconds)
    return OpeningsResult(**generate("openings", asdict(plan)))
