"""Draws exact match against the length of the source."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

COLOURS = {"attention": "#3182bd", "fixed vector": "#fd8d3c"}
FEWEST = 30  # translations that a point stands for


def draw_length(hits: Mapping[str, NDArray[np.bool_]], lengths: NDArray[np.int64], path: Path) -> None:
    """Writes a PNG. hits: network -> which translations are exact [n]; lengths: pieces of their sources [n]."""
    figure = Figure(figsize=(8, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    shown = [length for length in np.unique(lengths) if (lengths == length).sum() >= FEWEST]
    for name, hit in hits.items():
        shares = [100 * hit[lengths == length].mean() for length in shown]
        axes.plot(shown, shares, color=COLOURS[name], linewidth=1.6, marker="o", markersize=4, label=name)
    axes.set(xlabel="pieces of the source, the tag among them", ylabel="held-out phrases translated exactly, %", ylim=(0, 103))
    axes.grid(color="#e5e5e5", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.legend(loc="lower left", frameon=False)
    figure.savefig(path, dpi=110)
