"""Rows 21 and 22: rollouts of a model of text, byte by byte."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable
from functools import partial

from benchmarks.bare_rollout import BareRollout
from benchmarks.drive import details, other_workers, plan_for, rates, rolling_plan, run, run_kernel, run_rolling, warning
from benchmarks.kernel import bind_model
from benchmarks.load import Result
from benchmarks.process import HERE, ROOT, Checkout, Server
from benchmarks.report import Line, line
from benchmarks.timing import Effort, interleave, ratios
from stepstream_server.bundles import Bundle, load
from stepstream_server.config import BackendSettings

_MODEL = ROOT / "models" / "code"
_TEMPERATURE = 0.8
_PROMPT = 2000  # bytes
_NEWLINE = b"\n"
_TARGETS = {1: 0.8}  # by number of rollouts
_DRAWN = "kernel + draws"
_DRAWS = 64  # of one call: for as many the server finds the chances at once, and so does what is compared with it


def row_21(effort: Effort, tell: Callable[[str], None], checkout: Checkout = HERE) -> list[Line]:
    """Compares tokens per second of rollouts with the bare kernel's steps at a batch of as many, which draws nothing.

    One rollout is compared with the bare kernel that draws as the server does, also without workers, or with one.
    """
    bundle = load(_MODEL)
    with checkout.serving(_MODEL.parent) as server:
        lines = [_rolled_out(server, bundle, count, effort, tell, target=_TARGETS.get(count)) for count in effort.rollouts]
    workers, called = other_workers(checkout.workers)
    with checkout.serving(_MODEL.parent, "--workers", str(workers)) as server:
        return [*lines, _rolled_out(server, bundle, 1, effort, tell, how=f", {called}")]


def row_22(effort: Effort, tell: Callable[[str], None], checkout: Checkout = HERE) -> list[Line]:
    """One launch of the bare kernel over a prompt, against the time from asking for one draw behind the prompt until it is there.

    Beside it, what it would take to step one session over the prompt, at the rate of as many steps as a run has time for.
    """
    tell("row 22")
    bundle = load(_MODEL)
    kernel = bind_model(bundle.spec, bundle.weights, BackendSettings(), 1, _PROMPT)
    kernel()
    with checkout.serving(_MODEL.parent) as server:
        plan = rolling_plan(server, bundle, effort, 1, _TEMPERATURE)
        runs = {
            "prefill": partial(run_rolling, dataclasses.replace(plan, prompt_steps=_PROMPT, max_steps=1)),
            "steps": partial(run, plan_for(server, bundle, effort, 1)),
            "kernel": partial(run_kernel, kernel, _PROMPT, effort),
        }
        results = interleave(runs, effort.rounds)
    first, launch = ([each.p50 for each in results[name]] for name in ("prefill", "kernel"))
    stepped = [_PROMPT / rate for rate in rates(results["steps"])]
    beside = {
        "first token p50 µs": statistics.median(first) * 1e6,
        "kernel µs": statistics.median(launch) * 1e6,
        "step by step, times as long": statistics.median(ratios(stepped, first)),
    }
    case = f"a prompt of {_PROMPT:,} bytes"
    return [line(22, case, ratios(launch, first), "×", 0.8, "at least", beside, details(results))]


def _rolled_out(
    server: Server,
    bundle: Bundle,
    count: int,
    effort: Effort,
    tell: Callable[[str], None],
    *,
    how: str = "",
    target: float | None = None,
) -> Line:
    """Compares so many rollouts with what computes them, one rollout with what draws it too."""
    case = f"{count} rollout{'s' if count > 1 else ''}{how}"
    tell(f"row 21: {case}")
    kernel = bind_model(bundle.spec, bundle.weights, BackendSettings(), count, 1)
    kernel()
    runs: dict[str, Callable[[], Result]] = {
        "server": partial(run_rolling, rolling_plan(server, bundle, effort, count, _TEMPERATURE)),
        "kernel": partial(run_kernel, kernel, count, effort),
    }
    if count == 1:
        bare = BareRollout(bundle.spec, bundle.weights, _NEWLINE, _TEMPERATURE, seed=0)
        runs[_DRAWN] = partial(run_kernel, partial(bare.draw, _DRAWS), _DRAWS, effort)
        case += f", against {_DRAWN}"
    results = interleave(runs, effort.side_rounds if target is None else effort.rounds)
    speed = {name: rates(each) for name, each in results.items()}
    served = results["server"]
    beside = {
        "tokens/s": statistics.median(speed["server"]),
        **{f"{name} steps/s": statistics.median(each) for name, each in speed.items() if name != "server"},
        "tokens per message": statistics.median(each.steps / max(each.blocks, 1) for each in served),
        "first token p50 µs": statistics.median(each.p50 for each in served) * 1e6,
        "generator's share of a core": statistics.median(each.generator_cpu / each.seconds for each in served),
    }
    against = ratios(speed["server"], speed[_DRAWN if count == 1 else "kernel"])
    note = warning({"server": served})
    return line(21, case, against, "×", target, "at least", beside, details(results), note)
