"""Malformed messages and honest clients: p99 of single steps beside 500 malformed messages per second, against p99 beside as many
valid ones.

`python -m benchmarks.hostile` prints two figures, of calls and of messages on a stream, and what they are made of.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from benchmarks.drive import SMALL, make_model, plan_for
from benchmarks.neighbours import Scene, compared, look, share_of_peak
from benchmarks.process import HERE, Checkout
from benchmarks.report import Line
from benchmarks.timing import FULL, QUICK, SMOKE, Effort
from stepstream_server.bundles import Bundle

_TARGET = 2.0
_KINDS = {"calls": "malformed calls, against as many valid ones", "messages": "malformed messages, against as many valid ones"}


def measure(bundle: Bundle, effort: Effort, tell: Callable[[str], None], checkout: Checkout) -> list[Line]:
    """Each scene has a server of its own; rounds of all alternate."""
    with ExitStack() as stack:
        scenes: dict[str, Scene] = {}
        for kind in _KINDS:
            for each in (kind, f"malformed_{kind}"):
                server = stack.enter_context(checkout.serving(bundle.path.parent))
                scenes[each] = Scene(server, each, plan_for(server, bundle, effort, 1))
        tell("peak")
        rate = share_of_peak(scenes["calls"].server, bundle, effort)
        tell("beside strangers")
        seen = look(scenes, rate, bundle, effort)
    return [
        compared(who, {f"valid {kind}": seen[kind], f"malformed {kind}": seen[f"malformed_{kind}"]}, _TARGET)
        for kind, who in _KINDS.items()
    ]


def main() -> None:
    """Measures, and prints."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hostile", description=__doc__)
    parser.add_argument("--quick", action="store_const", dest="effort", const=QUICK, default=FULL, help="rougher")
    parser.add_argument("--smoke", action="store_const", dest="effort", const=SMOKE, help="only whether it works")
    effort: Effort = parser.parse_args().effort
    with tempfile.TemporaryDirectory() as folder:
        lines = measure(make_model(Path(folder) / "served", SMALL), effort, lambda what: None, HERE)
    for each in lines:
        print(f"{each.case}: {each.value:.2f} ({each.low:.2f} to {each.high:.2f}), at most {each.target}. {each.note}")
        print(*(f"  {what}: {value:,.0f}" for what, value in each.beside.items()), sep="\n")


if __name__ == "__main__":
    main()
