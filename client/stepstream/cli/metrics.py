"""A server's /metrics: read, parsed, and the difference of two readings told per model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any
from urllib.request import urlopen

TIMEOUT_SECONDS = 10.0  # of a server that is there and does not answer
Key = tuple[str, str]
"""Model and version."""


@dataclass(frozen=True, slots=True)
class Histogram:
    """Observations since the server started, or between two scrapes."""

    counts: Mapping[float, float]  # upper bound of a bucket -> observations up to there
    total: float  # sum of all observations

    def since(self, earlier: Histogram) -> Histogram:
        """What has been observed in between."""
        counts = {edge: count - earlier.counts.get(edge, 0.0) for edge, count in self.counts.items()}
        return Histogram(counts, self.total - earlier.total)

    @property
    def count(self) -> float:
        """Observations."""
        return max(self.counts.values(), default=0.0)

    @property
    def mean(self) -> float | None:
        """None without an observation."""
        return self.total / self.count if self.count else None

    def quantile(self, level: float) -> float | None:
        """Estimated as Prometheus' histogram_quantile does: observations lie evenly within a bucket. None without any."""
        rank = level * self.count
        buckets = pairwise([(0.0, 0.0), *sorted(self.counts.items())])
        for (low, below), (high, upto) in buckets:
            if upto >= rank and upto > below:
                return low if math.isinf(high) else low + (high - low) * (rank - below) / (upto - below)
        return None


_EMPTY = Histogram({}, 0.0)


@dataclass(frozen=True, slots=True)
class Scrape:
    """All series that have a model, by (name, model, version): numbers are summed over their other labels."""

    seconds: float  # when, on a monotonic clock
    numbers: Mapping[tuple[str, Key], float]
    histograms: Mapping[tuple[str, Key], Histogram]

    @property
    def models(self) -> list[Key]:
        """Every model and version that it names."""
        return sorted({key for _, key in self.numbers})

    def number(self, name: str, key: Key) -> float:
        """0 for a series that does not exist yet."""
        return self.numbers.get((name, key), 0.0)

    def histogram(self, name: str, key: Key) -> Histogram:
        """Empty for a series that does not exist yet."""
        return self.histograms.get((name, key), _EMPTY)


@dataclass(frozen=True, slots=True)
class Split:
    """Where time went: seconds, or rows of a batch. None where nothing happened."""

    mean: float | None
    p50: float | None
    p99: float | None


@dataclass(frozen=True, slots=True)
class Activity:
    """A model between two scrapes."""

    model: str
    version: str
    sessions: int
    slots: int
    streams: int
    pending_steps: int
    steps_per_second: float
    failures_per_second: float
    batch_rows: Split
    queue_seconds: Split
    compute_seconds: Split
    step_seconds: Split

    def record(self) -> dict[str, Any]:
        """As plain values, by name."""
        return asdict(self)


def scrape(url: str, seconds: float) -> Scrape:
    """Reads it. Raises OSError if nobody answers, ValueError for what is no metrics page."""
    with urlopen(url, timeout=TIMEOUT_SECONDS) as response:
        return parsed(response.read().decode(), seconds)


def parsed(text: str, seconds: float) -> Scrape:
    """Prometheus' text format."""
    from prometheus_client.parser import text_string_to_metric_families  # other commands start sooner without it

    numbers: dict[tuple[str, Key], float] = {}
    buckets: dict[tuple[str, Key], dict[float, float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if "model" not in sample.labels:
                continue
            key = sample.labels["model"], sample.labels.get("version", "")
            if "le" in sample.labels:
                buckets.setdefault((family.name, key), {})[float(sample.labels["le"])] = sample.value
            else:
                numbers[sample.name, key] = numbers.get((sample.name, key), 0.0) + sample.value
    histograms = {
        (name, key): Histogram(counts, numbers.get((f"{name}_sum", key), 0.0)) for (name, key), counts in buckets.items()
    }
    return Scrape(seconds, numbers, histograms)


def activities(before: Scrape, now: Scrape) -> list[Activity]:
    """Every model's activity between the two."""
    return [_activity(before, now, key) for key in now.models]


def _activity(before: Scrape, now: Scrape, key: Key) -> Activity:
    elapsed = now.seconds - before.seconds

    def rate(name: str) -> float:
        return (now.number(name, key) - before.number(name, key)) / elapsed

    def split(name: str) -> Split:
        between = now.histogram(name, key).since(before.histogram(name, key))
        return Split(between.mean, between.quantile(0.5), between.quantile(0.99))

    return Activity(
        model=key[0],
        version=key[1],
        sessions=int(now.number("stepstream_sessions_open", key)),
        slots=int(now.number("stepstream_slots", key)),
        streams=int(now.number("stepstream_streams", key)),
        pending_steps=int(now.number("stepstream_pending_steps", key)),
        steps_per_second=rate("stepstream_steps_total"),
        failures_per_second=rate("stepstream_step_failures_total"),
        batch_rows=split("stepstream_batch_size"),
        queue_seconds=split("stepstream_step_queue_seconds"),
        compute_seconds=split("stepstream_batch_compute_seconds"),
        step_seconds=split("stepstream_step_seconds"),
    )
