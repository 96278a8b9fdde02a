"""Observed against predicted, as text for a terminal and as a picture."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
import plotext
from monitor.forecast import Forecast
from numpy.typing import NDArray
from rich.text import Text

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

HEIGHT = 24  # lines on the terminal
ROW_SECONDS = 15  # of one row of the picture
TITLE = "Electrocardiogram, predicted {ms:.0f} ms ahead: a demonstration of streaming prediction, not a medical device"


def terminal(forecast: Forecast, first: int, last: int, width: int) -> Text:
    """Readings first <= i < last, and the band that was predicted for them and for what comes next."""
    rate, end = forecast.rate, last + forecast.ahead
    bottom, top = forecast.readings.min() - 0.1, forecast.readings.max() + 0.1
    plotext.clear_figure()
    plotext.theme("clear")
    plotext.limit_size(False, False)
    plotext.plot_size(width, HEIGHT)
    plotext.xlim(first / rate, end / rate)
    plotext.ylim(bottom, top)
    plotext.title(f"mV by seconds. Shaded: the 80 % band predicted {1000 * forecast.ahead / rate:.0f} ms ahead. Red: outside")
    steps, heights = np.arange(first, end), np.linspace(bottom, top, 2 * HEIGHT)
    thin = (top - bottom) / HEIGHT / 2  # a band narrower than a line of text should show all the same
    inside = (heights[:, None] > forecast.low[steps] - thin) & (heights[:, None] < forecast.high[steps] + thin)
    level, step = np.nonzero(inside)
    plotext.scatter(steps[step] / rate, heights[level], color="cyan", marker="░")
    shown = np.arange(first, last)
    plotext.plot(shown / rate, forecast.readings[shown], color="white", marker="braille")
    outside = shown[forecast.excess[shown] > 0]
    plotext.scatter(outside / rate, forecast.readings[outside], color="red+", marker="●")
    return Text.from_ansi(plotext.build())


def picture(forecast: Forecast, path: Path) -> None:
    """Writes all readings in rows, as PNG."""
    per_row = ROW_SECONDS * forecast.rate
    count = -(-len(forecast.readings) // per_row)
    figure, grid = plt.subplots(count, 1, figsize=(13, 2.1 * count + 0.4), sharey=True, squeeze=False, layout="constrained")
    rows = grid[:, 0]
    for axes, first in zip(rows, range(0, len(forecast.readings), per_row), strict=True):
        _draw(axes, forecast, np.arange(first, min(first + per_row, len(forecast.readings))))
        axes.set_xlim(first / forecast.rate, (first + per_row) / forecast.rate)
    legend = dict(zip(*reversed(rows[0].get_legend_handles_labels()), strict=True))  # each label once
    rows[0].legend(legend.values(), legend.keys(), loc="upper left", ncols=4, fontsize="small")
    rows[-1].set_xlabel("seconds")
    figure.suptitle(TITLE.format(ms=1000 * forecast.ahead / forecast.rate))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def _draw(axes: Axes, forecast: Forecast, shown: NDArray[np.intp]) -> None:
    rate = forecast.rate
    seconds = shown / rate
    axes.fill_between(seconds, forecast.low[shown], forecast.high[shown], color="tab:cyan", alpha=0.45, lw=0, label="80 % band")
    axes.plot(seconds, forecast.readings[shown], color="0.2", lw=0.9, label="observed")
    outside = shown[forecast.excess[shown] > 0]
    axes.plot(outside / rate, forecast.readings[outside], ".", color="tab:red", ms=4, label="outside the band")
    for begin in forecast.surprises():
        if seconds[0] <= begin <= seconds[-1]:
            axes.axvspan(begin - 0.1, begin + 0.2, color="tab:red", alpha=0.12, lw=0, label="surprise")
    axes.set_ylabel("mV")
