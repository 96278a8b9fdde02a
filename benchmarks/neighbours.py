"""Rows 8, 15 and 23: what one client costs the others."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.drive import (
    DELAYS,
    Targets,
    behind,
    beside,
    echo_command,
    echo_sizes,
    paced_details,
    paced_plan,
    plan_for,
    rates,
    rolling_plan,
    run,
    run_paced,
)
from benchmarks.load import Plan
from benchmarks.paced import PacedResult
from benchmarks.process import Checkout, Server, running, serve_command
from benchmarks.report import NO_ROW, Line, line
from benchmarks.rolling import RollingPlan
from benchmarks.timing import Effort, interleave, ratios
from stepstream_server.bundles import Bundle, write
from stepstream_server.bundles.declare import declare
from stepstream_server.bundles.init import random_weights
from stepstream_server.spec import CellSpec, HeadSpec

_STREAMS = 64  # of honest clients
_SHARE = 0.3  # of the peak that they offer: there is room for somebody else
_CHUNK = 64  # steps
_CHUNKS_IN_FLIGHT = 4
_SILENT_SESSIONS = 1000
_ROLLOUTS = 64
_ALONE = "alone"


@dataclass(frozen=True, slots=True)
class Scene:
    """A server that honest clients ask, and who asks it beside them."""

    server: Server
    kind: str = ""  # of client, as `misbehave` calls it; empty: nobody else
    plan: Plan | RollingPlan | None = None  # of that client


@dataclass(frozen=True, slots=True)
class Seen:
    """What honest clients saw in a scene, and what the other one did, round by round."""

    honest: list[PacedResult]
    did: list[dict[str, float]]


def row_8(targets: Targets, effort: Effort, tell: Callable[[str], None]) -> list[Line]:
    """Compares p99 of single steps beside one session that streams chunks without end with that of a server without it."""
    tell("row 8")
    chunks = dataclasses.replace(targets.plan(targets.server, effort, length=_CHUNK), in_flight=_CHUNKS_IN_FLIGHT)
    with targets.checkout.serving(targets.bundle.path.parent) as other:
        scenes = {_ALONE: Scene(other), "an endless stream of chunks": Scene(targets.server, "chunks", chunks)}
        return _against_alone(8, scenes, targets.bundle, effort, 1.5)


def row_15(bundle: Bundle, effort: Effort, tell: Callable[[str], None], checkout: Checkout) -> list[Line]:
    """Compares p99 of honest single steps beside one client that misbehaves with that of a server at rest or, where streams are
    opened without end, of the echo under the same attack.

    Each kind has a server of its own, so that what one leaves behind does not trouble the others.
    """
    tell("row 15")
    with ExitStack() as stack:
        alone, unread, written = (stack.enter_context(checkout.serving(bundle.path.parent)) for _ in range(3))
        silent, flood = plan_for(unread, bundle, effort, 1, _SILENT_SESSIONS), plan_for(written, bundle, effort, 1)
        scenes = {
            _ALONE: Scene(alone),
            "a client that never reads": Scene(unread, "silent", silent),
            "a client that writes without end": Scene(written, "flood", flood),
        }
        lines = _against_alone(15, scenes, bundle, effort, None)
    return [*lines, *row_15_streams(bundle, effort, tell, checkout)]


def row_15_streams(bundle: Bundle, effort: Effort, tell: Callable[[str], None], checkout: Checkout) -> list[Line]:
    """Compares p99 of honest single steps beside a client that opens streams without end with the echo's beside such a client.

    What every stream costs gRPC is thereby no part of the figure. Honest clients offer both as many steps.
    """
    tell("row 15: streams without end")
    echo_of_its_size = echo_command("echo", *echo_sizes(bundle), workers=checkout.workers)
    with checkout.serving(bundle.path.parent) as server, running(echo_of_its_size) as echo:
        servers = {"echo": echo, "server": server}
        scenes = {name: Scene(each, "streams", plan_for(each, bundle, effort, 1)) for name, each in servers.items()}
        seen = look(scenes, share_of_peak(server, bundle, effort), bundle, effort)
        return [compared("streams opened without end, against the echo's", seen, 2.0, row=15)]


def row_23(folder: Path, effort: Effort, tell: Callable[[str], None]) -> list[Line]:
    """Compares p99 of single steps beside 64 endless rollouts of the same model with that of a server without them."""
    tell("row 23")
    bundle = predicting(folder)
    with running(serve_command(folder)) as alone, running(serve_command(folder)) as other:
        rollouts = rolling_plan(other, bundle, effort, _ROLLOUTS, temperature=0.0)
        scenes = {_ALONE: Scene(alone), f"{_ROLLOUTS} endless rollouts": Scene(other, "rollouts", rollouts)}
        return _against_alone(23, scenes, bundle, effort, None)


def predicting(folder: Path) -> Bundle:
    """A random model of the size of all comparisons, whose output is its next input."""
    head = HeadSpec("output", "regression", 1, predicts="input")
    spec = declare("h128-predicting", CellSpec("lstm", 1, 128, 1), [head])
    return write(folder / spec.name, spec, random_weights(spec, seed=0))


def _against_alone(row: int, scenes: dict[str, Scene], bundle: Bundle, effort: Effort, target: float | None) -> list[Line]:
    """Compares each kind of client with nobody, line by line."""
    seen = look(scenes, share_of_peak(scenes[_ALONE].server, bundle, effort), bundle, effort)
    alone = seen.pop(_ALONE)
    return [compared(who, {_ALONE: alone, "beside": each}, target, row) for who, each in seen.items()]


def share_of_peak(server: Server, bundle: Bundle, effort: Effort) -> float:
    """Measures how many steps per second honest clients are to offer."""
    return _SHARE * rates([run(plan_for(server, bundle, effort, _STREAMS))])[0]


def look(scenes: Mapping[str, Scene], rate: float, bundle: Bundle, effort: Effort) -> dict[str, Seen]:
    """Has honest clients offer so many steps per second in each scene in turn."""
    seen = {name: Seen([], []) for name in scenes}

    def honest(name: str, scene: Scene) -> None:
        plan = paced_plan(scene.server, bundle, effort, _STREAMS, rate)
        if scene.plan is None:
            seen[name].honest.append(run_paced(plan))
            return
        with beside(scene.kind, scene.plan) as did:
            seen[name].honest.append(run_paced(plan))
        seen[name].did.append(did)

    interleave({name: partial(honest, name, scene) for name, scene in scenes.items()}, effort.paced_rounds)
    return seen


def compared(who: str, seen: Mapping[str, Seen], target: float | None, row: int = NO_ROW) -> Line:
    """Compares p99 in the second of two scenes with p99 in the first."""
    results = {name: each.honest for name, each in seen.items()}
    first, second = results
    against = ratios(*([run.p99 for run in results[name]] for name in (second, first)))
    details = paced_details(results)
    shown = {f"{each} {delay}": details[f"{each} {delay}"] for each in results for delay in DELAYS.values()}
    shown["honest steps/s"] = details[f"{second} in time/s"]
    for name, each in seen.items():
        where = "" if name == second else f", {name}"
        kinds = each.did[0] if each.did else ()
        shown |= {f"its {what}{where}": statistics.median(did.get(what, 0.0) for did in each.did) for what in kinds}
    return line(row, f"p99 beside {who}", against, "×", target, beside=shown, detail=details, note=behind(results))
