"""What models are fed when it does not matter what."""

from __future__ import annotations

import numpy as np

from stepstream_server.engine.ports import Tensor


def random_inputs(rng: np.random.Generator, shape: tuple[int, ...], tokens: int, range: float = 0.0) -> Tensor:
    """Readings, normal and float32, cut off at the range if there is one; or, if `tokens` is not 0, int64 tokens below it. As on
    the wire, little-endian."""
    if tokens:
        return rng.integers(0, tokens, shape, "<i8")
    readings = rng.normal(size=shape).astype("<f4")
    return readings.clip(-range, range) if range else readings
