"""Draws ten seconds of held-out readings with the band predicted for them and the readings outside of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from beats import Beat
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from readings import HORIZONS, RATE, Millivolts
from scores import BAND, Quantiles, excess

BEGIN = 12 * RATE  # ordinary beats, four wide ones and one in between
COUNT = 10 * RATE
OUTPUT = "ahead_9"


def draw(readings: Millivolts, predicted: Quantiles, levels: list[float], beats: list[Beat], path: Path) -> None:
    """Writes a PNG. `predicted` [n, levels] are the quantiles of `ahead_9`, made at each of the readings [n]."""
    ahead = HORIZONS[OUTPUT]
    shown = slice(BEGIN, BEGIN + COUNT)
    made = slice(BEGIN - ahead, BEGIN - ahead + COUNT)  # when the shown readings were predicted
    seconds = np.arange(BEGIN, BEGIN + COUNT) / RATE
    truth, quantiles = readings[shown], predicted[made]
    low, median, high = (quantiles[:, levels.index(level)] for level in (BAND[0], 0.5, BAND[1]))
    outside = excess(truth, quantiles, levels) > 0

    figure = Figure(figsize=(11, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.fill_between(
        seconds, low, high, color="#9ecae1", linewidth=0, label=f"80 % band, predicted {1000 * ahead // RATE} ms before"
    )
    axes.plot(seconds, median, color="#3182bd", linewidth=0.8, label="median")
    axes.plot(seconds, truth, color="#222222", linewidth=0.9, label="reading")
    axes.plot(seconds[outside], truth[outside], ".", color="#d62728", markersize=4, label="outside the band")
    top = float(max(truth.max(), high.max())) + 0.3
    wide = [beat.peak / RATE for beat in beats if beat.wide and BEGIN <= beat.peak < BEGIN + COUNT]
    axes.plot(wide, [top] * len(wide), "v", color="#e6550d", markersize=6, label="wide beat")
    axes.set(xlabel="s", ylabel="mV", xlim=(seconds[0], seconds[-1]))
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=5, frameon=False, fontsize=8)
    figure.savefig(path, dpi=110)
