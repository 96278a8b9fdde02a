"""A client that has a thousand texts written beside others: the delay of a lone step, and how fast a lone text is written.

`python -m benchmarks.shares` measures both alone and beside 1,000 endless rollouts, which one client reads over one connection,
and tries whether a text begins beside two forecasts of 1,024 paths that nobody reads. `--against DIR` does so with the server of
another checkout, too, in turn. It ends by itself, after a minute for each server.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median

from benchmarks.drive import beside, plan_for, rolling_plan, run, run_rolling
from benchmarks.load import Result
from benchmarks.machine import describe
from benchmarks.process import HERE, ROOT, Checkout, checkout_at
from benchmarks.timing import FULL, Effort, interleave
from stepstream_server.bundles import load

_TEXTS = 1000  # rollouts of the other client
_TEXT, _FORECAST = ROOT / "models" / "code", ROOT / "models" / "ecg"
_TEMPERATURE = 0.8
_ROUNDS = 3
_NOTHING: dict[str, float] = {}


@dataclass(frozen=True, slots=True)
class Seen:
    """Delays and rates that honest callers saw, and messages per second that the other client was sent meanwhile."""

    steps: Result
    text: Result
    messages: float

    @property
    def drawn(self) -> float:
        """Draws per second of the lone text."""
        return self.text.steps / self.text.seconds


def look(checkout: Checkout, effort: Effort, texts: int) -> Seen:
    """Steps one session, then reads one rollout, beside so many of another client, on a server of its own."""
    bundle = load(_TEXT)
    with checkout.serving(_TEXT.parent) as server:
        crowd = rolling_plan(server, bundle, effort, texts, _TEMPERATURE)
        with beside("crowd", crowd) if texts else nullcontext(_NOTHING) as did:
            steps = run(plan_for(server, bundle, effort, 1))
            text = run_rolling(rolling_plan(server, bundle, effort, 1, _TEMPERATURE))
        seconds = 2 * (effort.warm_up_seconds + effort.load_seconds)
        return Seen(steps, text, did.get("messages", 0.0) / seconds)


def begins_beside_forecasts(checkout: Checkout, effort: Effort) -> bool:
    """Tells whether a rollout of one path can begin beside two of 1,024 paths that are not read."""
    bundle = load(_FORECAST)
    with checkout.serving(_FORECAST.parent) as server:
        short = replace(rolling_plan(server, bundle, effort, 1, 0.0), max_steps=20)
        with beside("unread", rolling_plan(server, bundle, effort, 2, 1.0)):
            try:
                run_rolling(short)
            except RuntimeError:  # it was refused
                return False
            return True


def tell(side: str, alone: Sequence[Seen], crowded: Sequence[Seen]) -> str:
    """Medians of all rounds as two rows of a table."""
    rows = []
    for called, seen in (("alone", alone), ("beside them", crowded)):
        p50, p99 = (median(getattr(each.steps, name) for each in seen) * 1e3 for name in ("p50", "p99"))
        drawn, messages = median(each.drawn for each in seen), median(each.messages for each in seen)
        times = median(each.steps.p50 for each in seen) / median(each.steps.p50 for each in alone)
        rows.append(f"| {side} | {called} | {p50:.2f} | {p99:.2f} | {times:.1f} | {drawn:,.0f} | {messages:,.0f} |")
    return "\n".join(rows)


def main() -> None:
    """Prints figures, and what they were measured on."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.shares", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--against", type=Path, metavar="DIR", help="another checkout, with an environment of its own")
    parser.add_argument("--texts", type=int, default=_TEXTS, help="of the other client; default: %(default)s")
    parser.add_argument("--workers", type=int, help="of the servers")
    parser.add_argument("--rounds", type=int, default=_ROUNDS, help="default: %(default)s")
    options = parser.parse_args()
    sides = {"this": replace(HERE, workers=options.workers)}
    if options.against:
        sides["other"] = checkout_at(options.against, options.workers)
    machine = describe()
    print(f"{machine['cores']} cores, {machine['cpu']}, {machine['system']}, {machine['versions']}\n")
    print("| server | a lone caller | step p50 ms | p99 ms | times alone | draws/s | messages/s to the others |")
    print("|---|---|---|---|---|---|---|")
    runs = {f"{side} {texts}": partial(look, each, FULL, texts) for side, each in sides.items() for texts in (0, options.texts)}
    seen = interleave(runs, options.rounds)
    for side, each in sides.items():
        print(tell(side, seen[f"{side} 0"], seen[f"{side} {options.texts}"]))
        begins = "begins" if begins_beside_forecasts(each, FULL) else "is refused"
        print(f"a text {begins} beside two unread forecasts of 1,024 paths ({side})")


if __name__ == "__main__":
    main()
