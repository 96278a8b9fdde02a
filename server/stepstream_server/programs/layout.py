"""How the tensors of a launch lie in the arrays that a normalised graph takes and gives.

    input.{name}   [B, T, *shape]      state.{dtype}       [B, numbers of all states of the dtype]
    output.{name}  [B, T, *shape]      next_state.{dtype}  likewise

The graph of a cell takes T steps at once, that of a program one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from stepstream_server.spec import DType, ModelSpec, StateSpec

Rows = NDArray[np.generic]  # [B, numbers]

# Bytes of which the address of each array is a multiple, as of those that the runtime allocates. Numpy's are one of 16, and sums
# in kernels begin at the next whole vector: bits would depend on where an array happens to lie.
ALIGNMENT: Final = 64


class StateRows(NamedTuple):
    """States of one dtype, side by side in a row."""

    dtype: DType
    states: tuple[StateSpec, ...]

    @property
    def elements(self) -> int:
        """Numbers of a row."""
        return sum(state.elements for state in self.states)

    @property
    def initial(self) -> Rows:
        """The row in which a session begins, [numbers]."""
        return np.concatenate([state.initial_value.ravel() for state in self.states])


def state_rows(states: Sequence[StateSpec]) -> tuple[StateRows, ...]:
    """States by dtype, in the order in which dtypes are declared; within each in the order given."""
    parts = (StateRows(dtype, tuple(state for state in states if state.dtype == dtype)) for dtype in get_args(DType))
    return tuple(part for part in parts if part.states)


def feeds(spec: ModelSpec) -> list[str]:
    """Names of the arrays that a launch takes: inputs in the spec's order, then states by dtype."""
    return [*(f"input.{each.name}" for each in spec.inputs), *(f"state.{part.dtype}" for part in state_rows(spec.states))]


def results(spec: ModelSpec) -> list[str]:
    """Names of the arrays that a launch gives, in the order of `feeds`."""
    return [*(f"output.{each.name}" for each in spec.outputs), *(f"next_state.{part.dtype}" for part in state_rows(spec.states))]


def zeros(shape: tuple[int, ...], dtype: DType | np.dtype[Any]) -> NDArray[Any]:
    """An array that lies as those of a launch must."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    memory = np.zeros(size + ALIGNMENT, np.uint8)
    begin = -memory.ctypes.data % ALIGNMENT
    return memory[begin : begin + size].view(dtype).reshape(shape)


def row_bytes(spec: ModelSpec) -> int:
    """Bytes of one row of all arrays that a launch of one step takes and gives."""
    return 2 * spec.state_bytes + sum(each.step_bytes for each in (*spec.inputs, *spec.outputs))
