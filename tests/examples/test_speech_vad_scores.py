"""How detectors of speech are judged, worked out by hand; and the energy threshold that the model is compared with."""

from __future__ import annotations

import numpy as np
import pytest
from speech.energy import QUIETEST, above_floor, loudness
from speech.mixtures import Mixture, Span
from speech.segments import RATE, STEP, Rule, Segment
from speech.vad_scores import judge, match, roc_auc


def test_area_under_the_curve_by_hand() -> None:
    """Of six pairs four are in order and one is even."""
    scores, labels = np.array([[0.1, 0.5, 0.9, 0.5, 0.2]]), np.array([[False, True, True, False, True]])
    assert roc_auc(scores, labels) == pytest.approx(4.5 / 6)


def test_figures_by_hand() -> None:
    """Twenty steps of speech, of which the first two and, behind the end, two others are got wrong."""
    samples, rule = np.zeros(60 * STEP, np.int16), Rule(margin=0)
    scores = np.zeros((1, 60))
    scores[0, 12:32] = 1
    figures = judge([Mixture(samples, (Span(10 * STEP, 30 * STEP),))], scores, rule)
    assert (figures.missed, figures.false_alarms) == pytest.approx((2 / 20, 2 / 40))
    assert figures.accuracy == pytest.approx(56 / 60)
    assert figures.f1 == pytest.approx(2 * 18 / (20 + 20))
    assert figures.balanced == pytest.approx(1 - (0.1 + 0.05) / 2)
    assert (figures.spans, figures.found, figures.alone, figures.made_up) == (1, 1, 1, 0)
    assert figures.delays == pytest.approx([1000 * 7 * STEP / RATE])  # two steps late, and five that end it


def test_spans_are_found_by_half_and_alone_by_one_segment() -> None:
    """One is found alone, one in two pieces, two by one segment, one to less than half; and one segment is made up."""
    spans = [Span(0, 100), Span(200, 300), Span(400, 500), Span(600, 700), Span(800, 900)]
    told = [(10, 110), (200, 240), (250, 300), (400, 660), (880, 890), (950, 960)]
    found = match(spans, [Segment(begin, end, told=end + 16) for begin, end in told])
    assert found.found == 4
    assert [column for column, _ in found.ends] == [0, 4]
    assert [delay for _, delay in found.ends] == pytest.approx([26 / 16, 6 / 16])
    assert found.made_up == 1


def test_nothing_told_finds_nothing() -> None:
    """And nothing is made up."""
    found = match([Span(0, 100)], [])
    assert (found.found, found.ends, found.made_up) == (0, [], 0)


def test_loudness_is_that_of_the_band() -> None:
    """A tone counts with its power where the band has it, and not where it has not; digital silence has a level of its own."""
    tone = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(4 * STEP) / RATE).reshape(1, 4, STEP)
    power = 10 * np.log10(0.5**2 / 2)
    assert loudness(tone, (100, 4000)) == pytest.approx(np.full((1, 4), power), abs=0.1)
    assert (loudness(tone, (2000, 4000)) < power - 40).all()
    assert (loudness(np.zeros((1, 4, STEP)), (0, 8000)) == QUIETEST).all()


def test_the_floor_falls_at_once_and_rises_slowly() -> None:
    """By 2 dB per second, while what is louder stands out by the rest."""
    levels = np.array([[-40.0, -50.0, -50.0, -20.0, -20.0]])
    rise = 2 * STEP / RATE
    assert above_floor(levels, 2.0) == pytest.approx(np.array([[0.0, 0.0, 0.0, 30 - rise, 30 - 2 * rise]]))
