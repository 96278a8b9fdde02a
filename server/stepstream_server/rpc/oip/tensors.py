"""Tensors of the protocol: names of types, elements raw or listed, and numpy arrays."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stepstream_proto.oip.v2 import oip_pb2
from stepstream_server.errors import CallerError, Reason
from stepstream_server.rpc.columns import I64, WIRE_TYPES

_BOOL = np.dtype("?")
_ELEMENTS: dict[str, tuple[np.dtype[Any], str]] = {  # type of the elements, and where they are listed if they are
    "FP32": (WIRE_TYPES["float32"], "fp32_contents"),
    "INT64": (I64, "int64_contents"),
    "BOOL": (_BOOL, "bool_contents"),
}
_LENGTH_BYTES = 4  # stand before each element of BYTES
_ELSEWHERE = "shared_memory_region"  # a parameter: the elements lie in memory that the server was to map

InputTensor = oip_pb2.ModelInferRequest.InferInputTensor


class Input:
    """One input of a request; its elements are looked at when somebody asks for them."""

    __slots__ = ("_raw", "_tensor", "datatype", "name", "shape")

    def __init__(self, tensor: InputTensor, raw: bytes | None) -> None:
        self.name = tensor.name
        self.datatype = tensor.datatype
        self.shape = tuple(tensor.shape)
        self._tensor = tensor
        self._raw = raw

    def array(self, datatype: str) -> NDArray[Any]:
        """Its elements [*shape], as FP32, INT64 or BOOL. Raises CallerError(INVALID_ARGUMENT)."""
        self._expect(datatype)
        dtype, listed = _ELEMENTS[datatype]
        if self._raw is None:
            values = np.array(getattr(self._tensor.contents, listed), dtype)
            self._check_size(len(values), math.prod(self.shape), "elements")
        else:
            self._check_size(len(self._raw), math.prod(self.shape) * dtype.itemsize, "bytes")
            values = np.frombuffer(self._raw, dtype)
        return values.reshape(self.shape)

    def strings(self) -> list[str]:
        """Its elements, as BYTES. Raises CallerError(INVALID_ARGUMENT)."""
        self._expect("BYTES")
        elements = list(self._tensor.contents.bytes_contents) if self._raw is None else _split(self.name, self._raw)
        self._check_size(len(elements), math.prod(self.shape), "elements")
        try:
            return [element.decode() for element in elements]
        except UnicodeDecodeError as error:
            raise wrong(self.name, f"expected UTF-8, got {error.object[:50]!r}") from error

    def _expect(self, datatype: str) -> None:
        if self.datatype != datatype:
            raise wrong(self.name, f"expected datatype {datatype}, got {self.datatype!r}")
        if min(self.shape, default=0) < 0:
            raise wrong(self.name, f"shape: expected sizes of 0 or more, got {list(self.shape)}")

    def _check_size(self, actual: int, expected: int, what: str) -> None:
        if actual != expected:
            raise wrong(self.name, f"expected {expected} {what} for shape {list(self.shape)}, got {actual}")


def read_inputs(request: oip_pb2.ModelInferRequest) -> dict[str, Input]:
    """By name, none of them twice. Raises CallerError."""
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise CallerError(
            Reason.INVALID_ARGUMENT,
            f"raw_input_contents: expected one for each of {len(request.inputs)} inputs, got {len(raw)}",
            field="raw_input_contents",
        )
    inputs: dict[str, Input] = {}
    for index, tensor in enumerate(request.inputs):
        if tensor.parameters and _ELSEWHERE in tensor.parameters:
            message = f"inputs[{tensor.name}]: shared memory is not offered; send the elements in the request"
            raise CallerError(Reason.NOT_IMPLEMENTED, message, field=f"inputs[{tensor.name}]")
        if tensor.name in inputs:
            raise wrong(tensor.name, "expected once, got it twice")
        inputs[tensor.name] = Input(tensor, raw[index] if raw else None)
    return inputs


def encode_strings(strings: Sequence[str]) -> bytes:
    """Raw elements of a BYTES tensor."""
    elements = [each.encode() for each in strings]
    return b"".join([len(element).to_bytes(_LENGTH_BYTES, "little") + element for element in elements])


def wrong(name: str, problem: str) -> CallerError:
    """An error of one input."""
    return CallerError(Reason.INVALID_ARGUMENT, f"inputs[{name}]: {problem}", field=f"inputs[{name}]")


def _split(name: str, raw: bytes) -> list[bytes]:
    """Elements that stand behind their lengths."""
    elements, position = [], 0
    while position < len(raw):
        start = position + _LENGTH_BYTES
        position = start + int.from_bytes(raw[position:start], "little")
        if start > len(raw) or position > len(raw):
            raise wrong(name, f"expected elements behind their lengths, got one that ends beyond the {len(raw)} bytes")
        elements.append(raw[start:position])
    return elements
