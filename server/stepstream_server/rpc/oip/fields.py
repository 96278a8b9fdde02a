"""Fields that many messages of the protocol have: versions, names of data types, shapes."""

from __future__ import annotations

import re

from stepstream_proto.oip.v2 import oip_pb2
from stepstream_server.errors import CallerError, Reason
from stepstream_server.spec import DType

DATATYPES: dict[DType, str] = {"float32": "FP32", "int64": "INT64"}  # as requests and metadata name them

_VERSION = re.compile(r"[1-9][0-9]{0,8}")
_SHOWN = 32  # characters of a wrong version that its error repeats


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
