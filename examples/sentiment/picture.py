"""Draws how the score of a text runs from word to word."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sentiment.sentences import WORD

GOOD, BAD = "#3182bd", "#d62728"
COLUMNS = 2  # of sentences


def draw(texts: Sequence[str], scores: Sequence[NDArray[np.float32]], path: Path) -> None:
    """Writes a PNG with a panel for each text. scores: [T] of each, one after each of its words."""
    figure = Figure(figsize=(9, 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(-(-len(texts) // COLUMNS), COLUMNS, sharey=True)
    for axes, text, running in zip(panels.flat, texts, scores, strict=True):
        places = np.arange(len(running))
        axes.bar(places, running, color=np.where(running > 0, GOOD, BAD), width=0.7, alpha=0.35)
        axes.step(places, running, where="mid", color="#404040", linewidth=1.2)
        axes.axhline(0, color="#636363", linewidth=0.8)
        axes.set_xticks(places, WORD.findall(text), rotation=45, ha="right", rotation_mode="anchor", fontsize=9)
        axes.set_ylim(-3, 3)
        axes.grid(axis="y", color="#e5e5e5", linewidth=0.6)
        axes.set_axisbelow(True)
    figure.supylabel("score so far", fontsize=10)
    figure.savefig(path, dpi=100)
