"""Live streams of one model, a step of each session every so often, as its bundle says: how soon are they answered?

`python -m benchmarks.live DIR/vad` serves a bundle, and offers it as many sessions as its bare graph computes within a share of
one core. They come from gateways, each with a block of 64 sessions per step; then from streams of their own, as many as are
answered within a time step. Open loops: what is late waits, and counts from when it was due. Flags that it does not know are the
server's, such as `--backend.threads 1`.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from benchmarks.drive import generate, plan_for
from benchmarks.frames import FramesPlan, FramesResult
from benchmarks.kernel import bind_model, bind_program
from benchmarks.machine import describe
from benchmarks.process import HERE, Server
from benchmarks.timing import FULL, Effort, median_seconds
from stepstream_server.bundles import Bundle, load
from stepstream_server.config import BackendSettings
from stepstream_server.spec import Program

GATEWAY = 64  # sessions of a block
_SHARE = 0.7  # of one core: what computing alone may take, so that there is room for all the rest
_ROUNDS, _SECONDS = 3, 5.0
_KERNEL_SECONDS = 0.5  # a block of a large model takes some milliseconds
_GATEWAY_STEP, _STREAM_STEP = 32, 8  # sessions: the most are found to so many
_CONNECTIONS = 64
_DELAYS = {"p50": "p50", "p99": "p99", "p999": "p99.9"}  # of a block: what the lines call them


@dataclass(frozen=True, slots=True)
class Live:
    """A server that is up, and the loads that it is offered."""

    bundle: Bundle
    server: Server
    effort: Effort
    period: float  # seconds of a time step

    def run(self, sessions: int, block: int) -> FramesResult:
        """So many sessions, in blocks of so many. Raises RuntimeError if an answer was not right."""
        stream = replace(plan_for(self.server, self.bundle, self.effort, 1, block), connections=_CONNECTIONS)
        return FramesResult(**generate("frames", asdict(FramesPlan(stream, sessions, self.period))))


@dataclass(frozen=True, slots=True)
class Round:
    """One round of measurements."""

    row_seconds: float  # of the bare graph, for a row of a block
    sessions: int  # from gateways, as many as the bare graph holds
    gateways: FramesResult
    held: int  # from gateways, the most of them that are answered in time
    in_time: FramesResult
    streams: int  # single ones, the most that are answered in time
    single: FramesResult


def measure(live: Live, share: float) -> Round:
    """The bare graph, gateways, and the most single streams."""
    row_seconds = bare_row_seconds(live.bundle, live.effort)
    sessions = max(1, int(share * live.period / row_seconds))
    held, gateways = sessions, live.run(sessions, GATEWAY)
    in_time = gateways
    if gateways.p99 >= live.period:
        held, in_time = most_in_time(lambda count: live.run(count, GATEWAY), live.period, sessions, _GATEWAY_STEP)
    streams, single = most_in_time(lambda count: live.run(count, 1), live.period, sessions, _STREAM_STEP)
    return Round(row_seconds, sessions, gateways, held, in_time, streams, single)


def bare_row_seconds(bundle: Bundle, effort: Effort) -> float:
    """Seconds of the bare graph for each row of a gateway's block, on one core."""
    settings = BackendSettings(threads=1)
    if isinstance(bundle.spec.computation, Program):
        kernel = bind_program(bundle.spec, bundle.graph, settings, GATEWAY)
    else:
        kernel = bind_model(bundle.spec, bundle.weights, settings, GATEWAY, 1)
    kernel()
    return median_seconds(kernel, effort.kernel_seconds) / GATEWAY


def most_in_time(run: Callable[[int], FramesResult], period: float, most: int, step: int) -> tuple[int, FramesResult]:
    """The most sessions, in steps of so many and up to `most`, whose p99 is below a time step, by halving; and how they fared. 0
    if not even the first step does."""
    found = run(step)
    if found.p99 >= period:
        return 0, found
    low, high = 1, max(1, most // step) + 1  # in steps; low is in time, high is not tried
    while high - low > 1:
        middle = (low + high) // 2
        result = run(middle * step)
        if result.p99 < period:
            low, found = middle, result
        else:
            high = middle
    return low * step, found


@contextmanager
def serving(bundles: Iterable[Bundle], flags: Sequence[str]) -> Iterator[Server]:
    """The server with these models and no others."""
    with tempfile.TemporaryDirectory() as folder:
        for bundle in bundles:
            (Path(folder) / bundle.spec.name).symlink_to(bundle.path.resolve())
        with HERE.serving(Path(folder), *flags) as server:
            yield server


def tell(rounds: Sequence[Round], period: float) -> Iterator[str]:
    """Medians of all rounds, in lines."""
    micros = statistics.median(each.row_seconds for each in rounds) * 1e6
    yield f"time step         {period * 1e3:.1f} ms"
    yield f"bare graph        {micros:.1f} µs a row, in a block of {GATEWAY}"
    yield f"gateways of {GATEWAY}    {_fared([each.sessions for each in rounds], [each.gateways for each in rounds])}"
    yield f"  most in time    {_fared([each.held for each in rounds], [each.in_time for each in rounds])}"
    yield f"single streams    {_fared([each.streams for each in rounds], [each.single for each in rounds])}"


def _fared(sessions: Sequence[int], runs: Sequence[FramesResult]) -> str:
    """Medians of how so many sessions fared."""
    delays = (f"{name} {statistics.median(getattr(run, field) for run in runs) * 1e3:.1f} ms" for field, name in _DELAYS.items())
    server = statistics.median(run.server_cpu / run.seconds for run in runs)
    own = statistics.median(run.generator_cpu / run.seconds for run in runs)
    late = sum(run.behind for run in runs)
    note = f"; invalid in {late} of {len(runs)} rounds: the generator was behind its schedule" if late else ""
    shown = f"{statistics.median(sessions):.0f} sessions: {', '.join(delays)}"
    return f"{shown}; server {server:.0%} of a core, generator {own:.0%}{note}"


def main() -> None:
    """Prints figures, and what they were measured on."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, help="a model's folder")
    parser.add_argument("--rounds", type=int, default=_ROUNDS, help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=_SECONDS, help="of one run; default: %(default)s")
    parser.add_argument("--share", type=float, default=_SHARE, help="of one core, for computing alone; default: %(default)s")
    options, flags = parser.parse_known_args()
    bundle = load(options.bundle)
    period = bundle.spec.time_step_seconds
    if period is None:
        parser.error(f"{options.bundle}: expected a model that says its time step, got one that does not")
    effort = replace(FULL, load_seconds=options.seconds, kernel_seconds=_KERNEL_SECONDS)
    machine = describe()
    print(f"{machine['cores']} cores, {machine['cpu']}, {machine['system']}, {machine['versions']}")
    with serving([bundle], flags) as server:
        live = Live(bundle, server, effort, period)
        rounds = [measure(live, options.share) for _ in range(options.rounds)]
    print("\n".join(tell(rounds, period)))


if __name__ == "__main__":
    main()
