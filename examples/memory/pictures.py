"""Draws recall against distance, and gradients against lag."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

Floats = NDArray[np.float64]
COLOURS = {
    "LSTM": "#3182bd", "GRU": "#31a354", "tanh RNN": "#d62728", "tanh RNN, short first": "#fd8d3c",
    "LSTM: h": "#3182bd", "LSTM: c": "#08519c", "GRU: h": "#31a354", "tanh RNN: h": "#d62728",
    "tanh RNN, short first: h": "#fd8d3c", "LSTM, untrained, forget bias 5: c": "#756bb1", "LSTM, untrained: c": "#9e9ac8",
}  # fmt: skip
DASHED = (0, (4, 2))
FLOOR = 1e-40  # of the gradients' axis


def draw_recall(distances: Sequence[int], shares: Mapping[str, Floats], trained_to: int, chance: float, path: Path) -> None:
    """Writes a PNG. shares: network -> recall [n] at the distances [n]; beyond `trained_to` they are extrapolated."""
    figure, axes = _figure()
    axes.axvspan(trained_to, distances[-1], color="#f0f0f0", linewidth=0, label=f"longer than any trained on ({trained_to})")
    for name, share in shares.items():
        line = DASHED if name == "GRU" else "solid"  # so that the LSTM's shows where both are at 100 %
        axes.plot(distances, 100 * share, color=COLOURS[name], linewidth=1.4, linestyle=line, label=name)
    axes.axhline(100 * chance, color="#636363", linewidth=1, linestyle=DASHED, label=f"chance, {chance:.0%}")
    axes.set(xlabel="words between the country and the blank", ylabel="blanks filled rightly, %")
    axes.set(xlim=(distances[0], distances[-1]), ylim=(0, 103))
    _finish(figure, axes, path)


def draw_gradients(ratios: Mapping[str, Floats], path: Path) -> None:
    """Writes a PNG. ratios: curve -> norm at each lag [n] relative to lag 0."""
    figure, axes = _figure()
    for name, ratio in ratios.items():
        line = DASHED if "untrained" in name else "solid"
        axes.semilogy(ratio, color=COLOURS[name], linewidth=1.4, linestyle=line, label=name)
    axes.set(xlabel="lag, words before the blank", ylabel="gradient's norm, relative to lag 0")
    axes.set(xlim=(0, max(map(len, ratios.values())) - 1), ylim=(max(FLOOR, 0.1 * min(r.min() for r in ratios.values())), None))
    _finish(figure, axes, path)


def _figure() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots()


def _finish(figure: Figure, axes: Axes, path: Path) -> None:
    axes.grid(color="#e5e5e5", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=3, frameon=False, fontsize=9)
    figure.savefig(path, dpi=110)
