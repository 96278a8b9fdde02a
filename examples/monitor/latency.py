"""Latencies as Prometheus would tell them: histograms read from a server's /metrics, their differences, means and quantiles."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from urllib.request import urlopen

from prometheus_client.parser import text_string_to_metric_families

QUEUE, COMPUTE, STEP, BATCH = (
    "stepstream_step_queue_seconds",
    "stepstream_batch_compute_seconds",
    "stepstream_step_seconds",
    "stepstream_batch_size",
)


@dataclass(frozen=True, slots=True)
class Histogram:
    """Observations since the server started, or between two scrapes."""

    edges: tuple[float, ...]  # upper bounds of the buckets, ascending; the last is infinite
    counts: tuple[float, ...]  # cumulative
    total: float  # sum of all observations

    @property
    def count(self) -> float:
        return self.counts[-1]

    @property
    def mean(self) -> float:
        return self.total / self.count if self.count else math.nan

    def __sub__(self, earlier: Histogram) -> Histogram:
        counts = tuple(now - then for now, then in zip(self.counts, earlier.counts, strict=True))
        return Histogram(self.edges, counts, self.total - earlier.total)

    def quantile(self, level: float) -> float:
        """Estimated as Prometheus' histogram_quantile does: observations lie evenly within a bucket."""
        if not self.count:
            return math.nan
        rank = level * self.count
        buckets = pairwise([(0.0, 0.0), *zip(self.edges, self.counts, strict=True)])
        for (low, below), (high, upto) in buckets:
            if upto >= rank and upto > below:
                return low if math.isinf(high) else low + (high - low) * (rank - below) / (upto - below)
        return math.nan


def scrape(url: str, model: str) -> dict[str, Histogram]:
    """A model's histograms by name. Raises OSError if the server cannot be reached."""
    with urlopen(url, timeout=10) as response:
        text = response.read().decode()
    return {
        family.name: _histogram(family.name, [(each.name, each.labels, each.value) for each in family.samples], model)
        for family in text_string_to_metric_families(text)
        if family.type == "histogram"
    }


def _histogram(name: str, samples: Sequence[tuple[str, Mapping[str, str], float]], model: str) -> Histogram:
    own = [(sample, labels, value) for sample, labels, value in samples if labels.get("model") == model]
    buckets = sorted((float(labels["le"]), value) for sample, labels, value in own if sample == f"{name}_bucket")
    edges, counts = zip(*buckets, strict=True)
    return Histogram(edges, counts, next(value for sample, _, value in own if sample == f"{name}_sum"))
