"""Load from a separate process, and what is said of each run."""

from __future__ import annotations

import json
import statistics
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.load import Plan, Result
from benchmarks.paced import PacedResult
from benchmarks.paced_lane import PacedPlan
from benchmarks.process import HERE, ROOT, Checkout, Server, module_command, read_json, running, started
from benchmarks.rolling import RollingPlan
from benchmarks.timing import Effort, interleave, median_seconds
from stepstream_server.bundles import Bundle, init_model
from stepstream_server.cores import default_workers, usable_cores
from stepstream_server.spec import cell_model

SMALL, LARGE = "h128", "h512x2"  # models of the comparisons
_SIZES = {SMALL: (128, 1), LARGE: (512, 2)}  # units, layers
_MOST_GENERATORS = 4
_GENERATOR_BUSY = 0.9  # of a core: beyond it the generator may be what is measured
DELAYS = {"p50": "p50 µs", "p99": "p99 µs", "p999": "p99.9 µs"}  # of results: what tables call them
_LAGS = {"lag_p50": "lag p50 µs", "lag_p99": "lag p99 µs"}


@dataclass(frozen=True, slots=True)
class Targets:
    """Servers that are compared, all up at the same time: one that is not asked anything takes no time."""

    server: Server
    echo: Server
    plain: Server
    bundle: Bundle  # what all of them serve, or claim to
    checkout: Checkout = HERE  # whose the server is

    def plan(self, target: Server, effort: Effort, streams: int = 1, sessions: int = 1, length: int = 1) -> Plan:
        """A plan for one of the servers, with a connection per stream and one block in flight."""
        return plan_for(target, self.bundle, effort, streams, sessions, length)


@contextmanager
def targets(bundle: Bundle, checkout: Checkout = HERE) -> Iterator[Targets]:
    """Starts the three servers and ends them."""
    with (
        checkout.serving(bundle.path.parent) as server,
        running(echo_command("echo", *echo_sizes(bundle), workers=checkout.workers)) as echo,
        running(module_command("plain", str(bundle.path))) as plain,
    ):
        yield Targets(server, echo, plain, bundle, checkout)


@contextmanager
def large_targets(checkout: Checkout) -> Iterator[Targets]:
    """Starts three servers of the large model and ends them."""
    with tempfile.TemporaryDirectory() as folder, targets(make_model(Path(folder), LARGE), checkout) as large:
        yield large


def echo_command(module: str, *flags: str, workers: int | None = None) -> list[str]:
    """Says how to start an echo of this package in as many processes as a server has workers, at least one."""
    return module_command(module, *flags, "--processes", str(max(1, _workers(workers))))


def other_workers(workers: int | None) -> tuple[int, str]:
    """Chooses how many workers a second server has that shows, beside one that is told so many, what the hop to workers takes;
    says too how it is called."""
    return (0, "without workers") if _workers(workers) else (1, "with a worker")


def _workers(told: int | None) -> int:
    """Says how many workers a server has that is told so many; None: it is not told."""
    return default_workers() if told is None else told


def echo_sizes(bundle: Bundle) -> tuple[str, ...]:
    """Flags of the echo that answers as if it served this model."""
    return "--input-bytes", str(bundle.spec.inputs[0].step_bytes), "--output-bytes", str(bundle.spec.outputs[0].step_bytes)


def plan_for(target: Server, bundle: Bundle, effort: Effort, streams: int, sessions: int = 1, length: int = 1) -> Plan:
    """A plan with a connection per stream and one block in flight."""
    return Plan(
        address=target.address,
        pid=target.pid,
        model=bundle.spec.name,
        input_width=bundle.spec.inputs[0].elements,
        output_width=bundle.spec.output_step_bytes // 4,
        tokens=bundle.spec.inputs[0].limit,
        range=bundle.spec.inputs[0].range,
        streams=streams,
        sessions=sessions,
        length=length,
        connections=streams,
        warm_up_seconds=effort.warm_up_seconds,
        seconds=effort.load_seconds,
    )


def paced_plan(target: Server, bundle: Bundle, effort: Effort, streams: int, rate: float) -> PacedPlan:
    """An open loop of so many steps per second without deadlines, with a connection per stream."""
    return PacedPlan(
        address=target.address,
        pid=target.pid,
        model=bundle.spec.name,
        input_width=bundle.spec.inputs[0].elements,
        output_width=bundle.spec.output_step_bytes // 4,
        streams=streams,
        connections=streams,
        rate=rate,
        warm_up_seconds=effort.warm_up_seconds,
        seconds=effort.load_seconds,
    )


def rolling_plan(target: Server, bundle: Bundle, effort: Effort, callers: int, temperature: float) -> RollingPlan:
    """So many endless rollouts at once, each behind a prompt of one step."""
    return RollingPlan(
        address=target.address,
        pid=target.pid,
        model=bundle.spec.name,
        width=bundle.spec.inputs[0].elements,
        tokens=bundle.spec.inputs[0].limit,
        callers=callers,
        temperature=temperature,
        warm_up_seconds=effort.warm_up_seconds,
        seconds=effort.load_seconds,
    )


def run(plan: Plan, processes: int = 1) -> Result:
    """One run of the closed loop, its streams shared out among processes. Raises RuntimeError if an answer was not right."""
    processes = min(processes, plan.connections)
    if processes == 1:
        return Result(**generate("load", asdict(plan)))
    shares = [plan.streams * (part + 1) // processes - plan.streams * part // processes for part in range(processes)]
    plans = [replace(plan, streams=share, connections=min(share, plan.connections)) for share in shares]
    with ThreadPoolExecutor(processes) as pool:
        return _merged(list(pool.map(run, plans)))


def generators() -> int:
    """Processes that load over many connections comes from: each has one thread, and one is too few where there are cores for
    several workers."""
    return max(1, min(_MOST_GENERATORS, usable_cores() // 4))


def _merged(parts: Sequence[Result]) -> Result:
    """Parts of one load, at the same time: each saw the whole server's CPU time, and none may be the limit."""
    return Result(
        steps=sum(each.steps for each in parts),
        blocks=sum(each.blocks for each in parts),
        seconds=statistics.mean(each.seconds for each in parts),
        generator_cpu=max(each.generator_cpu for each in parts),
        server_cpu=statistics.mean(each.server_cpu for each in parts),
        p50=statistics.median(each.p50 for each in parts),
        p99=max(each.p99 for each in parts),
        p999=max(each.p999 for each in parts),
    )


def run_calls(plan: Plan) -> Result:
    """One run of unary calls. Raises RuntimeError if an answer was not right."""
    return Result(**generate("calls", asdict(plan)))


def run_paced(plan: PacedPlan) -> PacedResult:
    """One run of the open loop. Raises RuntimeError if an answer was not right."""
    return PacedResult(**generate("paced", asdict(plan)))


def run_rolling(plan: RollingPlan) -> Result:
    """One run of rollouts. Raises RuntimeError if what was drawn did not come as it should."""
    return Result(**generate("rolling", asdict(plan)))


def run_kernel(kernel: Callable[[], object], steps: int, effort: Effort) -> Result:
    """Calls of a kernel that apply so many steps each, made to look like a run; all quantiles are the median."""
    seconds = median_seconds(kernel, effort.kernel_seconds)
    return Result(steps, 1, seconds, 0.0, seconds, seconds, seconds, seconds)


def generate(module: str, plan: Mapping[str, Any]) -> dict[str, Any]:
    """What a generator of this package says of one run, from its plan and to its result as JSON. Raises RuntimeError."""
    done = subprocess.run(module_command(module, json.dumps(plan)), cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{module} failed: {done.stderr.strip()[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


@contextmanager
def holding(plan: Plan) -> Iterator[None]:
    """Idle sessions, each stepped once, held open by a process that then sleeps."""
    with started(module_command("load", json.dumps(asdict(plan)))) as process:
        read_json(process)
        yield


@contextmanager
def beside(kind: str, plan: Plan | RollingPlan) -> Iterator[dict[str, float]]:
    """A client of `misbehave` at work; yields what it says that it did, filled in when it has ended."""
    counts: dict[str, float] = {}
    with started(module_command("misbehave", kind, json.dumps(asdict(plan)))) as process:
        read_json(process)
        yield counts
        process.terminate()
        counts.update(read_json(process))


def compare(plans: Mapping[str, Plan], rounds: int, processes: int = 1) -> dict[str, list[Result]]:
    """Runs of several plans, interleaved."""
    return interleave({name: partial(run, plan, processes) for name, plan in plans.items()}, rounds)


def rates(results: Sequence[Result]) -> list[float]:
    """Steps per second of each run."""
    return [each.steps / each.seconds for each in results]


def facts(results: Mapping[str, Sequence[Result]]) -> dict[str, float]:
    """Medians of what is worth knowing beside a ratio."""
    speed = {f"{name} steps/s": statistics.median(rates(each)) for name, each in results.items()}
    delay = {f"{name} p50 µs": _micros(each, "p50") for name, each in results.items()}
    return speed | delay | {"generator's share of a core": _busiest(results)}


def details(results: Mapping[str, Sequence[Result]]) -> dict[str, float]:
    """Medians of what is worth keeping."""
    found: dict[str, float] = {}
    for name, each in results.items():
        found |= {f"{name} {called}": _micros(each, figure) for figure, called in DELAYS.items()}
        found[f"{name} CPU µs/step"] = statistics.median(run.server_cpu / max(run.steps, 1) for run in each) * 1e6
        found[f"generator's share of a core, {name}"] = _share(each)
    return found


def warning(results: Mapping[str, Sequence[Result]]) -> str:
    """Says so where the generator may have been the limit."""
    busiest = _busiest(results)
    return f"the generator was busy for {busiest:.0%}: it may be the limit" if busiest > _GENERATOR_BUSY else ""


def behind(results: Mapping[str, Sequence[PacedResult]]) -> str:
    """Says so where the open loop did not keep its schedule: those runs say as much of the generator as of the server."""
    runs = [each for several in results.values() for each in several]
    late = sum(each.behind for each in runs)
    return f"invalid in {late} of {len(runs)} runs: the generator was behind its schedule" if late else ""


def paced_details(results: Mapping[str, Sequence[PacedResult]]) -> dict[str, float]:
    """Medians of what is worth keeping of open loops."""
    found: dict[str, float] = {}
    for name, each in results.items():
        found |= {f"{name} {called}": _micros(each, figure) for figure, called in (DELAYS | _LAGS).items()}
        for fate in ("offered", "in_time", "late", "refused", "given_up"):
            found[f"{name} {fate.replace('_', ' ')}/s"] = statistics.median(getattr(run, fate) / run.seconds for run in each)
        found[f"{name} CPU µs/step"] = statistics.median(run.server_cpu / max(run.steps, 1) for run in each) * 1e6
        found[f"generator's share of a core, {name}"] = statistics.median(run.generator_cpu / run.seconds for run in each)
    return found


def _micros(results: Sequence[Result] | Sequence[PacedResult], figure: str) -> float:
    """Median of one of their times."""
    seconds: list[float] = [getattr(each, figure) for each in results]
    return statistics.median(seconds) * 1e6


def _share(results: Sequence[Result]) -> float:
    """Of a core that the generator took: it has one thread, so 1 is all that it can."""
    return statistics.median(each.generator_cpu / each.seconds for each in results)


def _busiest(results: Mapping[str, Sequence[Result]]) -> float:
    return max(_share(each) for each in results.values())


def make_model(folder: Path, name: str) -> Bundle:
    """Writes the small or the large model of the comparisons into a folder: 16 inputs, one output, random weights."""
    hidden, layers = _SIZES[name]
    return init_model(folder / name, "lstm", 16, hidden, layers, 1, seed=0)


def size_of(bundle: Bundle) -> str:
    """Says how large a model is, as tables call it."""
    cell = cell_model(bundle.spec).cell
    return f"H {cell.hidden_size} × {cell.layers}"
