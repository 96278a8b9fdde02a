"""The committed picture of all ratios that have a target, and of what workers bring."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.report import TITLES, Line, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MET, _MISSED = "tab:blue", "tab:orange"
_BAR = 0.19  # inches of a bar or a heading
_MARGIN = 0.6, 2.2  # times the least and the greatest that the scale shows: its ends, with room for figures on the right
_TICKS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50)


def plot(lines: Sequence[Line], path: Path) -> None:
    """Draws a bar per ratio with a target, and steps per second by number of workers."""
    from matplotlib.figure import Figure  # here alone, and slow to import

    gated = [each for each in lines if each.unit == "×" and each.target is not None]
    scaled = [each for each in lines if "workers" in each.series]
    heights = _BAR * (len(gated) + len({each.row for each in gated}) + 3), 2.4
    figure = Figure(figsize=(9, sum(heights)), layout="constrained")
    upper, lower = figure.subplots(2, 1, height_ratios=heights)
    _ratios(upper, gated)
    _scaling(lower, scaled)
    figure.savefig(path, dpi=110)


def _ratios(axes: Axes, gated: Sequence[Line]) -> None:
    """Bars from 1 on a scale of factors, so that half and twice are as long, under the titles of their rows."""
    labels: list[str] = []
    for row, several in groupby(gated, key=lambda each: each.row):
        _text(axes, 0.01, len(labels), f"{row}  {TITLES[row]}", "left", fontstyle="italic")
        labels.append("")
        for each in several:
            _bar(axes, len(labels), each)
            labels.append(each.case)
    shown = [value for each in gated for value in (each.value, each.target or 1.0)]
    low, high = _MARGIN[0] * min(shown, default=1.0), _MARGIN[1] * max(shown, default=1.0)
    axes.set(xscale="log", xlim=(low, high), ylim=(len(labels), -1))
    axes.set_yticks(range(len(labels)), labels, fontsize=8)
    axes.tick_params(axis="y", length=0)
    axes.set_xticks([each for each in _TICKS if low < each < high], minor=False)
    axes.set_xticks([], minor=True)
    axes.xaxis.set_major_formatter("{x:g} ×")
    axes.axvline(1, color="black", linewidth=0.8)
    axes.grid(axis="x", alpha=0.3)
    axes.set_title("Ratios: blue ones meet their target, a black mark; orange ones miss it", fontsize="medium", loc="left")


def _bar(axes: Axes, at: int, each: Line) -> None:
    target = each.target or 0.0
    axes.barh(at, each.value - 1, left=1, height=0.62, color=_MET if each.met else _MISSED)
    axes.plot([target, target], [at - 0.45, at + 0.45], color="black", linewidth=2)
    _text(axes, 0.99, at, f"{number(each.value)} ×", "right")


def _text(axes: Axes, across: float, at: int, text: str, align: str, **style: str) -> None:
    """Beside a bar, at this part of the width, in front of the lines of the scale."""
    blank = {"facecolor": "white", "edgecolor": "none", "pad": 1}
    where = axes.get_yaxis_transform()
    axes.text(across, at, text, transform=where, ha=align, va="center", fontsize=8, bbox=blank, **style)  # type: ignore[arg-type]


def _scaling(axes: Axes, scaled: Sequence[Line]) -> None:
    """Medians with the least and the greatest round."""
    workers = [each.series["workers"][0] for each in scaled]
    for name, colour in {"server": _MET, "echo": "tab:gray"}.items():
        rounds = [each.series[name] for each in scaled]
        medians = [statistics.median(each) for each in rounds]
        below = [median - min(each) for median, each in zip(medians, rounds, strict=True)]
        above = [max(each) - median for median, each in zip(medians, rounds, strict=True)]
        axes.errorbar(workers, medians, [below, above], color=colour, marker="o", capsize=3, label=name)
    axes.set(xlabel="workers of the server (the echo has as many processes, at least one)", ylabel="steps/s", ylim=(0, None))
    axes.set_xticks(workers)
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.set_title("Row 20: 64 streams, single steps", fontsize="medium", loc="left")
    axes.legend(loc="lower right", frameon=False)
    axes.grid(alpha=0.3)
