"""Refuses graphs that cannot be served as step functions, and manifests that say of a graph what it does not have."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import get_args

import numpy as np
import onnx
from onnx import helper

from stepstream_server.errors import BundleError
from stepstream_server.programs import operators, walk
from stepstream_server.spec import DType, ModelSpec, Program

_MOST_NODES = 100_000  # a thousand times those of the largest step function seen; each costs a step half a microsecond


def screen(model: onnx.ModelProto, spec: ModelSpec, file: str) -> None:
    """Raises BundleError naming `file` and the node or tensor at fault. model: as `read.read` gives it. spec: of a program."""
    screen_operators(model, file)
    for tensor, dtype, shape, batch_axis in _read(spec):
        info = _info(model.graph.input, tensor, "an input", file)
        _check_dtype(info, dtype, file)
        _check_shape(info, shape, batch_axis, file)
    for tensor, dtype in _written(spec):  # exporters declare poor shapes of outputs: a trial run finds them
        _check_dtype(_info(model.graph.output, tensor, "an output", file), dtype, file)
    _check_sizes(model, {tensor for tensor, _, _, batch_axis in _read(spec) if batch_axis is not None}, file)
    known = {tensor for tensor, *_ in _read(spec)}
    for name in fed(model):
        if name not in known:
            raise BundleError(
                f"{file}: input {name[:100]!r}: expected it among the manifest's inputs, states or constants, got none"
            )


def screen_operators(model: onnx.ModelProto, file: str) -> None:
    """Raises BundleError for operators that cannot be served, whatever a manifest says."""
    opset = next((each.version for each in model.opset_import if each.domain in ("", "ai.onnx")), 0)
    if opset < operators.LEAST_OPSET:
        remedy = f"onnx.version_converter.convert_version(model, {operators.LEAST_OPSET}) converts it"
        raise BundleError(f"{file}: opset: expected {operators.LEAST_OPSET} or later, got {opset}; {remedy}")
    count = 0
    for node in walk.nodes(model.graph):
        count += 1
        where = f"{file}: node {(node.name or node.op_type)[:100]!r}"
        if node.domain not in operators.DOMAINS:
            raise BundleError(f"{where}: expected an operator of ONNX or com.microsoft, got one of {node.domain[:100]!r}")
        if why := operators.REFUSED.get(node.op_type):
            raise BundleError(f"{where}: {node.op_type} is not served: {why}")
        if node.op_type == "Dropout" and len(node.input) > 2 and node.input[2]:
            raise BundleError(
                f"{where}: expected a Dropout without training_mode, got one with it; export the model in eval mode"
            )
    if count > _MOST_NODES:
        raise BundleError(f"{file}: expected at most {_MOST_NODES} nodes, got {count}")


def _check_sizes(model: onnx.ModelProto, varying: set[str], file: str) -> None:
    """Refuses outputs whose sizes follow from values that callers send or states hold. varying: these values; shapes are none."""
    for node in walk.nodes(model.graph):
        sizes = [node.input[place] for place in operators.SIZED.get(node.op_type, ()) if place < len(node.input)]
        if not varying.isdisjoint(sizes):
            where = f"{file}: node {(node.name or node.op_type)[:100]!r}"
            raise BundleError(f"{where}: expected sizes that do not depend on inputs or states, got {node.op_type} by values")
        if node.op_type not in ("Shape", "Size") and not varying.isdisjoint(node.input):
            varying |= set(node.output)


def fed(model: onnx.ModelProto) -> list[str]:
    """Names of the inputs that have no value of their own in the graph."""
    own = {tensor.name for tensor in model.graph.initializer}
    own |= {tensor.values.name for tensor in model.graph.sparse_initializer}
    return [info.name for info in model.graph.input if info.name not in own]


def dtype_of(info: onnx.ValueInfoProto) -> str:
    """The dtype of an input or output, as numpy names it; its type in words if it is no tensor of numbers."""
    kind = info.type.WhichOneof("value")
    if kind != "tensor_type":
        return kind or "an unknown type"
    try:
        return np.dtype(helper.tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type)).name
    except (KeyError, TypeError):
        return "an unknown element type"


def _read(spec: ModelSpec) -> Iterator[tuple[str, str, tuple[int, ...], int | None]]:
    """Tensor, dtype, shape, and batch axis if it has one, of the graph's inputs by the manifest."""
    program = program_of(spec)
    for tensor, place, carry in zip(spec.inputs, program.inputs, program.carry, strict=True):
        yield place.tensor, tensor.dtype, carried(tensor.shape, carry), place.batch_axis
    for state, where in zip(spec.states, program.states, strict=False):
        yield where.read, state.dtype, state.shape, where.batch_axis
    for constant in program.constants:
        yield constant.tensor, constant.dtype, constant.shape, None


def _written(spec: ModelSpec) -> Iterator[tuple[str, str]]:
    """Tensor and dtype of the graph's outputs by the manifest."""
    program = program_of(spec)
    for tensor, place in zip(spec.outputs, program.outputs, strict=True):
        yield place.tensor, tensor.dtype
    for state, where in zip(spec.states, program.states, strict=False):
        yield where.written, state.dtype


def carried(shape: tuple[int, ...], carry: int) -> tuple[int, ...]:
    """The shape that the graph sees of an input of which `carry` values stand in front of the next ones."""
    return (shape[0] + carry, *shape[1:]) if carry else shape


def program_of(spec: ModelSpec) -> Program:
    """The computation of a model that is a program. Raises TypeError for a cell."""
    if not isinstance(spec.computation, Program):
        raise TypeError(f"model {spec.name} is a cell, not a program")
    return spec.computation


def _info(infos: Sequence[onnx.ValueInfoProto], name: str, what: str, file: str) -> onnx.ValueInfoProto:
    for info in infos:
        if info.name == name:
            return info
    names = ", ".join(repr(info.name[:50]) for info in list(infos)[:20])
    raise BundleError(f"{file}: {name!r}: expected {what} of the graph, which are {names}")


def _check_dtype(info: onnx.ValueInfoProto, dtype: str, file: str) -> None:
    found = dtype_of(info)
    if found != dtype:
        remedy = (
            "" if found in get_args(DType) else f"; steps take and give {', '.join(get_args(DType))}: put a Cast into the graph"
        )
        raise BundleError(f"{file}: {info.name!r}: expected {found}, as the graph declares, got {dtype} in the manifest{remedy}")


def _check_shape(info: onnx.ValueInfoProto, shape: tuple[int, ...], batch_axis: int | None, file: str) -> None:
    """Compares the shape of an input with the one that the graph declares, as far as it does."""
    if not info.type.tensor_type.HasField("shape"):
        return
    declared = [dim.dim_value if dim.HasField("dim_value") else None for dim in info.type.tensor_type.shape.dim]
    wanted: list[int | None] = list(shape)
    if batch_axis is not None:
        wanted.insert(batch_axis, None)
    fits = len(declared) == len(wanted) and all(
        one in ((None, 1) if axis == batch_axis else (None, other))
        for axis, (one, other) in enumerate(zip(declared, wanted, strict=True))
    )
    if not fits and not (batch_axis is None and math.prod(shape) == 1):  # one number may stand as a scalar or in an axis of one
        shown = ["B" if axis == batch_axis else size for axis, size in enumerate(wanted)]
        graph = ["?" if size is None else size for size in declared]
        raise BundleError(
            f"{file}: {info.name!r}: expected the shape {graph}, as the graph declares, got {shown} in the manifest"
        )
