"""Brings the graph of a program into the shape in which the backend computes cells too: see `layout`.

The brought nodes stand in the middle as they are, under names of their own. In front of them states are split and every tensor is
brought into the shape that they expect; behind them it is brought back, with the batch in front. Operators and their meaning:
https://onnx.ai/onnx/operators.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, MutableSequence

import numpy as np
import onnx
from onnx import helper

from stepstream_server.programs import operators, walk
from stepstream_server.programs.builder import GraphBuilder
from stepstream_server.programs.layout import state_rows
from stepstream_server.programs.screen import carried, program_of
from stepstream_server.spec import Constant, ModelSpec, TensorSpec

IR_VERSION = 10  # onnx writes 14 by default, which onnxruntime 1.31 refuses
_BROUGHT = "brought/"  # stands before every name of the graph, so that none is taken twice

Parts = dict[str, str]  # a state's name -> its value [B, numbers]


def normalise(model: onnx.ModelProto, spec: ModelSpec) -> bytes:
    """A model that was screened, as the backend runs it. `model` is not changed."""
    graph, program = GraphBuilder(), program_of(spec)
    _keep_apart(brought := _copy(model.graph))
    before = _split(graph, spec)
    after: Parts = {}
    for tensor, place, carry in zip(spec.inputs, program.inputs, program.carry, strict=True):
        value = f"input.{tensor.name}"
        if carry:
            value, after[f"carry.{tensor.name}"] = _carry(graph, tensor, carry, value, before[f"carry.{tensor.name}"])
        shaped = _to_graph(graph, value, carried(tensor.shape, carry), place.batch_axis)
        graph.publish(shaped, _BROUGHT + place.tensor)
    for state, where in zip(spec.states, program.states, strict=False):
        graph.publish(_to_graph(graph, before[state.name], state.shape, where.batch_axis), _BROUGHT + where.read)
    graph.nodes.extend(brought.node)
    for state, where in zip(spec.states, program.states, strict=False):
        after[state.name] = _from_graph(graph, _BROUGHT + where.written, state.shape, where.batch_axis, [state.elements])
    for tensor, place in zip(spec.outputs, program.outputs, strict=True):
        value = _from_graph(graph, _BROUGHT + place.tensor, tensor.shape, place.batch_axis, [1, *tensor.shape])
        graph.publish(value, f"output.{tensor.name}")
        if f"last.{tensor.name}" in before:
            after[f"last.{tensor.name}"] = graph.apply("Reshape", value, graph.constant([-1, tensor.elements]))
    _join(graph, spec, after)
    graph.initialisers += [_initialiser(constant) for constant in program.constants]
    given = {name for node in graph.nodes for name in node.output} | {each.name for each in graph.initialisers}
    graph.initialisers += [each for each in brought.initializer if each.name not in given]  # else it is an input's default
    return _model(graph, spec, model, brought.sparse_initializer)


def _copy(graph: onnx.GraphProto) -> onnx.GraphProto:
    copy = onnx.GraphProto()
    copy.CopyFrom(graph)
    return copy


def _keep_apart(graph: onnx.GraphProto) -> None:
    """Puts all names of a graph, and of those inside of it, behind a prefix, and forgets the shapes that it declares."""
    walk.forget_shapes(graph)
    for each in walk.graphs(graph):
        for node in each.node:
            node.name = ""
            _prefix_all(node.input)
            _prefix_all(node.output)
        for initialiser in each.initializer:
            initialiser.name = _BROUGHT + initialiser.name
        for sparse in each.sparse_initializer:
            sparse.values.name = _BROUGHT + sparse.values.name
        for info in (*each.input, *each.output):
            info.name = _BROUGHT + info.name
        del each.quantization_annotation[:]


def _prefix_all(names: MutableSequence[str]) -> None:
    for place, name in enumerate(names):
        if name:  # an empty one is an input that is left out
            names[place] = _BROUGHT + name


def _split(graph: GraphBuilder, spec: ModelSpec) -> Parts:
    """The rows of states as each state's own value [B, numbers]."""
    parts: Parts = {}
    for rows in state_rows(spec.states):
        names = [state.name for state in rows.states]
        if len(names) == 1:
            parts[names[0]] = f"state.{rows.dtype}"
        else:
            sizes = graph.constant([state.elements for state in rows.states])
            parts |= zip(names, graph.add("Split", f"state.{rows.dtype}", sizes, outputs=len(names), axis=1), strict=True)
    return parts


def _join(graph: GraphBuilder, spec: ModelSpec, after: Parts) -> None:
    """The states' new values as rows."""
    for rows in state_rows(spec.states):
        values = [after[state.name] for state in rows.states]
        graph.publish(values[0] if len(values) == 1 else graph.apply("Concat", *values, axis=1), f"next_state.{rows.dtype}")


def _carry(graph: GraphBuilder, tensor: TensorSpec, carry: int, value: str, before: str) -> tuple[str, str]:
    """An input [B, 1, *shape] with the values carried over in front, [B, carry + shape[0], *rest], and what is carried on,
    [B, numbers]."""
    rest = tensor.shape[1:]
    earlier = graph.apply("Reshape", before, graph.constant([-1, carry, *rest]))
    now = graph.apply("Reshape", value, graph.constant([-1, *tensor.shape]))
    joined = graph.apply("Concat", earlier, now, axis=1)
    end = graph.constant([np.iinfo(np.int64).max])
    last = graph.apply("Slice", joined, graph.constant([-carry]), end, graph.constant([1]))
    return joined, graph.apply("Reshape", last, graph.constant([-1, carry * math.prod(rest)]))


def _to_graph(graph: GraphBuilder, value: str, shape: tuple[int, ...], batch_axis: int) -> str:
    """A value with the batch in front, of any shape, as the brought graph takes it."""
    if _stays_in_front(shape, batch_axis):
        return graph.apply("Reshape", value, graph.constant([*shape[:batch_axis], -1, *shape[batch_axis:]]))
    in_front = graph.apply("Reshape", value, graph.constant([-1, *shape]))
    axes = range(1, len(shape) + 1)
    return graph.apply("Transpose", in_front, perm=[*axes[:batch_axis], 0, *axes[batch_axis:]])


def _from_graph(graph: GraphBuilder, value: str, shape: tuple[int, ...], batch_axis: int, wanted: list[int]) -> str:
    """A value of the brought graph as [B, *wanted]."""
    if not _stays_in_front(shape, batch_axis):
        others = [axis for axis in range(len(shape) + 1) if axis != batch_axis]
        value = graph.apply("Transpose", value, perm=[batch_axis, *others])
    return graph.apply("Reshape", value, graph.constant([-1, *wanted]))


def _stays_in_front(shape: tuple[int, ...], batch_axis: int) -> bool:
    """Tells whether rows of a batch lie one behind the other in memory though their axis may not be the first one."""
    return math.prod(shape[:batch_axis]) == 1


def _initialiser(constant: Constant) -> onnx.TensorProto:
    value = np.array(constant.value, constant.dtype).reshape(constant.shape)
    return onnx.numpy_helper.from_array(value, _BROUGHT + constant.tensor)


def _model(graph: GraphBuilder, spec: ModelSpec, brought: onnx.ModelProto, sparse: Iterable[onnx.SparseTensorProto]) -> bytes:
    rows = state_rows(spec.states)
    inputs = [_info(f"input.{each.name}", each.dtype, [1, *each.shape]) for each in spec.inputs]
    inputs += [_info(f"state.{each.dtype}", each.dtype, [each.elements]) for each in rows]
    outputs = [_info(f"output.{each.name}", each.dtype, [1, *each.shape]) for each in spec.outputs]
    outputs += [_info(f"next_state.{each.dtype}", each.dtype, [each.elements]) for each in rows]
    proto = helper.make_graph(graph.nodes, "program", inputs, outputs, graph.initialisers, sparse_initializer=list(sparse))
    opsets = [each for each in brought.opset_import if each.domain in operators.DOMAINS]  # others may be named and never used
    model: bytes = helper.make_model(proto, opset_imports=opsets, ir_version=IR_VERSION).SerializeToString()
    return model


def _info(name: str, dtype: str, shape: list[int]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), ["B", *shape])
