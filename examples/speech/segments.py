"""Scores of a stream, one for each step, become segments of speech, each told as soon as it has ended.

A segment begins with a score of `Rule.begin` or more and ends where scores have been below the lower `Rule.end` for a while:
two thresholds, so that a score that wavers about one of them does not cut a sentence into pieces. Pure: no clock, no server.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

RATE = 16_000  # samples per second
STEP = 512  # samples of a step: 32 ms
MILLISECOND = RATE // 1000  # samples


@dataclass(frozen=True, slots=True)
class Rule:
    """When speech begins and ends. Defaults are those of the package that publishes the model: silero-vad 6.2.3,
    `get_speech_timestamps` in `silero_vad/utils_vad.py`. Raises ValueError for numbers that contradict each other."""

    begin: float = 0.5  # a score of so much or more begins a segment, or goes on with one
    end: float = 0.35  # one below it is quiet; in between it depends on what was before
    silence: int = 100 * MILLISECOND  # samples from the first quiet step to the one that ends the segment: a shorter pause
    # belongs to the speech, as the closure before a "p" does
    shortest: int = 250 * MILLISECOND  # samples: what is not longer was a click or a cough, and is not told
    margin: int = 30 * MILLISECOND  # samples added at both ends, for soft sounds that the score misses

    def __post_init__(self) -> None:
        if not self.end <= self.begin:
            raise ValueError(f"end: expected at most begin, which is {self.begin}, got {self.end}")
        if not 0 <= 2 * self.margin <= self.silence:
            raise ValueError(f"margin: expected 0 to half of silence, which is {self.silence}, got {self.margin}")


@dataclass(frozen=True, slots=True)
class Segment:
    """Somebody speaks from sample `begin` on until before sample `end`."""

    begin: int
    end: int
    told: int  # samples that had been heard when it was clear that it has ended

    def __str__(self) -> str:
        return f"{self.begin / RATE:.2f} s to {self.end / RATE:.2f} s"


class Segmenter:
    """Finds the segments of one stream. It remembers where a segment began and since when it has been quiet, nothing else."""

    def __init__(self, rule: Rule | None = None) -> None:
        self._rule = rule or Rule()
        self._heard = 0  # samples
        self._begin: int | None = None  # of the segment under way
        self._quiet: int | None = None  # where it may have ended

    def feed(self, scores: Iterable[float]) -> list[Segment]:
        """Takes the scores of the next steps, and returns the segments that end with one of them, in order."""
        ended = [self._step(score) for score in scores]
        return [segment for segment in ended if segment]

    def finish(self, samples: int) -> list[Segment]:
        """Ends the segment under way, if there is one, with the recording, which has so many samples: the last step may have
        been filled up."""
        if self._begin is None:
            return []
        segment = self._close(samples, samples)
        return [segment] if segment else []

    def _step(self, score: float) -> Segment | None:
        here, self._heard = self._heard, self._heard + STEP
        if score >= self._rule.begin:
            self._begin = here if self._begin is None else self._begin
            self._quiet = None
        elif score < self._rule.end and self._begin is not None:
            self._quiet = here if self._quiet is None else self._quiet
            if here - self._quiet >= self._rule.silence:
                return self._close(self._quiet, self._quiet + self._rule.margin)
        return None

    def _close(self, end: int, last: int) -> Segment | None:
        """The segment that ends here, unless it is too short; `last`: with the margin."""
        begin, self._begin, self._quiet = self._begin or 0, None, None
        if end - begin <= self._rule.shortest:
            return None
        return Segment(max(0, begin - self._rule.margin), last, self._heard)


def segments(scores: Iterable[float], samples: int, rule: Rule | None = None) -> list[Segment]:
    """All segments of a recording of so many samples."""
    segmenter = Segmenter(rule)
    return segmenter.feed(scores) + segmenter.finish(samples)
