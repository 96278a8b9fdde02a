"""Inputs and states to try a model with: within what the manifest allows, some of them at its corners."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from stepstream_server.programs.layout import state_rows
from stepstream_server.spec import ModelSpec, TensorSpec

Array = NDArray[np.generic]
Arrays = dict[str, Array]

_USUAL = 3.0  # magnitude of most inputs: what is normalised seldom exceeds it
_WHOLE = 10  # whole numbers without a limit: small ones, since nothing is known of them


def random_inputs(spec: ModelSpec, rows: int, steps: int, seed: int = 0, *, corners: bool = False) -> Arrays:
    """Inputs of so many sessions by their names in the graph, [rows, steps, *shape]; corners: floats at both ends of ranges."""
    rng = np.random.default_rng(seed)
    return {f"input.{each.name}": _values(each, (rows, steps, *each.shape), rng, corners=corners) for each in spec.inputs}


def initial_states(spec: ModelSpec, rows: int) -> Arrays:
    """The rows in which sessions begin, by their names in the graph: [rows, numbers]."""
    return {f"state.{part.dtype}": np.tile(part.initial, (rows, 1)) for part in state_rows(spec.states)}


def random_states(spec: ModelSpec, rows: int, seed: int = 0) -> Arrays:
    """The rows of sessions on their way: every other one begins with float states from -1 to 1. Whole numbers are as in the
    beginning, since they may be places in something."""
    states = initial_states(spec, rows)
    for name, values in states.items():
        if values.dtype == np.float32:
            states[name] = values.copy()
            states[name][1::2] = np.random.default_rng(seed).uniform(-1, 1, values[1::2].shape)
    return states


def at_step(inputs: Mapping[str, Array], step: int) -> Arrays:
    """The inputs of one step, [rows, 1, *shape]."""
    return {name: np.ascontiguousarray(values[:, step : step + 1]) for name, values in inputs.items()}


def carried_on(results: Mapping[str, Array]) -> Arrays:
    """The states of a launch's results, as the next launch takes them."""
    return {name.removeprefix("next_"): values for name, values in results.items() if name.startswith("next_state.")}


def _values(spec: TensorSpec, shape: tuple[int, ...], rng: np.random.Generator, *, corners: bool) -> Array:
    if spec.dtype == "bool":
        return rng.integers(0, 2, shape).astype(np.bool_)
    if spec.dtype != "float32":
        return rng.integers(0, spec.limit or _WHOLE, shape).astype(spec.dtype)
    widest = spec.range or _USUAL
    if corners:
        return (rng.choice((-1.0, 1.0), shape) * widest).astype(np.float32)
    return rng.uniform(-1, 1, shape).astype(np.float32) * np.float32(min(widest, _USUAL))
