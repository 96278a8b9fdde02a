"""A histogram that takes a whole turn's rows at once.

prometheus_client's own takes one value per call, at 2 us each: at 1,000 rows a turn that is as long as the turn itself. This one
adds 1,000 weighted rows in 10 us. It does not lock; its owner does.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

import numpy as np

from stepstream_server.engine.ports import Floats, Ints


class Histogram:
    """Weighted counts per bucket. Bounds are inclusive upper edges, ascending; a last bucket, +Inf, takes what exceeds them."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = np.array(bounds, np.float64)
        self._edges = [float(bound) for bound in bounds]  # the same, for bisect: 20 times faster than numpy on one value
        self._counts = np.zeros(len(bounds) + 1)  # float64 is exact up to 2**53
        self.sum = 0.0  # of all values

    def add(self, values: Floats, weights: Ints) -> None:
        """Counts `weights[i]` observations of `values[i]`. Both [n]."""
        if len(values) == 1:
            self.add_one(values.item(), weights.item())
            return
        self._counts += np.bincount(self._bounds.searchsorted(values), weights, self._counts.size)
        self.sum += float(values @ weights)

    def add_one(self, value: float, weight: int = 1) -> None:
        """Counts so many observations of one value."""
        self._counts[bisect_left(self._edges, value)] += weight
        self.sum += value * weight

    @property
    def count(self) -> int:
        """Of all values."""
        return int(self._counts.sum())

    def read(self) -> tuple[list[tuple[str, float]], float]:
        """Cumulative counts as Prometheus wants them, `(upper edge, count)` up to +Inf, and the sum of all values."""
        cumulative = np.cumsum(self._counts).tolist()
        return list(zip([*map(str, self._edges), "+Inf"], cumulative, strict=True)), self.sum
