"""Row 12: what it costs that sessions survive their server."""

from __future__ import annotations

import dataclasses
import statistics
import tempfile
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from benchmarks.drive import details, facts, plan_for, rates, run, warning
from benchmarks.load import Plan, Result
from benchmarks.process import HERE, Checkout, Server, listening, serve_command, started
from benchmarks.report import Line, line
from benchmarks.timing import Effort, interleave, ratios
from stepstream_server.bundles import Bundle

_RECORDS = "stepstream_store_records_total"
_CASES = {"64 streams": (64, 1), "1,000 × 1": (1, 1000)}  # streams, sessions of each
_IN_FLIGHT = 4  # blocks of the second
_OFTEN = 16  # steps after which a session is written, rather than the default of many more

Results = Mapping[str, Sequence[Result]]


def row_12(bundle: Bundle, effort: Effort, tell: Callable[[str], None], checkout: Checkout = HERE) -> list[Line]:
    """Durable sessions of a server with a store on disk, against sessions of a server that has none, which takes turns with it.

    Closed loops of 64 single-step streams and of blocks of 1,000 sessions: rates and p99. A lone session, which has a write under
    way between its steps: p50 and p99. With writes after every 16 steps, what a written record takes of the processor.
    """
    with ExitStack() as stack:
        without = stack.enter_context(checkout.serving(bundle.path.parent))
        stored, _ = stack.enter_context(_storing(bundle, checkout))
        often, records = stack.enter_context(_storing(bundle, checkout, "--store.every_steps", str(_OFTEN)))
        lines = []
        for case, (streams, sessions) in _CASES.items():
            tell(f"row 12: {case}")
            results = _measure({"without": without, "durable": stored}, bundle, effort, streams, sessions)
            beside, note = facts(results), warning(results)
            speed = ratios(rates(results["durable"]), rates(results["without"]))
            lines.append(line(12, f"{case}: rate", speed, "×", 0.8, "at least", beside, details(results), note))
            lines.append(line(12, f"{case}: p99", _times(results, "p99"), "×", 1.5))
        tell("row 12: a lone session")
        results = _measure({"without": without, "durable": stored}, bundle, effort, 1, 1)
        lines += [
            line(12, f"a lone session: {figure}", _times(results, figure), "×", beside=facts(results), detail=details(results))
            for figure in ("p50", "p99")
        ]
        tell(f"row 12: written after {_OFTEN} steps")
        return [*lines, _per_record(without, often, records, bundle, effort)]


@contextmanager
def _storing(bundle: Bundle, checkout: Checkout, *flags: str) -> Iterator[tuple[Server, Callable[[], float]]]:
    """A server with a store on disk, and what tells how many records it has written."""
    told = () if checkout.workers is None else ("--workers", str(checkout.workers))
    with tempfile.TemporaryDirectory() as folder:
        store = ("--store.url", f"sqlite:{Path(folder) / 'sessions.db'}")
        with started(serve_command(bundle.path.parent, *told, *store, *flags, python=checkout.python), checkout.root) as process:
            server, url = Server(listening(process), process.pid), listening(process, "metrics")
            yield server, lambda: _written(url)


def _written(url: str) -> float:
    """Records that a server has written so far."""
    with urllib.request.urlopen(url) as page:
        lines = [line for line in page.read().decode().splitlines() if line.startswith(_RECORDS)]
    return sum(float(each.rpartition(" ")[2]) for each in lines)


def _plan(server: Server, bundle: Bundle, effort: Effort, streams: int, sessions: int, *, durable: bool) -> Plan:
    plan = plan_for(server, bundle, effort, streams, sessions)
    return dataclasses.replace(plan, in_flight=_IN_FLIGHT if sessions > 1 else 1, durable=durable)


def _measure(servers: Mapping[str, Server], bundle: Bundle, effort: Effort, streams: int, sessions: int) -> Results:
    """Runs the same load against both in turn."""
    plans = {name: _plan(each, bundle, effort, streams, sessions, durable=name == "durable") for name, each in servers.items()}
    return interleave({name: partial(run, plan) for name, plan in plans.items()}, effort.rounds)


def _times(results: Results, figure: str) -> list[float]:
    """One of their times, of durable sessions against the others."""
    return ratios(*([getattr(each, figure) for each in results[name]] for name in ("durable", "without")))


def _per_record(without: Server, often: Server, records: Callable[[], float], bundle: Bundle, effort: Effort) -> Line:
    """Processor time of the server beyond that of as many steps without a store, by records written, warm-up included in both."""
    streams, sessions = _CASES["1,000 × 1"]
    before = records()
    results = _measure({"without": without, "durable": often}, bundle, effort, streams, sessions)
    plain = statistics.median(each.server_cpu / each.steps for each in results["without"])
    share = effort.load_seconds / (effort.load_seconds + effort.warm_up_seconds)
    written = (records() - before) * share / len(results["durable"])
    costs = [(each.server_cpu - plain * each.steps) / max(written, 1.0) * 1e6 for each in results["durable"]]
    against = statistics.median(ratios(rates(results["durable"]), rates(results["without"])))
    beside = {"rate, × without": against, "records/s": written / effort.load_seconds}
    case = f"1,000 × 1, written after {_OFTEN} steps: CPU per record"
    return line(12, case, costs, "µs", beside=beside, detail=details(results))
