"""What models are fed when it does not matter what."""

from __future__ import annotations

import numpy as np

from stepstream_server.engine.ports import Tensor


def random_inputs(rng: np.random.Generator, shape: tuple[int, ...], tokens: int) -> Tensor:
    """Readings, normal and float32; or, if `tokens` is not 0, int64 tokens below it. As on the wire, little-endian."""
    return rng.integers(0, tokens, shape, "<i8") if tokens else rng.normal(size=shape).astype("<f4")
