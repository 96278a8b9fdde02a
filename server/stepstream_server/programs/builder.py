"""Nodes and initialisers of a graph in ONNX under construction; every value is known by its name."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper


class GraphBuilder:
    """Adds nodes one behind the other."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initialisers: list[onnx.TensorProto] = []

    def constant(self, value: NDArray[np.generic] | list[int]) -> str:
        """An initialiser; a list is int64, as axes and indices have to be."""
        name = f"constant.{len(self.initialisers)}"
        self.initialisers.append(numpy_helper.from_array(np.asarray(value, order="C"), name))
        return name

    def add(self, operator: str, *inputs: str, outputs: int = 1, **attributes: Any) -> list[str]:
        """A node; returns the names of its outputs."""
        names = [f"{operator}.{len(self.nodes)}.{index}" for index in range(outputs)]
        self.nodes.append(helper.make_node(operator, list(inputs), names, **attributes))
        return names

    def apply(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """A node with one output; returns its name."""
        return self.add(operator, *inputs, **attributes)[0]

    def publish(self, value: str, name: str) -> None:
        """Gives a value a name that others know, as an output of the graph has."""
        self.nodes.append(helper.make_node("Identity", [value], [name]))
