"""Load from a separate process, and what is said of each run."""

from __future__ import annotations

import json
import statistics
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from benchmarks.load import Plan, Result
from benchmarks.process import ROOT, Server, module_command, read_json, running, serve_command, started
from benchmarks.timing import Effort, interleave
from stepstream_server.bundles import Bundle

_GENERATOR_BUSY = 0.9  # of a core: beyond it the generator may be what is measured


@dataclass(frozen=True, slots=True)
class Targets:
    """Servers that are compared, all up at the same time: one that is not asked anything takes no time."""

    server: Server
    echo: Server
    plain: Server
    bundle: Bundle  # what all of them serve, or claim to

    def plan(self, target: Server, effort: Effort, streams: int = 1, sessions: int = 1, length: int = 1) -> Plan:
        """A plan for one of the servers, with a connection per stream and one block in flight."""
        return plan_for(target, self.bundle, effort, streams, sessions, length)


@contextmanager
def targets(bundle: Bundle) -> Iterator[Targets]:
    """Starts the three servers and ends them."""
    sizes = "--input-bytes", str(bundle.spec.inputs[0].step_bytes), "--output-bytes", str(bundle.spec.outputs[0].step_bytes)
    with (
        running(serve_command(bundle.path.parent)) as server,
        running(module_command("echo", *sizes)) as echo,
        running(module_command("plain", str(bundle.path))) as plain,
    ):
        yield Targets(server, echo, plain, bundle)


def plan_for(target: Server, bundle: Bundle, effort: Effort, streams: int, sessions: int = 1, length: int = 1) -> Plan:
    """A plan with a connection per stream and one block in flight."""
    return Plan(
        address=target.address,
        pid=target.pid,
        model=bundle.spec.name,
        input_width=bundle.spec.inputs[0].elements,
        output_width=bundle.spec.outputs[0].elements,
        streams=streams,
        sessions=sessions,
        length=length,
        connections=streams,
        warm_up_seconds=effort.warm_up_seconds,
        seconds=effort.load_seconds,
    )


def run(plan: Plan) -> Result:
    """One run of the generator. Raises RuntimeError if an answer was not right."""
    done = subprocess.run(module_command("load", json.dumps(asdict(plan))), cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"the load generator failed: {done.stderr.strip()[-2000:]}")
    return Result(**json.loads(done.stdout))


@contextmanager
def holding(plan: Plan) -> Iterator[None]:
    """Idle sessions, each stepped once, held open by a process that then sleeps."""
    with started(module_command("load", json.dumps(asdict(plan)))) as process:
        read_json(process)
        yield


def compare(plans: Mapping[str, Plan], rounds: int) -> dict[str, list[Result]]:
    """Runs of several plans, interleaved."""
    return interleave({name: partial(run, plan) for name, plan in plans.items()}, rounds)


def rates(results: Sequence[Result]) -> list[float]:
    """Steps per second of each run."""
    return [each.steps / each.seconds for each in results]


def facts(results: Mapping[str, Sequence[Result]]) -> dict[str, float]:
    """Medians of what is worth knowing beside a ratio."""
    speed = {f"{name} steps/s": statistics.median(rates(each)) for name, each in results.items()}
    delay = {f"{name} p50 µs": statistics.median(run.p50 for run in each) * 1e6 for name, each in results.items()}
    return speed | delay | {"generator's share of a core": _busiest(results)}


def details(results: Mapping[str, Sequence[Result]]) -> dict[str, float]:
    """Medians of what is worth keeping."""
    found: dict[str, float] = {}
    for name, each in results.items():
        found[f"{name} p99 µs"] = statistics.median(run.p99 for run in each) * 1e6
        found[f"{name} CPU µs/step"] = statistics.median(run.server_cpu / max(run.steps, 1) for run in each) * 1e6
        found[f"generator's share of a core, {name}"] = _share(each)
    return found


def warning(results: Mapping[str, Sequence[Result]]) -> str:
    """Says so where the generator may have been the limit."""
    busiest = _busiest(results)
    return f"the generator was busy for {busiest:.0%}: it may be the limit" if busiest > _GENERATOR_BUSY else ""


def _share(results: Sequence[Result]) -> float:
    """Of a core that the generator took: it has one thread, so 1 is all that it can."""
    return statistics.median(each.generator_cpu / each.seconds for each in results)


def _busiest(results: Mapping[str, Sequence[Result]]) -> float:
    return max(_share(each) for each in results.values())


def bundle_folder(folder: Path) -> Path:
    """Where the model of all comparisons is written."""
    return folder / "h128"
