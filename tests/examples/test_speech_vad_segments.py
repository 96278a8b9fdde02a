"""Segments of speech from scores, step by step: worked out by hand, and promises that hold for any scores."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from speech.segments import MILLISECOND, RATE, STEP, Rule, Segment, Segmenter, segments

LOUD, UNSURE, QUIET = 0.9, 0.4, 0.1
MARGIN = Rule().margin
LAST = 5  # quiet steps that end a segment: the first of them begins 128 ms before the last, and 100 are asked for


def told(*scores: float) -> list[Segment]:
    """Those of a recording that ends with its last step."""
    return segments(scores, len(scores) * STEP)


def test_a_segment_is_told_with_the_step_that_ends_it() -> None:
    """It reaches from the first loud step to the first quiet one, and a margin further at both ends."""
    segmenter = Segmenter()
    assert segmenter.feed([QUIET] * 3 + [LOUD] * 10 + [QUIET] * (LAST - 1)) == []
    segment = Segment(3 * STEP - MARGIN, 13 * STEP + MARGIN, told=(13 + LAST) * STEP)
    assert segmenter.feed([QUIET]) == [segment]
    assert str(segment) == "0.07 s to 0.45 s"


def test_a_short_pause_belongs_to_the_speech() -> None:
    """A loud step before the last quiet one that would end the segment goes on with it."""
    pause = [QUIET] * (LAST - 1)
    assert told(*[LOUD] * 10, *pause, LOUD, *pause, LOUD) == [
        Segment(0, (12 + 2 * len(pause)) * STEP, (12 + 2 * len(pause)) * STEP)
    ]


def test_scores_between_the_thresholds_decide_nothing() -> None:
    """They begin no segment, end none, and do not make the quiet before them undone."""
    assert told(*[UNSURE] * 50) == []
    assert [each.end for each in told(*[LOUD] * 10, *[UNSURE] * 50)] == [60 * STEP]
    assert [each.end for each in told(*[LOUD] * 10, QUIET, *[UNSURE] * 3, QUIET)] == [10 * STEP + MARGIN]


@pytest.mark.parametrize(("steps", "count"), [(7, 0), (8, 1)])
def test_what_is_too_short_is_not_told(steps: int, count: int) -> None:
    """250 ms lie between 7 and 8 steps; with the recording's end as with a pause."""
    assert len(told(*[LOUD] * steps, *[QUIET] * LAST)) == count
    assert len(told(*[LOUD] * steps)) == count


def test_the_recordings_end_ends_the_segment_under_way() -> None:
    """At its last sample, though the last step was filled up."""
    segmenter = Segmenter()
    assert segmenter.feed([LOUD] * 10) == []
    assert segmenter.finish(9 * STEP + 7) == [Segment(0, 9 * STEP + 7, told=10 * STEP)]
    assert segmenter.finish(9 * STEP + 7) == []


def test_a_rule_that_contradicts_itself_is_refused() -> None:
    """Field, expected and actual are told."""
    with pytest.raises(ValueError, match="end: expected at most begin, which is 0.3, got 0.35"):
        Rule(begin=0.3)
    with pytest.raises(ValueError, match="margin: expected 0 to half of silence, which is 800, got 480"):
        Rule(silence=50 * MILLISECOND)


RULES = st.builds(
    lambda thresholds, silence, shortest, share: Rule(max(thresholds), min(thresholds), silence, shortest, int(silence * share)),
    st.tuples(st.floats(0, 1), st.floats(0, 1)),
    st.integers(0, RATE),
    st.integers(0, RATE),
    st.floats(0, 0.5),
)
SCORES = st.lists(st.tuples(st.sampled_from([0.0, QUIET, UNSURE, LOUD, 1.0]), st.integers(1, 12)), max_size=20)


@given(SCORES, RULES, st.integers(0, STEP - 1), st.data())
def test_segments_are_ordered_apart_within_and_the_same_however_scores_come(
    drawn: list[tuple[float, int]], rule: Rule, missing: int, data: st.DataObject
) -> None:
    """Of any recording, by any rule."""
    scores = [score for score, count in drawn for _ in range(count)]
    samples = max(0, len(scores) * STEP - missing)
    found = segments(scores, samples, rule)
    edges = [0, *(edge for each in found for edge in (each.begin, each.end)), samples]
    assert edges == sorted(edges)
    assert all(each.begin < each.end <= each.told <= len(scores) * STEP for each in found)
    assert all(before.end < behind.begin and before.told <= behind.begin + rule.margin for before, behind in pairwise(found))
    segmenter = Segmenter(rule)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(scores)), max_size=4)))
    parts = [segmenter.feed(scores[begin:end]) for begin, end in pairwise([0, *cuts, len(scores)])]
    assert [each for part in [*parts, segmenter.finish(samples)] for each in part] == found
