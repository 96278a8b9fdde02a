"""Rows 2 and 5: one step per message."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable
from functools import partial

from benchmarks.drive import Targets, compare, details, facts, generators, rates, run, run_kernel, warning
from benchmarks.kernel import bind_model
from benchmarks.report import Line, line
from benchmarks.timing import Effort, interleave, ratios
from stepstream_server.config import BackendSettings

_STREAMS = 64
_SHARES = {(_STREAMS, _STREAMS): 0.72, (_STREAMS, 1): 0.6}  # of the echo's rate, by streams and connections: the targets of row 2


def row_2(targets: Targets, effort: Effort, tell: Callable[[str], None]) -> list[Line]:
    """Closed loop, one session per stream: steps per second against the echo.

    64 streams come over a connection each, as from 64 clients, and over one, as from one client. The second is the harder: what
    gRPC does per message is then shared, for the echo more than for the server.
    """
    lines = []
    for streams, connections in ((_STREAMS, _STREAMS), (_STREAMS, 1), *((each, each) for each in effort.streams)):
        shape = f"{_count(streams, 'stream')}, {_count(connections, 'connection')}"
        tell(f"row 2: {shape}")
        compared = {"server": targets.server, "echo": targets.echo}
        if streams == connections:
            compared["plain"] = targets.plain
        plans = {name: targets.plan(each, effort, streams) for name, each in compared.items()}
        plans = {name: dataclasses.replace(each, connections=connections) for name, each in plans.items()}
        gate = _SHARES.get((streams, connections))
        results = compare(plans, effort.rounds if gate else effort.side_rounds, generators())
        speed = {name: rates(each) for name, each in results.items()}
        beside, detail = facts(results), details(results)
        against = ratios(speed["server"], speed["echo"])
        lines.append(line(2, shape, against, "×", gate, "at least", beside, detail, warning(results)))
        if "plain" in results:
            lines.append(line(2, f"{shape}, against a plain server", ratios(speed["server"], speed["plain"]), "×"))
    return lines


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' if number > 1 else ''}"


def row_5(targets: Targets, effort: Effort, tell: Callable[[str], None]) -> list[Line]:
    """One session, one step at a time: median of its round trip beyond the echo's and the kernel's.

    Of the server as it is by default, and of one that has no workers and so does without their hop.
    """
    tell("row 5")
    kernel = bind_model(targets.bundle.spec, targets.bundle.weights, BackendSettings(), 1, 1)
    kernel()
    with targets.checkout.serving(targets.bundle.path.parent, "--workers", "0") as alone:
        servers = {"server": targets.server, "without workers": alone, "echo": targets.echo}
        runs = {name: partial(run, targets.plan(each, effort)) for name, each in servers.items()}
        results = interleave(runs | {"kernel": partial(run_kernel, kernel, 1, effort)}, effort.rounds)
    p50 = {name: [each.p50 * 1e6 for each in several] for name, several in results.items()}
    lines = []
    for name, case, gate in (
        ("server", "p50 beyond echo + kernel", 200.0),
        ("without workers", "p50 beyond echo + kernel, without workers", None),
    ):
        more = [server - echo - least for server, echo, least in zip(p50[name], p50["echo"], p50["kernel"], strict=True)]
        compared = {each: results[each] for each in (name, "echo", "kernel")}
        beside = {f"{each} p50 µs": statistics.median(p50[each]) for each in compared}
        lines.append(line(5, case, more, "µs", gate, beside=beside, detail=details(compared)))
    return lines
