"""Tensors as columns of a table: how the numbers of one step are named and ordered. Knows models, no files.

A tensor of one number is a column of its name; others have one column per number, in row-major order: `x[0]`, `x[1]`,
`y[0][2]`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stepstream import ModelInfo, TensorInfo
from stepstream.cli.faults import Misuse

Number = float | int
_LARGEST = float(np.finfo(np.float32).max)


def names_of(tensor: TensorInfo) -> list[str]:
    """The columns of one tensor."""
    if prod(tensor.shape) == 1:
        return [tensor.name]
    return [tensor.name + "".join(f"[{i}]" for i in index) for index in product(*map(range, tensor.shape))]


@dataclass(frozen=True, slots=True)
class Column:
    """One number of each step's inputs."""

    name: str
    tensor: TensorInfo

    def parsed(self, text: str) -> Number:
        """A cell as a number that the model accepts. Raises Misuse naming column, expected and actual."""
        try:
            return self.checked(float(text) if self._is_real else int(text))
        except ValueError:
            raise self._misfit(text) from None

    def checked(self, number: object) -> Number:
        """A number, if the model accepts it. Raises Misuse as `parsed` does."""
        if isinstance(number, bool) or not isinstance(number, (float, int) if self._is_real else int):
            raise self._misfit(number)
        lowest, highest = (-_LARGEST, _LARGEST) if self._is_real else (0, (self.tensor.limit or 2**63) - 1)
        if not lowest <= number <= highest:  # as is the case with nan
            raise self._misfit(number)
        return float(number) if self._is_real else number

    @property
    def _is_real(self) -> bool:
        return self.tensor.dtype.kind == "f"

    def _misfit(self, actual: object) -> Misuse:
        if self._is_real:
            expected = "a finite number"
        else:
            expected = f"a whole number >= 0 and < {self.tensor.limit}" if self.tensor.limit else "a whole number >= 0"
        return Misuse(f"{self.name}: expected {expected}, got {actual!r}")


def input_columns(model: ModelInfo) -> list[Column]:
    """The columns of a step's inputs, in the model's order."""
    return [Column(name, tensor) for tensor in model.inputs for name in names_of(tensor)]


def arrays(model: ModelInfo, steps: Sequence[Sequence[Number]]) -> dict[str, NDArray[Any]]:
    """Steps, each a row of numbers in the order of `input_columns`, as inputs by name: [T, *shape] each."""
    inputs: dict[str, NDArray[Any]] = {}
    first = 0
    for tensor in model.inputs:
        end = first + prod(tensor.shape)
        block = [row[first:end] for row in steps]
        inputs[tensor.name] = np.array(block, tensor.dtype).reshape(len(steps), *tensor.shape)
        first = end
    return inputs


@dataclass(frozen=True, slots=True)
class Chosen:
    """An output, or one number of it, that is wanted."""

    name: str
    tensor: TensorInfo
    position: int | None = None  # of the one number, in row-major order; None: all of them

    @property
    def columns(self) -> list[str]:
        """Its columns."""
        return names_of(self.tensor) if self.position is None else [self.name]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one step's value."""
        return self.tensor.shape if self.position is None else ()

    def numbers(self, outputs: NDArray[Any]) -> NDArray[Any]:
        """[T, *shape] as [T, columns]."""
        flat = outputs.reshape(len(outputs), -1)
        return flat if self.position is None else flat[:, self.position : self.position + 1]


def chosen(model: ModelInfo, wanted: Iterable[str]) -> list[Chosen]:
    """The outputs of these names (`next`, or a number of one, `next[10]`); without any, all. Raises Misuse for others."""
    offered = {tensor.name: Chosen(tensor.name, tensor) for tensor in model.outputs}
    for tensor in model.outputs:
        for position, name in enumerate(names_of(tensor)):
            offered.setdefault(name, Chosen(name, tensor, position))
    names = list(wanted) or [tensor.name for tensor in model.outputs]
    for name in names:
        if name not in offered:
            tensors = ", ".join(tensor.name + "".join(f"[{n}]" for n in tensor.shape) for tensor in model.outputs)
            raise Misuse(f"--outputs: expected names among {tensors}, got {name!r}")
    return [offered[name] for name in names]
