"""How large inputs and states may be before a sum inside the model could overflow. Plain arithmetic on spec and weights.

A recurrent kernel clamps what it feeds to sigmoid and tanh, so that an overflow, or a NaN, inside it comes out as a plausible
number (ONNX Runtime's LSTM does). Looking at results alone is therefore not enough; what goes in is held to these limits,
within which every sum stays finite: |h| is at most 1 or what it was, and |c| grows by at most 1 per step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stepstream_server.errors import BundleError
from stepstream_server.spec import PLAIN, FeaturesFront, ModelSpec, cell_model

_LARGEST = float(np.finfo(np.float32).max) / 4  # the rest is room for rounding


@dataclass(frozen=True, slots=True)
class Limits:
    """Largest magnitudes that a launch accepts. Around 1e35 for ordinary models; a NaN is within no limit."""

    value: float  # of a float32 input
    state: float  # of a state


def limits(spec: ModelSpec, weights: Mapping[str, NDArray[np.float32]]) -> Limits:
    """The limits of a model: the largest float32 over the largest gain from features and states to a gate's sum.

    Raises BundleError for weights so large that the limits fall below PLAIN.
    """
    model = cell_model(spec)
    state = value = _LARGEST / float(np.max([1.0, *(_gain(weights, layer) for layer in range(model.cell.layers))]))
    if isinstance(model.front, FeaturesFront):
        # |(difference - mean) / scale| <= state, where a difference is at most two values.
        value = (state * min(1.0, float(np.min(np.abs(model.front.scale)))) - float(np.max(np.abs(model.front.mean)))) / 2
    if not min(state, value) >= PLAIN:
        raise BundleError(f"model {spec.name}: with these weights and scales, inputs of {min(state, value):.1e} overflow already")
    return Limits(value, state)


def _gain(weights: Mapping[str, NDArray[np.float32]], layer: int) -> float:
    """The most that a gate's sum can be when no feature and no h exceeds 1."""
    names = (f"cell.{part}_l{layer}" for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
    rows = (np.abs(weights[name].astype(np.float64)).reshape(len(weights[name]), -1).sum(axis=1) for name in names)
    return float(np.max(sum(rows)))
