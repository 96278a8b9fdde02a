"""Elements of a request's input tensors, raw or listed; and what many messages have: versions, counts, datatypes, shapes."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import numpy as np

from stepstream_proto.oip.v2 import oip_pb2
from stepstream_server.errors import CallerError, Reason
from stepstream_server.rpc.columns import I64, WIRE_TYPES, check_bools
from stepstream_server.spec import DType

DATATYPES: dict[DType, str] = {
    "float32": "FP32",
    "int32": "INT32",
    "int64": "INT64",
    "bool": "BOOL",
}  # as requests and metadata name them
_VERSION = re.compile(r"[1-9][0-9]{0,8}")
_SHOWN = 32  # characters of a wrong version that its error repeats
# Whole numbers of all sizes, in which clients may send those of any, and where they are if not raw.
_INTEGERS = {
    "INT64": (I64, "int64_contents"),
    **{f"INT{bits}": (np.dtype(f"<i{bits // 8}"), "int_contents") for bits in (8, 16, 32)},
    **{f"UINT{bits}": (np.dtype(f"<u{bits // 8}"), "uint_contents") for bits in (8, 16, 32)},
    "UINT64": (np.dtype("<u8"), "uint64_contents"),
}
TAKEN: dict[DType, tuple[str, ...]] = {  # from requests
    "float32": ("FP32",),
    "int32": tuple(_INTEGERS),
    "int64": tuple(_INTEGERS),
    "bool": ("BOOL",),
}
DTYPES: dict[str, np.dtype[Any]] = {  # by datatype
    "FP32": WIRE_TYPES["float32"],
    "BOOL": WIRE_TYPES["bool"],
    **{datatype: dtype for datatype, (dtype, _) in _INTEGERS.items()},
}
_LISTED = {  # where elements are if not raw
    "FP32": "fp32_contents",
    "BOOL": "bool_contents",
    **{datatype: place for datatype, (_, place) in _INTEGERS.items()},
}
_LENGTH_BYTES = 4  # stand before each element of BYTES
_OF_ANY_SIZE = np.dtype("V0")
_ELSEWHERE = "shared_memory_region"  # a parameter: the elements lie in memory that the server was to map


def decode_version(field: str, text: str) -> int:
    """0 for nothing, which asks for the newest. Raises CallerError(INVALID_ARGUMENT) for what no version can be."""
    if not text:
        return 0
    if not _VERSION.fullmatch(text):
        expected = "a number from 1 to 999999999, or nothing for the newest version"
        raise CallerError(Reason.INVALID_ARGUMENT, f"{field}: expected {expected}, got {text[:_SHOWN]!r}", field=field)
    return int(text)


def decode_count(field: str, what: str, parameter: oip_pb2.InferParameter) -> int:
    """An integer parameter of 0 or more, signed or not. Raises CallerError(INVALID_ARGUMENT) that says `what` was expected."""
    kind = parameter.WhichOneof("parameter_choice")
    number = parameter.uint64_param if kind == "uint64_param" else parameter.int64_param
    if kind not in ("int64_param", "uint64_param") or number < 0:
        raise CallerError(Reason.INVALID_ARGUMENT, f"{field}: expected {what}, got {kind or 'nothing'} {number}", field=field)
    return number


def dims(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of one step of one sequence. The protocol's batches want one dimension at least: a scalar has one of size 1."""
    return shape or (1,)


def check_elements(request: oip_pb2.ModelInferRequest) -> bool:
    """Whether elements are raw rather than listed. Raises CallerError where some of them are neither, or both."""
    raw, inputs = request.raw_input_contents, request.inputs
    if len(raw) == len(inputs):
        for tensor in inputs:
            if tensor.HasField("contents"):
                raise wrong(tensor.name, "expected elements in contents or in raw_input_contents, got both")
        return True
    for tensor in inputs:
        if _ELSEWHERE in tensor.parameters:
            message = f"inputs[{tensor.name}]: shared memory is not offered; send the elements in the request"
            raise CallerError(Reason.NOT_IMPLEMENTED, message, field=f"inputs[{tensor.name}]")
    if raw:
        message = f"raw_input_contents: expected one for each of {len(inputs)} inputs, got {len(raw)}"
        raise CallerError(Reason.INVALID_ARGUMENT, message, field="raw_input_contents")
    return False


class Expected(NamedTuple):
    """An input tensor as it was found to be right, but for its elements."""

    place: int  # in the request
    datatype: str
    elements: int
    bytes: int  # if they are raw, but for BYTES
    wanted: np.dtype[Any]  # what they become, but for BYTES


def expect(place: int, datatype: str, elements: int, wanted: np.dtype[Any] | None = None) -> Expected:
    """wanted: what elements become; None: they stay what they are. BYTES have no size that is known before."""
    came = DTYPES.get(datatype, _OF_ANY_SIZE)
    return Expected(place, datatype, elements, elements * came.itemsize, wanted or came)


def data(request: oip_pb2.ModelInferRequest, expected: Expected, raw: bool) -> bytes:
    """An input's elements, little-endian, as `expected.wanted`.

    Raises CallerError(INVALID_ARGUMENT) if there are not as many, or if one of them is not of the datatype,
    CallerError(INPUT_OUT_OF_RANGE) for a whole number that the wanted dtype does not have.
    """
    place, datatype, _, size, wanted = expected
    if not raw:
        found = _listed(request, expected)
    elif len(found := request.raw_input_contents[place]) != size:
        raise _wrong_size(request, expected, size, len(found), "bytes")
    if datatype == "BOOL":
        check_bools(f"inputs[{request.inputs[place].name}]", found)
    return found if DTYPES[datatype] == wanted else _resized(request.inputs[place].name, found, datatype, wanted)


def _resized(name: str, data: bytes, datatype: str, wanted: np.dtype[Any]) -> bytes:
    """Whole numbers as those of another size. Raises CallerError(INPUT_OUT_OF_RANGE)."""
    numbers, limits = np.frombuffer(data, DTYPES[datatype]), np.iinfo(wanted)
    if (beyond := (numbers < limits.min) | (numbers > limits.max)).any():
        message = f"inputs[{name}]: expected numbers from {limits.min} to {limits.max}, got {numbers[beyond][0]}"
        raise CallerError(Reason.INPUT_OUT_OF_RANGE, message, field=f"inputs[{name}]")
    return numbers.astype(wanted).tobytes()


def _listed(request: oip_pb2.ModelInferRequest, expected: Expected) -> bytes:
    tensor, datatype = request.inputs[expected.place], expected.datatype
    listed = getattr(tensor.contents, _LISTED[datatype])
    if len(listed) != expected.elements:
        raise _wrong_size(request, expected, expected.elements, len(listed), "elements")
    elements = np.array(listed, DTYPES[datatype])
    if datatype in _INTEGERS and (beyond := np.array(listed) != elements).any():
        raise wrong(tensor.name, f"expected numbers of datatype {datatype}, got {np.array(listed)[beyond][0]}")
    return elements.tobytes()


def numbers(request: oip_pb2.ModelInferRequest, expected: Expected, raw: bool) -> list[Any]:
    """An input's elements as Python's numbers, or its booleans."""
    values: list[Any] = np.frombuffer(data(request, expected, raw), expected.wanted).tolist()
    return values


def strings(request: oip_pb2.ModelInferRequest, expected: Expected, raw: bool) -> list[str]:
    """Elements of an input of datatype BYTES. Raises CallerError(INVALID_ARGUMENT)."""
    tensor = request.inputs[expected.place]
    elements = _split(tensor.name, request.raw_input_contents[expected.place]) if raw else list(tensor.contents.bytes_contents)
    if len(elements) != expected.elements:
        raise _wrong_size(request, expected, expected.elements, len(elements), "elements")
    try:
        return [element.decode() for element in elements]
    except UnicodeDecodeError as error:
        raise wrong(tensor.name, f"expected UTF-8, got {error.object[:50]!r}") from error


def encode_strings(texts: list[str]) -> bytes:
    """Raw elements of a BYTES tensor."""
    elements = [each.encode() for each in texts]
    return b"".join([len(element).to_bytes(_LENGTH_BYTES, "little") + element for element in elements])


def wrong(name: str, problem: str) -> CallerError:
    """An error of one input."""
    return CallerError(Reason.INVALID_ARGUMENT, f"inputs[{name}]: {problem}", field=f"inputs[{name}]")


def _wrong_size(request: oip_pb2.ModelInferRequest, expected: Expected, wanted: int, actual: int, what: str) -> CallerError:
    tensor = request.inputs[expected.place]
    return wrong(tensor.name, f"expected {wanted} {what} for shape {list(tensor.shape)}, got {actual}")


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
