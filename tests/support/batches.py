"""Sessions run on a backend by hand: given states, steps cut in given ways, what came out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stepstream_server.backends import build
from stepstream_server.config import BackendSettings
from stepstream_server.engine.ports import Backend
from stepstream_server.spec import ModelSpec

Arrays = list[NDArray[Any]]
States = dict[str, NDArray[Any]]


def random_states(spec: ModelSpec, rows: int, seed: int = 0) -> States:
    """States such as cells reach: [rows, *shape] in +-1."""
    rng = np.random.default_rng(seed)
    return {state.name: rng.uniform(-1, 1, (rows, *state.shape)).astype(np.float32) for state in spec.states}


def run(
    backend: Backend, states: States, inputs: Sequence[NDArray[Any]], cuts: Sequence[int], *, shift: int = 0
) -> tuple[Arrays, States]:
    """The sessions of `states` through `inputs` [rows, sum(cuts), *shape], one launch per cut.

    They sit, in reverse order, in slots after `shift` others. Returns outputs [rows, sum(cuts), width] and the final states.
    """
    rows = len(inputs[0])
    taken = backend.allocate(rows + shift)
    slots = taken[shift:][::-1].copy()
    backend.write(slots, states)
    parts, first = [], 0
    for length in cuts:
        chunk = tuple(np.ascontiguousarray(value[:, first : first + length]) for value in inputs)
        computed = backend.collect(backend.launch("step", slots, chunk, length))
        if computed.faults is not None:
            raise ValueError(f"rows have faults: {computed.faults}")
        parts.append(computed.outputs)
        first += length
    final = backend.read(slots)
    backend.release(taken)
    return [np.concatenate(steps, axis=1) for steps in zip(*parts, strict=True)], final


def served(spec: ModelSpec, weights: Mapping[str, NDArray[np.float32]], inputs: NDArray[Any]) -> Arrays:
    """New sessions on the backend of a CPU: inputs [rows, length, *shape] -> outputs of each head, [rows, length, width]."""
    rows, length = inputs.shape[:2]
    backend = build(spec, weights, BackendSettings(kind="onnx", threads=1), slots=rows, max_batch=rows)
    return run(backend, {state.name: np.zeros((rows, *state.shape), np.float32) for state in spec.states}, [inputs], [length])[0]


def rows_of(states: States, rows: NDArray[np.int64] | slice) -> States:
    """The states of some rows."""
    return {name: value[rows] for name, value in states.items()}
