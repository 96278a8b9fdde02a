"""How well a detector of speech does on recordings of which it is known when somebody speaks: by steps, and by segments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from speech.mixtures import Marks, Mixture, Span, marks
from speech.segments import RATE, Rule, Segment, segments

Scores = NDArray[np.floating[Any]]  # [N, T]: of recordings, for each step


@dataclass(frozen=True, slots=True)
class Figures:
    """How one detector did on some mixtures. Shares are of steps."""

    auc: float  # area under the ROC curve of the bare scores: how often a step of speech scores higher than one without
    accuracy: float  # of the segments, as all that follows
    f1: float
    missed: float  # of the steps of speech
    false_alarms: float  # of the steps without
    spans: int  # of speech
    found: int  # of them: by half or more
    alone: int  # of them: by a segment of its own, which overlaps no other span, as no other segment overlaps the span
    made_up: int  # segments that overlap no speech
    delays: tuple[float, ...]  # ms from the true end of each span found alone until its end was told

    @property
    def balanced(self) -> float:
        """Mean share of right steps among those of speech and those without."""
        return 1 - (self.missed + self.false_alarms) / 2

    def delay(self, percent: float) -> float:
        """The ms that so many percent of the delays stay within; NaN where there are none."""
        return float(np.percentile(self.delays, percent)) if self.delays else float("nan")


def judge(mixtures: Sequence[Mixture], scores: Scores, rule: Rule) -> Figures:
    """Compares scores of mixtures, and the segments that they become, with what is known."""
    labels = np.array([each.labels for each in mixtures])
    told = [segments(row.tolist(), len(each.samples), rule) for each, row in zip(mixtures, scores, strict=True)]
    decided = np.array([marks([Span(s.begin, s.end) for s in row], labels.shape[1]) for row in told])
    hits, alarms = int((decided & labels).sum()), int((decided & ~labels).sum())
    matched = [match(each.spans, row) for each, row in zip(mixtures, told, strict=True)]
    return Figures(
        auc=roc_auc(scores, labels),
        accuracy=float((decided == labels).mean()),
        f1=2 * hits / max(1, int(labels.sum()) + hits + alarms),
        missed=1 - hits / int(labels.sum()),
        false_alarms=alarms / int((~labels).sum()),
        spans=sum(len(each.spans) for each in mixtures),
        found=sum(each.found for each in matched),
        alone=sum(len(each.ends) for each in matched),
        made_up=sum(each.made_up for each in matched),
        delays=tuple(delay for each in matched for _, delay in each.ends),
    )


def roc_auc(scores: Scores, labels: Marks) -> float:
    """Share of pairs, one step of speech and one without, of which the first scores higher; equal scores count half."""
    others = np.sort(scores[~labels])
    below, upto = (np.searchsorted(others, scores[labels], side) for side in ("left", "right"))
    return float((below + upto).mean() / 2 / len(others))


@dataclass(frozen=True, slots=True)
class Match:
    """Spans of one recording beside the segments that a detector told."""

    found: int
    ends: list[tuple[int, float]]  # of each span found alone: which segment it was found by, and the ms until its end was told
    made_up: int


def match(spans: Sequence[Span], told: Sequence[Segment]) -> Match:
    """Finds the spans that were found, and how late it was told that they had ended."""
    overlap = np.array([[_common(span, segment) for segment in told] for span in spans]).reshape(len(spans), len(told))
    meets = overlap > 0
    pairs = np.argwhere(meets & (meets.sum(axis=1, keepdims=True) == 1) & (meets.sum(axis=0) == 1)).tolist()
    lengths = np.array([span.end - span.begin for span in spans])
    return Match(
        found=int((2 * overlap.sum(axis=1) >= lengths).sum()),
        ends=[(column, 1000 * (told[column].told - spans[row].end) / RATE) for row, column in pairs],
        made_up=int((~meets.any(axis=0)).sum()),
    )


def _common(span: Span, segment: Segment) -> int:
    """Samples that both have."""
    return max(0, min(span.end, segment.end) - max(span.begin, segment.begin))
