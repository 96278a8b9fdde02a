"""Rows 21 and 22: rollouts of a model of text, byte by byte."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable
from functools import partial

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


def row_21(effort: Effort, tell: Callable[[str], None], checkout: Checkout = HERE) -> list[Line]:
    """Tokens per second of rollouts, against the bare kernel's at a batch of as many; of one also without workers, or with one.

    The kernel steps and draws nothing.
    """
    bundle = load(_MODEL)
    with checkout.serving(_MODEL.parent) as server:
        lines = [_against_kernel(server, bundle, count, "", effort, tell) for count in effort.rollouts]
    workers, called = other_workers(checkout.workers)
    with checkout.serving(_MODEL.parent, "--workers", str(workers)) as server:
        return [*lines, _against_kernel(server, bundle, 1, f", {called}", effort, tell)]


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


def _against_kernel(server: Server, bundle: Bundle, count: int, how: str, effort: Effort, tell: Callable[[str], None]) -> Line:
    case = f"{count} rollout{'s' if count > 1 else ''}{how}"
    tell(f"row 21: {case}")
    kernel = bind_model(bundle.spec, bundle.weights, BackendSettings(), count, 1)
    kernel()
    runs: dict[str, Callable[[], Result]] = {
        "server": partial(run_rolling, rolling_plan(server, bundle, effort, count, _TEMPERATURE)),
        "kernel": partial(run_kernel, kernel, count, effort),
    }
    results = interleave(runs, effort.side_rounds)
    speed = {name: rates(each) for name, each in results.items()}
    served = results["server"]
    beside = {
        "tokens/s": statistics.median(speed["server"]),
        "kernel steps/s": statistics.median(speed["kernel"]),
        "tokens per message": statistics.median(each.steps / max(each.blocks, 1) for each in served),
        "first token p50 µs": statistics.median(each.p50 for each in served) * 1e6,
        "generator's share of a core": statistics.median(each.generator_cpu / each.seconds for each in served),
    }
    against = ratios(speed["server"], speed["kernel"])
    return line(21, case, against, "×", beside=beside, detail=details(results), note=warning({"server": served}))
