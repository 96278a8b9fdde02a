"""Goes through all parts of a graph in ONNX, graphs inside of nodes included."""

from __future__ import annotations

from collections.abc import Iterator

import onnx


def graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graph, and every graph inside of it."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in [attribute.g] if attribute.HasField("g") else attribute.graphs:
                yield from graphs(inner)


def nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Every node of the graph and of those inside of it."""
    for each in graphs(graph):
        yield from each.node


def forget_shapes(graph: onnx.GraphProto) -> None:
    """Takes away the shapes that a graph and those inside of it declare: some hold for one session only."""
    for each in graphs(graph):
        for info in (*each.input, *each.output):
            if info.type.HasField("tensor_type"):
                info.type.tensor_type.ClearField("shape")
        del each.value_info[:]


def tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every tensor whose values stand in the model, or beside it."""
    for graph in graphs(model.graph):
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
    for each in (*nodes(model.graph), *(node for function in model.functions for node in function.node)):
        for attribute in each.attribute:
            yield from (attribute.t, *attribute.tensors)
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)
