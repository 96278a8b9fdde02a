"""Operators whose bits depend on where a buffer ends: known beforehand, since a trial may miss a difference of one bit."""

from __future__ import annotations

import math
from typing import Final

import onnx

from stepstream_server.programs import walk

# Their vector code leaves the end of a buffer to scalar code, which rounds otherwise: found on onnxruntime 1.31 by
# scripts/buffer_end_operators.py.
OPERATORS: Final = frozenset(("Acos", "Asin", "Atan", "Cos", "Log", "Mish", "Sin", "Softplus"))
ROWS: Final = 8  # of which a multiple ends on a whole vector of those kernels, however wide a row is
_VECTOR = 16  # numbers: as many as the widest vectors of today's processors hold


def dependent_operator(graph: bytes) -> str:
    """The first operator of a normalised graph whose bits depend on how many rows there are; none: nothing.

    Those do not whose rows are whole vectors. Of a value whose shape cannot be told beforehand that is not known.
    """
    model = onnx.ModelProto.FromString(graph)
    operators = [node.op_type for node in walk.nodes(model.graph) if node.op_type in OPERATORS]
    outermost = [node for node in model.graph.node if node.op_type in OPERATORS]
    if not operators or len(operators) > len(outermost):  # no shape is known inside of a branch
        return operators[0] if operators else ""
    sizes = _row_sizes(model)
    return next((node.op_type for node in outermost if sizes.get(node.input[0], 1) % _VECTOR), "")


def _row_sizes(model: onnx.ModelProto) -> dict[str, int]:
    """Numbers of one row of the values whose shape can be told beforehand: all axes but one of the size B are known."""
    try:
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    except Exception:  # of its C++ code: then no shape is known
        return {}
    sizes = {}
    for info in inferred.graph.value_info:
        dims = info.type.tensor_type.shape.dim
        fixed = [dim.dim_value for dim in dims if dim.HasField("dim_value")]
        if info.type.tensor_type.HasField("shape") and len(dims) - len(fixed) == 1:
            sizes[info.name] = math.prod(fixed)
    return sizes
