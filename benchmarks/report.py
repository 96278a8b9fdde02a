"""What was measured, as lines of a table, as JSON and as Markdown."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

Unit = Literal["×", "µs", "s", "B", "1/s"]
Bound = Literal["at most", "at least"]

NO_ROW = 0  # of a figure that is in no table of docs/performance.md
TITLES = {
    1: "a turn of the backend against the same graph with its state in place",
    2: "single-step streams against the echo",
    3: "packed blocks, 4 in flight, against the serial bound of echo and kernel",
    4: "packed 64 × 1, 4 in flight, against the serial bound of echo and kernel",
    5: "a lone session: p50 beyond echo and kernel, rate against a plain server",
    6: "goodput of an open loop of twice the peak, against the peak",
    7: "p99 of an open loop at 70 % of the peak, against the echo's at 70 % of its own",
    8: "p99 of single steps beside one session that streams chunks without end",
    9: "CPU time per step against echo + kernel",
    10: "idle sessions beside 64 active ones",
    11: "memory while sessions come and go",
    12: "durable sessions against such as are not",
    14: "from exec to SERVING",
    15: "p99 of honest clients beside one that misbehaves",
    16: "sessions opened and closed per second",
    17: "perf_analyzer, sequences over streams: CPU time and rate against the echo of its protocol",
    18: "perf_analyzer, an open loop of sequences over streams: p99 against the echo's",
    19: "perf_analyzer, sequences by unary calls: requests per second against the echo",
    20: "single-step streams by number of workers, against an echo of as many processes",
    21: "rollouts: tokens per second against the bare kernel at that batch; of one, kernel + draws",
    22: "a prompt: the bare kernel's time for it in one launch against the time to the first token",
    23: "p99 of single steps beside 64 endless rollouts",
    24: "a turn of a cell that is brought as a program, against the same cell",
}


@dataclass(frozen=True, slots=True)
class Line:
    """One figure: the median over rounds, with the least and the greatest round, and what it was made of."""

    row: int  # as docs/performance.md numbers them, or NO_ROW
    case: str
    value: float
    low: float
    high: float
    unit: Unit
    target: float | None = None  # none: reported, not gated
    bound: Bound = "at most"
    beside: dict[str, float] = field(default_factory=dict)
    detail: dict[str, float] = field(default_factory=dict)  # for the JSON alone
    note: str = ""
    series: dict[str, list[float]] = field(default_factory=dict)  # what a plot is drawn from

    @property
    def met(self) -> bool | None:
        """Whether the target is; None if there is none."""
        if self.target is None:
            return None
        return self.value <= self.target if self.bound == "at most" else self.value >= self.target


def line(
    row: int,
    case: str,
    values: Sequence[float],
    unit: Unit,
    target: float | None = None,
    bound: Bound = "at most",
    beside: dict[str, float] | None = None,
    detail: dict[str, float] | None = None,
    note: str = "",
) -> Line:
    """The line of one value per round."""
    return Line(
        row, case, statistics.median(values), min(values), max(values), unit, target, bound, beside or {}, detail or {}, note
    )


@dataclass(frozen=True, slots=True)
class Report:
    """A whole run."""

    effort: str  # full, quick or smoke
    machine: dict[str, Any]
    notes: list[str]
    lines: list[Line]

    def write(self, path: Path) -> None:
        """As JSON, with what follows from the figures spelled out."""
        path.parent.mkdir(parents=True, exist_ok=True)
        data = asdict(self) | {"lines": [asdict(each) | {"met": each.met} for each in self.lines]}
        path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n")

    def show(self, console: Console) -> None:
        """As a table for people."""
        table = Table("row", "case", "median", "range", "target", "", "beside", title=f"{self.effort} run")
        for each in self.lines:
            table.add_row(str(each.row), each.case, *_cells(each), _beside(each))
        console.print(table)
        for text in [*(f"Row {row}: {title}." for row, title in TITLES.items()), *_machine(self.machine), *self.notes]:
            console.print(text, highlight=False)


def read(path: Path) -> Report:
    """What `write` wrote. Raises OSError, ValueError."""
    data = json.loads(path.read_text())
    lines = [Line(**{name: value for name, value in each.items() if name != "met"}) for each in data["lines"]]
    return Report(data["effort"], data["machine"], data["notes"], lines)


def combine(report: Report, earlier: Report) -> Report:
    """What was measured anew, and beside it those rows of an earlier run that were not, with a note of which is which.

    Raises ValueError if the two do not compare: another effort, machine or version.
    """
    rows = {each.row for each in report.lines}
    kept = [each for each in earlier.lines if each.row not in rows]
    if not kept:
        return report
    for what in ("effort", "machine"):
        if getattr(report, what) != getattr(earlier, what):
            raise ValueError(f"{what}: expected the earlier run's, {getattr(earlier, what)}, got {getattr(report, what)}")
    apart = f"Rows {', '.join(map(str, sorted(rows)))} were measured in a run of their own"
    said = [note for note in earlier.notes if not note.startswith(apart)]
    new = [f"{apart}: {note}" for note in report.notes if note not in said] or [f"{apart}."]
    lines = sorted([*report.lines, *kept], key=lambda each: each.row)
    return Report(report.effort, report.machine, [*said, *new], lines)


def markdown(report: Report) -> str:
    """The table of `docs/performance.md`."""
    rows = ["| row | case | median | range | target | | beside |", "|---|---|---|---|---|---|---|"]
    rows += [f"| {each.row} | {each.case} | {' | '.join(_cells(each))} | {_beside(each)} |" for each in report.lines]
    return "\n".join([*rows, "", *(f"- {text}" for text in [*_machine(report.machine), *report.notes])]) + "\n"


def _cells(each: Line) -> tuple[str, str, str, str]:
    """Median, range, target, verdict."""
    sign = {"at most": "≤", "at least": "≥"}[each.bound]
    target = "" if each.target is None else f"{sign} {number(each.target)} {each.unit}"
    verdict = {None: "", True: "met", False: "missed"}[each.met]
    return f"{number(each.value)} {each.unit}", f"{number(each.low)} to {number(each.high)}", target, verdict


def _beside(each: Line) -> str:
    parts = [f"{name} {number(value)}" for name, value in each.beside.items()]
    return "; ".join([*parts, *([each.note] if each.note else [])])


def _machine(machine: dict[str, Any]) -> list[str]:
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return [f"{machine['cores']} cores of {machine['cpu']}, {machine['memory_gib']} GiB; {versions}."]


def number(value: float) -> str:
    """Three digits, or all before the point."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"
