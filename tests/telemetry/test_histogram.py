"""The bulk histogram counts as one that takes value after value would."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from stepstream_server.telemetry.histogram import Histogram

BOUNDS = (0.001, 0.01, 1.0)


def test_a_value_on_an_edge_falls_below_it() -> None:
    """An edge is inclusive, as Prometheus' `le` says, by either way of adding."""
    one, many = Histogram(BOUNDS), Histogram(BOUNDS)
    one.add_one(0.01)
    many.add(np.array([0.01]), np.array([1]))
    assert one.read() == many.read() == ([("0.001", 0), ("0.01", 1), ("1.0", 1), ("+Inf", 1)], 0.01)


@given(st.lists(st.tuples(st.floats(0, 10, width=32), st.integers(1, 1000))))
def test_rows_count_with_their_weights(rows: list[tuple[float, int]]) -> None:
    """Each cumulative count is the weight of the rows at or below its edge; +Inf is all of them."""
    histogram = Histogram(BOUNDS)
    histogram.add(np.array([value for value, _ in rows], np.float64), np.array([weight for _, weight in rows], np.int64))
    buckets, total = histogram.read()
    expected = [sum(weight for value, weight in rows if value <= float(edge)) for edge, _ in buckets]
    assert [count for _, count in buckets] == expected
    assert np.isclose(total, sum(value * weight for value, weight in rows))
