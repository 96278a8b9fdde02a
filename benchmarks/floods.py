"""Floods of HTTP/2 and their costs: the server's memory before, at its largest and some time after; the delay of honest steps.

`python -m benchmarks.floods` sends each kind of `flooding` for five seconds to a server of its own, beside honest clients with 64
streams and a fifth of the steps that would be the most. `--against DIR` does so to the server of another checkout, too, in turn.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from benchmarks.drive import SMALL, make_model, paced_plan, plan_for, rates, run, run_paced
from benchmarks.flooding import ACTS
from benchmarks.machine import describe
from benchmarks.process import HERE, ROOT, Checkout, Server, checkout_at, module_command, resident_bytes
from benchmarks.timing import FULL, Effort
from stepstream_server.bundles import Bundle

_STREAMS, _SHARE = 64, 0.2
_SECONDS, _ROUNDS, _REST_SECONDS = 5.0, 3, 25.0  # of a flood, how often, and how long memory is waited for afterwards
_LOOK_SECONDS = 0.05
_SILENT_SECONDS = 15.0  # of a flood that says nothing: half as long again as a server bears by default
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Outcome:
    """Effects of one flood on one server."""

    sent: int  # as `flooding` counts it
    before: float  # MiB of all processes of the server
    peak: float
    after: float
    p50: float  # of honest steps, in seconds
    p99: float


def endure(checkout: Checkout, kind: str, bundle: Bundle, effort: Effort, rest_seconds: float, connections: int = 1) -> Outcome:
    """Floods a server of its own. Raises RuntimeError if an honest answer was not right."""
    with checkout.serving(bundle.path.parent) as server:
        rate = _SHARE * rates([run(plan_for(server, bundle, effort, _STREAMS))])[0]
        before = resident_bytes(server.pid)
        with _watched(server) as seen:
            seconds = max(effort.load_seconds + effort.warm_up_seconds, _SILENT_SECONDS if kind == "silent" else 0.0)
            shared = ("--connections", str(connections))
            command = module_command("flooding", kind, server.address, str(seconds), *shared)
            with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as flood:
                honest = run_paced(paced_plan(server, bundle, effort, _STREAMS, rate))
                sent = int(flood.communicate()[0])
        threading.Event().wait(rest_seconds)
        return Outcome(sent, before / _MIB, max(seen) / _MIB, resident_bytes(server.pid) / _MIB, honest.p50, honest.p99)


@contextmanager
def _watched(server: Server) -> Iterator[list[int]]:
    """Collects bytes of the server's processes until the block ends."""
    seen, over = [resident_bytes(server.pid)], threading.Event()

    def look() -> None:
        while not over.wait(_LOOK_SECONDS):
            seen.append(resident_bytes(server.pid))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def tell(kind: str, side: str, outcomes: Sequence[Outcome]) -> str:
    """Medians of all rounds as a row of a table."""
    sent, before, peak, after, p50, p99 = (
        median(getattr(each, name) for each in outcomes) for name in ("sent", "before", "peak", "after", "p50", "p99")
    )
    memory = f"{before:.0f} | +{peak - before:.0f} | {after - before:+.0f}"
    return f"| {kind} | {side} | {sent:,.0f} | {memory} | {p50 * 1e3:.1f} | {p99 * 1e3:.1f} |"


def main() -> None:
    """Prints figures, and what they were measured on."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.floods", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--against", type=Path, metavar="DIR", help="another checkout, with an environment of its own")
    parser.add_argument("--kinds", nargs="*", default=list(ACTS), choices=ACTS, help="default: all")
    parser.add_argument("--connections", type=int, default=1, help="that share a flood; default: %(default)s")
    parser.add_argument("--workers", type=int, help="of the servers")
    parser.add_argument("--rounds", type=int, default=_ROUNDS, help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=_SECONDS, help="of a flood; default: %(default)s")
    parser.add_argument("--rest", type=float, default=_REST_SECONDS, help="seconds after it; default: %(default)s")
    options = parser.parse_args()
    sides = {"this": replace(HERE, workers=options.workers)}
    if options.against:
        sides["other"] = checkout_at(options.against, options.workers)
    effort = replace(FULL, load_seconds=options.seconds)
    machine = describe()
    print(f"{machine['cores']} cores, {machine['cpu']}, {machine['system']}, {machine['versions']}\n")
    print("| flood | server | sent | MiB before | at most | after | honest p50 ms | p99 ms |\n|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        bundle = make_model(Path(folder) / "served", SMALL)
        for kind in options.kinds:
            rounds = [
                {name: endure(side, kind, bundle, effort, options.rest, options.connections) for name, side in sides.items()}
                for _ in range(options.rounds)
            ]
            for name in sides:
                print(tell(kind, name, [each[name] for each in rounds]), flush=True)


if __name__ == "__main__":
    main()
