"""Two checkouts in alternation: the rows of the one, then of the other, and where their figures lie apart.

Load, echo, kernel and all measuring is this checkout's; only the server is the other's. Turns by hand are the exception: each
checkout profiles its own.
"""

from __future__ import annotations

import dataclasses
import json
import re
import statistics
import subprocess
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

from rich.console import Console
from rich.table import Table

from benchmarks.analyzed import analyzed
from benchmarks.cpu import row_9
from benchmarks.drive import SMALL, Targets, make_model, targets
from benchmarks.fetch_perf_analyzer import missing
from benchmarks.neighbours import row_15_streams
from benchmarks.overload import row_7
from benchmarks.packed import row_3, row_4
from benchmarks.process import Checkout
from benchmarks.report import Line, number
from benchmarks.rollouts import row_21
from benchmarks.startup import row_14
from benchmarks.streams import row_2, row_5
from benchmarks.timing import Effort, interleave
from stepstream_server.bundles import Bundle

TURNS = "turns"
_ON_TARGETS = {"2": row_2, "3": row_3, "4": row_4, "5": row_5, "7": row_7, "9": row_9}
_ANALYZED = {"17", "19"}
ROWS = (*_ON_TARGETS, "14", "15", "17", "19", "21", TURNS)
# At most: many short rounds tell more of two servers than a few long ones.
_LOAD_SECONDS, _WARM_UP_SECONDS, _WINDOW_MS = 0.6, 0.2, 250
_OF_SERVER = re.compile(
    r"(server|without workers|with a worker) (steps/s|requests/s|p50 µs|p99 µs|CPU .+)|tokens/s|first token p50 µs"
)
_PROFILED = {"turn_us": "turn µs", "block_us": "block µs"}  # as benchmarks.profile_turn names them

Verdict = Literal["", "faster", "slower"]
Values = dict[tuple[str, str, str], float]  # by row, case and figure
Row = Callable[[Targets, Effort, Callable[[str], None]], list[Line]]
Sides = Mapping[str, Checkout]  # this and other
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Compared:
    """A figure of both checkouts, round by round."""

    row: str
    case: str
    figure: str
    this: list[float]
    other: list[float]

    @property
    def ratio(self) -> float | None:
        """Of the medians; None where there is none."""
        other = statistics.median(self.other)
        return statistics.median(self.this) / other if other else None

    @property
    def verdict(self) -> Verdict:
        """Of this run: it takes two to believe it."""
        return verdict(self.this, self.other, more=self.figure.endswith(("/s", "×, more is better")))


def verdict(this: Sequence[float], other: Sequence[float], *, more: bool) -> Verdict:
    """Says something only where this median lies outside the range of the other's rounds, of which one alone has none."""
    middle = statistics.median(this)
    if len(other) < 2 or min(other) <= middle <= max(other):
        return ""
    return "faster" if (middle > max(other)) is more else "slower"


def chosen(text: str | None) -> tuple[str, ...]:
    """Rows as in "2,5,turns"; all that can be compared if nothing is asked for. Raises ValueError."""
    rows = ROWS if text is None else tuple(text.split(","))
    if unknown := [row for row in rows if row not in ROWS]:
        raise ValueError(f"cannot compare row {', '.join(unknown)} with another checkout's; can compare {', '.join(ROWS)}")
    return rows


def compare(sides: Sides, rows: Collection[str], effort: Effort, tell: Callable[[str], None]) -> list[Compared]:
    """Figures of both, row by row, in the order of `ROWS`."""
    once = _once(effort)
    with tempfile.TemporaryDirectory() as folder:
        bundle = make_model(Path(folder) / "served", SMALL)
        found = []
        if any(row in rows for row in _ON_TARGETS):
            with _both_targets(bundle, sides) as both:
                for row, run in _ON_TARGETS.items():
                    if row in rows:
                        found += _alternate(both, partial(_on_targets, run, once, tell), effort.rounds)
        for measure in _on_their_own(bundle, rows, once, tell):
            found += _alternate(sides, measure, effort.rounds)
    return sorted(found, key=lambda each: ROWS.index(each.row))  # those of perf_analyzer come model by model


def _once(effort: Effort) -> Effort:
    """A round of everything: rounds are counted outside, since it is checkouts that take turns."""
    return dataclasses.replace(
        effort,
        rounds=1,
        side_rounds=1,
        paced_rounds=1,
        analyzer_rounds=1,
        starts=1,
        load_seconds=min(effort.load_seconds, _LOAD_SECONDS),
        warm_up_seconds=min(effort.warm_up_seconds, _WARM_UP_SECONDS),
        analyzer_window_ms=min(effort.analyzer_window_ms, _WINDOW_MS),
        streams=(),
        rollouts=(effort.rollouts[0], effort.rollouts[-1]),
    )


@contextmanager
def _both_targets(bundle: Bundle, sides: Sides) -> Iterator[dict[str, Targets]]:
    """Both servers beside one echo."""
    with targets(bundle, sides["this"]) as this, sides["other"].serving(bundle.path.parent) as server:
        yield {"this": this, "other": dataclasses.replace(this, server=server, checkout=sides["other"])}


def _alternate(sides: Mapping[str, T], measure: Callable[[T], Values], rounds: int) -> list[Compared]:
    """Measures one side and then the other, every other round backwards. Left out is a figure that not all rounds have."""
    found = interleave({name: partial(measure, side) for name, side in sides.items()}, rounds)
    every = [*found["this"], *found["other"]]
    return [
        Compared(*key, [each[key] for each in found["this"]], [each[key] for each in found["other"]])
        for key in every[0]
        if all(key in each for each in every)
    ]


def _on_their_own(
    bundle: Bundle, rows: Collection[str], effort: Effort, tell: Callable[[str], None]
) -> list[Callable[[Checkout], Values]]:
    """How a checkout is measured that starts its server for each round."""
    found: list[Callable[[Checkout], Values]] = []
    if "14" in rows:
        found.append(lambda checkout: _of_lines(row_14(bundle.path.parent, effort, tell, checkout)))
    if "15" in rows:
        found.append(lambda checkout: _of_lines(row_15_streams(bundle, effort, tell, checkout)))
    if _ANALYZED & set(rows) and not missing():
        found.append(partial(_analyzed, {int(row) for row in _ANALYZED & set(rows)}, effort, tell))
    if "21" in rows:
        found.append(lambda checkout: _of_lines(row_21(effort, tell, checkout)))
    if TURNS in rows:
        found.append(partial(_turns, effort, tell))
    return found


def _on_targets(run: Row, effort: Effort, tell: Callable[[str], None], side: Targets) -> Values:
    return _of_lines(run(side, effort, tell))


def _analyzed(rows: Collection[int], effort: Effort, tell: Callable[[str], None], checkout: Checkout) -> Values:
    with tempfile.TemporaryDirectory() as folder:
        return _of_lines(analyzed(Path(folder), rows, effort, tell, checkout))


def _turns(effort: Effort, tell: Callable[[str], None], checkout: Checkout) -> Values:
    """Of the checkout's own profile. Raises RuntimeError if it does not say it as this one's does."""
    tell("turns")
    flags = ("--json", "--rounds", "1", "--seconds", str(2 * effort.kernel_seconds))
    command = [checkout.python, "-m", "benchmarks.profile_turn", *flags]
    done = subprocess.run(command, cwd=checkout.root, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{checkout.root}: benchmarks.profile_turn failed: {done.stderr.strip()[-2000:]}")
    cases: dict[str, dict[str, list[dict[str, float]]]] = json.loads(done.stdout)
    return {
        (TURNS, f"{case}, {heat}", called): rounds[0][name]
        for case, heats in cases.items()
        for heat, rounds in heats.items()
        for name, called in _PROFILED.items()
    }


def _of_lines(lines: Sequence[Line]) -> Values:
    """Of each line its own figure, unless it is a ratio of which nobody said where it should lie, and those of the server."""
    values: Values = {}
    for line in lines:
        more = ", more is better" if line.bound == "at least" else ""
        if line.unit != "×" or line.target is not None:
            values[str(line.row), line.case, f"{line.unit}{more}"] = line.value
        cpu = {name: value for name, value in line.detail.items() if name.endswith("CPU µs/step")}
        for name, value in (line.beside | cpu).items():
            if _OF_SERVER.fullmatch(name):
                values[str(line.row), line.case, name] = value
    return values


def write(path: Path, facts: Mapping[str, Any], compared: Sequence[Compared]) -> None:
    """As JSON, with what follows from the figures spelled out."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figures = [asdict(each) | {"ratio": each.ratio, "verdict": each.verdict} for each in compared]
    path.write_text(json.dumps({**facts, "figures": figures}, indent=2, ensure_ascii=False) + "\n")


def show(console: Console, compared: Sequence[Compared]) -> None:
    """As a table for people."""
    table = Table("row", "case", "figure", "this", "range", "other", "range", "this / other", "")
    for each in compared:
        ratio = "" if each.ratio is None else f"{each.ratio:.3f}"
        table.add_row(each.row, each.case, each.figure, *_cells(each.this), *_cells(each.other), ratio, each.verdict)
    console.print(table)
    console.print("Faster and slower: this median lies outside the range of the other's rounds. It takes two runs to believe it.")


def _cells(values: Sequence[float]) -> tuple[str, str]:
    return number(statistics.median(values)), f"{number(min(values))} to {number(max(values))}"
