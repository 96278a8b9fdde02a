"""Live streams of several models on one server, each model at its natural rate: how soon is a step answered, and at what cost?

`python -m benchmarks.uses --also DIR/vad` serves the shipped models and a voice activity detector. Each use has 50 sessions with
a stream of their own, then 200 on one stream of a gateway that steps all of them with one block; first by itself, then while the
others run, too. Open loops: what is late waits, and counts from when it was due. In the end a closed loop of 64 sessions says how
many a core can serve. Flags that it does not know are the server's.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median

from benchmarks.drive import generate, plan_for
from benchmarks.frames import FramesPlan, FramesResult
from benchmarks.live import serving
from benchmarks.load import Result
from benchmarks.machine import describe
from benchmarks.process import ROOT, Server
from benchmarks.timing import FULL, Effort
from stepstream_server.bundles import Bundle, load

MODELS = ROOT / "models"
WORD_SECONDS = 0.2  # people type and speak two to four words a second, and a word may be two pieces
TEXTS = ("sentiment", "translate")  # whose steps are words, or pieces of them: they have no time step of their own
FRAMES = ("digits", "vad")  # whose steps are moments in time
SINGLE, GATEWAY = 50, 200  # sessions of a use
_BLOCK = 64  # sessions of the closed loop
_ROUNDS, _SECONDS = 3, 5.0
_CONNECTIONS = 50  # of single streams: one each, as live clients have


@dataclass(frozen=True, slots=True)
class Use:
    """A model, and how often each of its sessions steps."""

    bundle: Bundle
    period: float  # seconds

    @property
    def name(self) -> str:
        """The model's."""
        return self.bundle.spec.name

    def load(self, server: Server, effort: Effort, sessions: int, block: int) -> FramesPlan:
        """So many sessions, in blocks of so many."""
        plan = plan_for(server, self.bundle, effort, 1, block)
        return FramesPlan(replace(plan, connections=_CONNECTIONS), sessions, self.period)


@dataclass(frozen=True, slots=True)
class Round:
    """One round of measurements, each by the names of the uses."""

    alone: Mapping[str, FramesResult]
    together: Mapping[str, FramesResult]


def uses_of(bundles: Iterable[Bundle]) -> list[Use]:
    """The uses among these bundles, at their natural rates."""
    found = {bundle.spec.name: bundle for bundle in bundles}
    texts = [Use(found[name], WORD_SECONDS) for name in TEXTS if name in found]
    frames = [Use(found[name], found[name].spec.time_step_seconds or 0.0) for name in FRAMES if name in found]
    return texts + frames


def measure(server: Server, uses: Sequence[Use], effort: Effort, sessions: int, block: int) -> Round:
    """Each use by itself, and all of them at once. Raises RuntimeError if an answer was not right."""
    plans = {use.name: use.load(server, effort, sessions, block) for use in uses}
    alone = {name: _run(plan) for name, plan in plans.items()}
    with ThreadPoolExecutor(len(plans)) as pool:
        together = dict(zip(plans, pool.map(_run, plans.values()), strict=True))
    return Round(alone, together)


def _run(plan: FramesPlan) -> FramesResult:
    return FramesResult(**generate("frames", asdict(plan)))


def per_core(server: Server, bundle: Bundle, effort: Effort) -> tuple[float, float]:
    """Steps per second of one stream whose blocks step 64 sessions, and steps per second of the server's processor time."""
    plan = replace(plan_for(server, bundle, effort, 1, _BLOCK), in_flight=2)
    result = Result(**generate("load", asdict(plan)))
    return result.steps / result.seconds, result.steps / result.server_cpu


def tell(rounds: Sequence[Round], rates: Mapping[str, float]) -> Iterator[str]:
    """Medians of all rounds as rows of a table: each use by itself, and beside the others. rates: steps per second by use."""
    for name, rate in rates.items():
        alone, together = [each.alone[name] for each in rounds], [each.together[name] for each in rounds]
        late = sum(run.behind for run in (*alone, *together))
        note = f"; the generator was late in {late} of {2 * len(rounds)} runs" if late else ""
        yield f"| `{name}`, {rate:,.0f} steps/s{note} | {_delays(alone)} | {_busy(alone):.0%} | {_delays(together)} |"
    server = _busy([next(iter(each.together.values())) for each in rounds])
    generators = median(sum(run.generator_cpu / run.seconds for run in each.together.values()) for each in rounds)
    yield f"| all at once: {server:.0%} of a core, the generators {generators:.0%} | | | |"


def _delays(runs: Sequence[FramesResult]) -> str:
    """p50 and p99 in ms."""
    return ", ".join(f"{median(getattr(run, name) for run in runs) * 1e3:.1f}" for name in ("p50", "p99"))


def _busy(runs: Sequence[FramesResult]) -> float:
    """Processor time of the server, in cores."""
    return median(run.server_cpu / run.seconds for run in runs)


def main() -> None:
    """Prints figures, and what they were measured on."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--also", type=Path, nargs="*", default=[], help="further models' folders")
    parser.add_argument("--rounds", type=int, default=_ROUNDS, help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=_SECONDS, help="of one run; default: %(default)s")
    options, flags = parser.parse_known_args()
    effort = replace(FULL, load_seconds=options.seconds)
    machine = describe()
    print(f"{machine['cores']} cores, {machine['cpu']}, {machine['system']}, {machine['versions']}")
    bundles = [load(path) for path in (*sorted(MODELS.iterdir()), *options.also)]
    with serving(bundles, flags) as server:
        uses = uses_of(bundles)
        for sessions, block, title in ((SINGLE, 1, "single streams"), (GATEWAY, GATEWAY, "sessions of one gateway")):
            rounds = [measure(server, uses, effort, sessions, block) for _ in range(options.rounds)]
            print(f"\n| {sessions} {title} of each | alone: p50, p99 in ms | core | with the others: p50, p99 in ms |")
            print("|---|---|---|---|")
            print("\n".join(tell(rounds, {use.name: sessions / use.period for use in uses})))
        print(
            f"\n| closed loop, blocks of {_BLOCK} sessions | steps/s | sessions per core at their natural rate |\n|---|---|---|"
        )
        periods = {use.name: use.period for use in uses}
        for bundle in bundles:
            steps, busy = zip(*(per_core(server, bundle, effort) for _ in range(options.rounds)), strict=True)
            period = periods.get(bundle.spec.name, bundle.spec.time_step_seconds)
            print(f"| `{bundle.spec.name}` | {median(steps):,.0f} | {f'{median(busy) * period:,.0f}' if period else '-'} |")


if __name__ == "__main__":
    main()
