"""Draws a mixture: its waveform, when somebody speaks, the model's probabilities, and what the energy threshold makes of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from speech.energy import Energy
from speech.mixtures import Mixture, Span
from speech.segments import RATE, STEP, Rule, segments
from speech.vad_scores import Scores

_DRAWN = 160  # samples of which the lowest and the highest are drawn: 10 ms
SPEECH, SILERO, ENERGY = "#a1d99b", "#3182bd", "#e6550d"


def draw(made: Mixture, probabilities: Scores, above: Scores, energy: Energy, noise: str, path: Path) -> None:
    """Writes a PNG. probabilities, above: [T], of the model and dB above the noise floor."""
    figure = Figure(figsize=(11, 5.2), layout="constrained")
    FigureCanvasAgg(figure)
    wave, silero, plain = figure.subplots(3, 1, sharex=True)
    _wave(wave, made)
    wave.set_ylabel("waveform")
    wave.set_title(f"Phrases with pauses, {noise}. Green: somebody speaks. Bars: the segments that were told", fontsize=10)
    _scores(silero, made, probabilities, Rule(), SILERO)
    silero.set(ylabel="Silero:\nprobability", ylim=(-0.02, 1.12))
    _scores(plain, made, above, energy.rule, ENERGY)
    plain.set(ylabel="energy:\ndB above floor", xlabel="s", xlim=(0, len(made.samples) / RATE))
    figure.savefig(path, dpi=88)


def _wave(axes: Axes, made: Mixture) -> None:
    parts = made.samples[: len(made.samples) // _DRAWN * _DRAWN].reshape(-1, _DRAWN) / 32768
    axes.fill_between(np.arange(len(parts)) * _DRAWN / RATE, parts.min(axis=1), parts.max(axis=1), color="#636363", linewidth=0)
    _shade(axes, made.spans)


def _scores(axes: Axes, made: Mixture, scores: Scores, rule: Rule, colour: str) -> None:
    """Scores with both thresholds, and a bar over each segment that they become."""
    axes.plot((np.arange(len(scores)) + 1) * STEP / RATE, scores, color=colour, linewidth=0.9)
    for threshold in (rule.begin, rule.end):
        axes.axhline(threshold, color="#969696", linewidth=0.7, linestyle=(0, (4, 2)))
    top = 1.06 * float(max(scores.max(), rule.begin))
    for segment in segments(scores.tolist(), len(made.samples), rule):
        axes.plot([segment.begin / RATE, segment.end / RATE], [top, top], color=colour, linewidth=4, solid_capstyle="butt")
    _shade(axes, made.spans)


def _shade(axes: Axes, spans: Sequence[Span]) -> None:
    for begin, end in spans:
        axes.axvspan(begin / RATE, end / RATE, color=SPEECH, alpha=0.45, linewidth=0)
