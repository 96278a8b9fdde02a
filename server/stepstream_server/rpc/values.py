"""Plain numbers of a unary step: name -> `Values`, and the arrays of the engine port."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from stepstream_proto.v1 import inference_pb2
from stepstream_server.engine.ports import Keep, Tensor
from stepstream_server.errors import CallerError, Reason
from stepstream_server.rpc.columns import WIRE_TYPES
from stepstream_server.spec import ModelSpec, TensorSpec

_EXACT = 2.0**53  # beyond it a double skips integers
_NUMBER_BYTES = 8  # of one number on the wire
_MESSAGE_BYTES = 1024  # of an answer beside its numbers, generously: names of outputs, counts


def decode_values(inputs: Mapping[str, inference_pb2.Values], spec: ModelSpec) -> tuple[int, tuple[Tensor, ...]]:
    """Steps, and one tensor [steps, *shape] per declared input. Raises CallerError that names the input."""
    declared = [each.name for each in spec.inputs]
    for name in inputs:
        if name not in declared:
            raise _wrong(name, f"expected only {', '.join(declared)}, got an input called {name!r}")
    tensors = tuple(_decode_input(inputs, each) for each in spec.inputs)
    steps = len(tensors[0])
    for each, tensor in zip(spec.inputs, tensors, strict=True):
        if len(tensor) != steps:
            raise _wrong(each.name, f"expected {steps} steps as in {declared[0]}, got {len(tensor)}")
    return steps, tensors


def check_answer(spec: ModelSpec, steps: int, keep: Keep, most: int) -> None:
    """Raises CallerError(BLOCK_TOO_LARGE) where the answer would be more than a message can carry: never run the steps."""
    kept = {Keep.ALL: steps, Keep.LAST: 1, Keep.NONE: 0}[keep]
    expected = kept * sum(output.elements for output in spec.outputs) * _NUMBER_BYTES + _MESSAGE_BYTES
    if expected > most:
        message = f"outputs: expected an answer of at most {most} bytes, {kept} steps' would take {expected}"
        raise CallerError(Reason.BLOCK_TOO_LARGE, message, field="outputs")


def encode_values(outputs: Sequence[bytes], spec: ModelSpec) -> dict[str, inference_pb2.Values]:
    """outputs: little-endian [steps kept, *shape] each."""
    return {
        each.name: inference_pb2.Values(numbers=np.frombuffer(data, WIRE_TYPES[each.dtype]).tolist())
        for each, data in zip(spec.outputs, outputs, strict=True)
    }


def _decode_input(inputs: Mapping[str, inference_pb2.Values], spec: TensorSpec) -> Tensor:
    if spec.name not in inputs:
        raise _wrong(spec.name, f"missing; expected {spec.elements} numbers per step")
    numbers = np.array(inputs[spec.name].numbers, np.float64)
    if not len(numbers) or len(numbers) % spec.elements:
        raise _wrong(spec.name, f"expected a multiple of {spec.elements} numbers, one step or more, got {len(numbers)}")
    shaped = numbers.reshape(-1, *spec.shape)
    return _floats(shaped) if spec.dtype == "float32" else _integers(spec.name, shaped)


def _floats(numbers: NDArray[np.float64]) -> Tensor:
    with np.errstate(over="ignore"):  # becomes infinite, which the engine refuses by name
        return numbers.astype(np.float32)


def _integers(name: str, numbers: NDArray[np.float64]) -> Tensor:
    if not ((numbers == np.floor(numbers)) & (np.abs(numbers) <= _EXACT)).all():
        raise _wrong(name, "expected whole numbers below 2^53")
    return numbers.astype(np.int64)


def _wrong(name: str, problem: str) -> CallerError:
    field = f"inputs[{name}]"
    return CallerError(Reason.INVALID_ARGUMENT, f"{field}: {problem}", field=field)
