"""Rows 2 and 5: one step per message."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from benchmarks.drive import (
    Targets,
    compare,
    details,
    facts,
    generators,
    large_targets,
    other_workers,
    rates,
    run,
    run_kernel,
    size_of,
    warning,
)
from benchmarks.kernel import bind_model
from benchmarks.load import Result
from benchmarks.report import Line, line
from benchmarks.timing import Effort, interleave, ratios
from stepstream_server.config import BackendSettings

_STREAMS = 64
_SHARES = {(_STREAMS, _STREAMS): 0.72, (_STREAMS, 1): 0.6}  # of the echo's rate, by streams and connections: the targets of row 2

Results = Mapping[str, Sequence[Result]]


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
    """Measures one session, one step at a time: the median of its round trip beyond the echo's and the kernel's, and its rate
    against a plain server's.

    A second server has no workers, or one where the default is none: the difference is what the hop to them takes.
    """
    tell("row 5")
    kernel = bind_model(targets.bundle.spec, targets.bundle.weights, BackendSettings(), 1, 1)
    kernel()
    workers, other = other_workers(targets.checkout.workers)
    with targets.checkout.serving(targets.bundle.path.parent, "--workers", str(workers)) as server:
        servers = {"server": targets.server, other: server, "echo": targets.echo, "plain": targets.plain}
        runs = {name: partial(run, targets.plan(each, effort)) for name, each in servers.items()}
        results = interleave(runs | {"kernel": partial(run_kernel, kernel, 1, effort)}, effort.rounds)
    lines = [
        _beyond("p50 beyond echo + kernel", "server", results, 200.0),
        _beyond(f"p50 beyond echo + kernel, {other}", other, results, None),
        _against_plain(targets, results, 1.2),
    ]
    tell("row 5: the large model")
    with large_targets(targets.checkout) as large:
        plans = {"server": large.plan(large.server, effort), "plain": large.plan(large.plain, effort)}
        return [*lines, _against_plain(large, compare(plans, effort.rounds), 2.0)]


def _beyond(case: str, name: str, results: Results, target: float | None) -> Line:
    """Subtracts the echo's round trip and the kernel's from that of a server, round by round."""
    compared = {each: results[each] for each in (name, "echo", "kernel")}
    p50 = {each: [run.p50 * 1e6 for run in several] for each, several in compared.items()}
    more = [whole - echo - least for whole, echo, least in zip(*p50.values(), strict=True)]
    beside = {f"{each} p50 µs": statistics.median(several) for each, several in p50.items()}
    return line(5, case, more, "µs", target, beside=beside, detail=details(compared))


def _against_plain(targets: Targets, results: Results, target: float) -> Line:
    """Compares the server's rate with a plain server's."""
    compared = {name: results[name] for name in ("server", "plain")}
    against = ratios(*(rates(each) for each in compared.values()))
    case = f"{size_of(targets.bundle)}, rate against a plain server"
    beside, detail = facts(compared), details(compared)
    return line(5, case, against, "×", target, "at least", beside, detail, warning(compared))
