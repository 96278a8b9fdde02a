"""TLS and tokens: what either costs, and both, against plaintext without a token.

`python -m benchmarks.encrypted` prints a table: of a lone session, of 64 streams over a connection each, and of unary calls over
one connection. Rounds of all four servers alternate. Ratios are medians over rounds. Processor times are of all of the server's
processes, and of the load generator apart, which encrypts and decrypts as much as the server does.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from benchmarks.certificates import LOCAL, make_certificate
from benchmarks.drive import SMALL, make_model, plan_for, run, run_calls
from benchmarks.load import Plan, Result
from benchmarks.machine import describe
from benchmarks.process import HERE, Checkout, Server
from benchmarks.timing import FULL, QUICK, SMOKE, Effort, interleave, ratios
from stepstream_server.access import entry, make_token
from stepstream_server.bundles import Bundle

_STREAMS = 64
_CALLERS = 16
_TENANT = "bench"
_HEAD = """\
| load | server | steps/s | p50 µs | p99 µs | server's CPU µs/step | generator's | rate × | p50 × | p99 × | server's CPU × |
|---|---|---|---|---|---|---|---|---|---|---|"""


@dataclass(frozen=True, slots=True)
class Guarded:
    """A server, and what its clients need."""

    server: Server
    authority_file: str = ""  # the certificate of who vouches for it; empty: it speaks plaintext
    token: str = ""

    def plan(self, bundle: Bundle, effort: Effort, streams: int) -> Plan:
        """So many streams or callers."""
        return replace(plan_for(self.server, bundle, effort, streams), authority_file=self.authority_file, token=self.token)


@contextmanager
def guarded(checkout: Checkout, models: Path, folder: Path) -> Iterator[dict[str, Guarded]]:
    """Four servers, by what they ask for. Files are made in the folder."""
    token, tenants = make_token(), folder / "tenants.toml"
    tenants.write_text(entry(_TENANT, token))
    key, certificate = make_certificate(folder, "server", "-addext", LOCAL)
    tls, tokens = ("--door.tls_cert", str(certificate), "--door.tls_key", str(key)), ("--door.tokens", str(tenants))
    with ExitStack() as stack:

        def serve(*flags: str) -> Server:
            return stack.enter_context(checkout.serving(models, *flags))

        yield {
            "plaintext": Guarded(serve()),
            "token": Guarded(serve(*tokens), token=token),
            "TLS": Guarded(serve(*tls), str(certificate)),
            "TLS + token": Guarded(serve(*tls, *tokens), str(certificate), token),
        }


LOADS: dict[str, tuple[Callable[[Plan], Result], int]] = {
    "a lone session": (run, 1),
    f"{_STREAMS} streams": (run, _STREAMS),
    f"unary calls, {_CALLERS} at a time": (run_calls, _CALLERS),
}


def measure(checkout: Checkout, bundle: Bundle, effort: Effort, folder: Path) -> Iterator[str]:
    """Rows of the table, as they come. Raises RuntimeError if an answer was not right."""
    with guarded(checkout, bundle.path.parent, folder) as servers:
        for load, (drive, streams) in LOADS.items():
            runs = {name: partial(drive, each.plan(bundle, effort, streams)) for name, each in servers.items()}
            yield from tell(load, interleave(runs, effort.rounds))


def tell(load: str, results: Mapping[str, Sequence[Result]]) -> list[str]:
    """A row of each server, against the first."""
    first = next(iter(results.values()))
    return [f"| {load} | {name} | {_figures(each)} | {_against(each, first)} |" for name, each in results.items()]


FIGURES: dict[str, Callable[[Result], float]] = {
    "steps/s": lambda run: run.steps / run.seconds,
    "p50": lambda run: run.p50 * 1e6,
    "p99": lambda run: run.p99 * 1e6,
    "server": lambda run: run.server_cpu / run.steps * 1e6,
    "generator": lambda run: run.generator_cpu / run.steps * 1e6,
}


def _figures(runs: Sequence[Result]) -> str:
    """Medians."""
    return " | ".join(f"{statistics.median(map(figure, runs)):,.0f}" for figure in FIGURES.values())


def _against(runs: Sequence[Result], first: Sequence[Result]) -> str:
    """Medians of what the figures of each round are of those of the first server."""
    compared = [FIGURES[name] for name in ("steps/s", "p50", "p99", "server")]
    return " | ".join(f"{statistics.median(ratios(*([*map(each, some)] for some in (runs, first)))):.2f}" for each in compared)


def main() -> None:
    """Prints figures, and what they were measured on."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.encrypted", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_const", dest="effort", const=QUICK, default=FULL, help="rougher")
    parser.add_argument("--smoke", action="store_const", dest="effort", const=SMOKE, help="only whether it works")
    parser.add_argument("--rounds", type=int, help="of each load")
    parser.add_argument("--workers", type=int, help="of the servers")
    options = parser.parse_args()
    effort: Effort = options.effort if options.rounds is None else options.effort.with_rounds(options.rounds)
    machine = describe()
    print(f"{machine['cores']} cores, {machine['cpu']}, {machine['system']}, {machine['versions']}\n\n{_HEAD}")
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        bundle = make_model(folder / "served", SMALL)
        for row in measure(replace(HERE, workers=options.workers), bundle, effort, folder):
            print(row, flush=True)


if __name__ == "__main__":
    main()
