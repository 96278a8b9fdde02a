"""Builds the ONNX graph of one batch out of a spec and its weights. Knows ONNX, not the runtime that computes it.

The graph is `front -> one recurrent node per layer -> heads`, for T steps of B sessions:

    input.{name}   [B, T, *shape]           state.float32       [B, numbers of all states]
    output.{name}  [B, T, width] float32    next_state.float32  likewise

Operators and their equations: https://onnx.ai/onnx/operators (LSTM, GRU, RNN).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from stepstream_server.programs.builder import GraphBuilder
from stepstream_server.programs.normalise import IR_VERSION
from stepstream_server.spec import CellKind, EmbeddingFront, FeaturesFront, HeadSpec, ModelSpec, cell_model

OPSET = 22  # the newest that onnxruntime 1.31 and its predecessors of a year all read
STATE = "state.float32"  # a cell has states of no other dtype

Weights = Mapping[str, NDArray[np.float32]]
Parts = dict[str, list[str]]  # a state's name -> names of its parts, one per layer of h and c

_OPERATOR: dict[CellKind, str] = {"lstm": "LSTM", "gru": "GRU", "rnn": "RNN"}
# ONNX's order of gates as positions in torch's: i, o, f, c out of i, f, g, o; z, r, h out of r, z, n.
_GATES: dict[CellKind, tuple[int, ...]] = {"lstm": (0, 3, 1, 2), "gru": (1, 0, 2), "rnn": (0,)}


def build_graph(spec: ModelSpec, weights: Weights) -> onnx.ModelProto:
    """`spec` as a model whose weights are initialisers: onnxruntime then packs them once, and its results do not depend on
    the batch. The weights must fit the spec, which the bundle's loading has checked.

    Inside, everything is time-major as the operators want it, and a state is [1, B, width]: few nodes, since each costs
    a lone session about half a microsecond.
    """
    graph = GraphBuilder()
    axis = graph.constant([0])
    values = {x.name: graph.apply("Transpose", f"input.{x.name}", perm=[1, 0, 2][: 2 + len(x.shape)]) for x in spec.inputs}
    states = _split(graph, spec, graph.apply("Unsqueeze", STATE, axis))
    features, after = _front(graph, spec, weights, values[spec.inputs[0].name], states)
    top, cell_after = _cell(graph, spec, weights, features, states)
    after |= cell_after
    for head in spec.heads:
        output = _head(graph, head, weights, top, values)
        after[f"last.{head.name}"] = [_last(graph, output)]
        graph.publish(graph.apply("Transpose", output, perm=[1, 0, 2]), f"output.{head.name}")
    row = graph.apply("Concat", *(part for state in spec.states for part in after[state.name]), axis=2)
    graph.publish(graph.apply("Squeeze", row, axis), f"next_{STATE}")
    return _model(graph, spec)


def _split(graph: GraphBuilder, spec: ModelSpec, row: str) -> Parts:
    """A state row [1, B, elements] -> each state's parts, [1, B, last axis of the state]: one per layer of h and c."""
    widths = {state.name: [state.shape[-1]] * (state.elements // state.shape[-1]) for state in spec.states}
    sizes = [width for parts in widths.values() for width in parts]
    parts = iter(graph.add("Split", row, graph.constant(sizes), outputs=len(sizes), axis=2))
    return {name: [next(parts) for _ in widths[name]] for name in widths}


def _front(graph: GraphBuilder, spec: ModelSpec, weights: Weights, value: str, states: Parts) -> tuple[str, Parts]:
    """An input [T, B, *shape] -> features [T, B, input_size], and what the front remembers."""
    after: Parts = {}
    front = cell_model(spec).front
    if isinstance(front, EmbeddingFront):
        return graph.apply("Gather", graph.constant(weights["embedding.weight"]), value), after
    if isinstance(front, FeaturesFront):
        if front.differences:
            after["previous"] = [_last(graph, value)]
            value = _differences(graph, value, states["previous"][0])
        value = graph.apply("Sub", value, graph.constant(np.asarray(front.mean, np.float32)))
        value = graph.apply("Div", value, graph.constant(np.asarray(front.scale, np.float32)))
    return value, after


def _differences(graph: GraphBuilder, value: str, previous: str) -> str:
    """[T, B, F] -> [T, B, 2F], the values followed by their changes since `previous` [1, B, F]."""
    earlier = graph.apply("Concat", previous, value, axis=0)  # [T + 1, B, F]
    earlier = graph.apply("Slice", earlier, graph.constant([0]), graph.constant([-1]), graph.constant([0]))  # [T, B, F]
    return graph.apply("Concat", value, graph.apply("Sub", value, earlier), axis=2)


def _last(graph: GraphBuilder, value: str) -> str:
    """[T, B, width] -> the last step's, [1, B, width]."""
    return graph.apply("Gather", value, graph.constant([-1]), axis=0)


def _cell(graph: GraphBuilder, spec: ModelSpec, weights: Weights, features: str, states: Parts) -> tuple[str, Parts]:
    """Features [T, B, input_size] -> top layer's h [T, B, H], and the cell's new states."""
    cell = cell_model(spec).cell
    names = ["h", "c"] if cell.kind == "lstm" else ["h"]
    after: Parts = {name: [] for name in names}
    options: dict[str, Any] = {"linear_before_reset": 1} if cell.kind == "gru" else {}
    for layer in range(cell.layers):
        initial = [states[name][layer] for name in names]
        packed = _layer_weights(graph, weights, cell.kind, layer)
        every, *final = graph.add(
            _OPERATOR[cell.kind], features, *packed, "", *initial, outputs=1 + len(names), hidden_size=cell.hidden_size, **options
        )
        features = graph.apply("Squeeze", every, graph.constant([1]))  # [T, 1, B, H] -> [T, B, H]
        for name, value in zip(names, final, strict=True):
            after[name].append(value)
    return features, after


def _layer_weights(graph: GraphBuilder, weights: Weights, kind: CellKind, layer: int) -> list[str]:
    """W [1, gates * H, inputs], R [1, gates * H, H] and B [1, 2 * gates * H] in ONNX's order of gates."""

    def reordered(name: str) -> NDArray[np.float32]:
        gates = np.split(weights[f"cell.{name}_l{layer}"], len(_GATES[kind]))
        return np.concatenate([gates[index] for index in _GATES[kind]])

    bias = np.concatenate([reordered("bias_ih"), reordered("bias_hh")])
    return [graph.constant(value[None]) for value in (reordered("weight_ih"), reordered("weight_hh"), bias)]


def _head(graph: GraphBuilder, head: HeadSpec, weights: Weights, top: str, values: Mapping[str, str]) -> str:
    """Top layer's h [T, B, H] -> output [T, B, width]. `scale` and `offset` are folded into the weights, in float64."""
    weight = weights[f"head.{head.name}.weight"].T * np.float64(head.scale)  # [H, width]
    bias = weights[f"head.{head.name}.bias"] * np.float64(head.scale) + head.offset
    value = graph.apply("MatMul", top, graph.constant(weight.astype(np.float32)))
    value = graph.apply("Add", value, graph.constant(bias.astype(np.float32)))
    if head.residual_of:
        first = graph.apply("Gather", values[head.residual_of], graph.constant([0]), axis=2)  # [T, B, 1]
        value = graph.apply("Add", value, first)
    if head.kind == "quantiles":
        value = graph.add("TopK", value, graph.constant([head.width]), outputs=2, axis=2, largest=0, sorted=1)[0]
    return value


def _model(graph: GraphBuilder, spec: ModelSpec) -> onnx.ModelProto:
    types = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64}
    info = helper.make_tensor_value_info
    inputs = [info(f"input.{x.name}", types[x.dtype], ["B", "T", *x.shape]) for x in spec.inputs]
    outputs = [info(f"output.{x.name}", types[x.dtype], ["B", "T", *x.shape]) for x in spec.outputs]
    elements = sum(each.elements for each in spec.states)
    state = [info(name, TensorProto.FLOAT, ["B", elements]) for name in (STATE, f"next_{STATE}")]
    proto = helper.make_graph(graph.nodes, spec.name, [*inputs, state[0]], [*outputs, state[1]], graph.initialisers)
    return helper.make_model(proto, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
