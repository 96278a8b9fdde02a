"""Which sequences a request is for, as Triton's sequence extension says it, or as columns of our own for several at once.

A sequence is a session: a string id names it as it stands, an integer n names session `int:n`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from stepstream_proto.oip.v2 import oip_pb2
from stepstream_server.engine.ports import NO_SEQ, Ints
from stepstream_server.errors import CallerError, Reason
from stepstream_server.rpc.columns import check_rows, check_seq
from stepstream_server.rpc.convert.fields import check_id
from stepstream_server.rpc.oip.tensors import Input, wrong

Parameters = Mapping[str, oip_pb2.InferParameter]
Flags = NDArray[np.bool_]

_INTEGER = "int:"  # before the session's id of a sequence with an integer id
_U64 = 1 << 64  # C++ clients send unsigned ids as signed numbers
ID, START, END, STEP = "SEQUENCE_ID", "SEQUENCE_START", "SEQUENCE_END", "SEQUENCE_STEP"  # input tensors, [B] each

_UNNUMBERED: Ints = np.full(1, NO_SEQ)
_YES: Flags = np.ones(1, np.bool_)
for _constant in (_UNNUMBERED, _YES):
    _constant.flags.writeable = False


class Sequences(NamedTuple):
    """n sequences: columns of a momentary call."""

    ids: list[str]  # of their sessions
    seqs: Ints  # [n], or NO_SEQ
    starts: Flags | None  # [n]; None: no row does
    ends: Flags | None


def decode_parameters(parameters: Parameters) -> Sequences:
    """The one sequence of a request's parameters. Raises CallerError(INVALID_ARGUMENT)."""
    if "sequence_id" not in parameters:
        raise _wrong_parameter(
            "sequence_id", "expected the id of the request's sequence: the model keeps a state for each, got none"
        )
    seqs = _UNNUMBERED
    if "sequence_step" in parameters:
        seqs = np.array([_step(parameters["sequence_step"])], np.int64)
    return Sequences(
        [_decode_id(parameters["sequence_id"])],
        seqs,
        _YES if _flag(parameters, "sequence_start") else None,
        _YES if _flag(parameters, "sequence_end") else None,
    )


def decode_tensors(inputs: dict[str, Input], parameters: Parameters, most: int) -> Sequences | None:
    """Those of input tensors, which are taken out of `inputs`; None if there is none. Raises CallerError.

    most: sequences of one request.
    """
    tensor = inputs.pop(ID, None)
    if tensor is None:
        return None
    if "sequence_id" in parameters:
        raise wrong(ID, "expected either this tensor or the parameter sequence_id, got both")
    count = _count(tensor)
    check_rows(ID, count, most)
    numbers = inputs.pop(STEP, None)
    return Sequences(
        _ids(tensor),
        np.full(count, NO_SEQ) if numbers is None else _steps(numbers, count),
        _flags(inputs.pop(START, None), count),
        _flags(inputs.pop(END, None), count),
    )


def _decode_id(parameter: oip_pb2.InferParameter) -> str:
    kind = parameter.WhichOneof("parameter_choice")
    if kind == "int64_param":
        return _integer("sequence_id", parameter.int64_param)
    if kind == "string_param":
        return _string("sequence_id", parameter.string_param)
    if kind == "uint64_param":
        return _integer("sequence_id", parameter.uint64_param)
    raise _wrong_parameter("sequence_id", f"expected an integer or a string, got {kind or 'nothing'}")


def _ids(tensor: Input) -> list[str]:
    if tensor.datatype == "BYTES":
        ids = [_string(ID, each) for each in tensor.strings()]
    else:
        ids = [_integer(ID, each) for each in tensor.array("INT64").tolist()]
    if len(set(ids)) != len(ids):
        ((twice, _),) = Counter(ids).most_common(1)
        raise wrong(ID, f"expected each sequence once, got {twice!r} again")
    return ids


def _integer(field: str, number: int) -> str:
    if number == 0:
        raise _wrong_parameter(field, "expected a number other than 0, which means no sequence")
    return f"{_INTEGER}{number % _U64}"


def _string(field: str, id: str) -> str:
    if id.startswith(_INTEGER):
        raise _wrong_parameter(
            field, f"expected no string that begins with {_INTEGER!r}, which stands for integers, got {id[:50]!r}"
        )
    return check_id(field, id)


def _step(parameter: oip_pb2.InferParameter) -> int:
    kind = parameter.WhichOneof("parameter_choice")
    number = parameter.int64_param if kind == "int64_param" else parameter.uint64_param
    if kind not in ("int64_param", "uint64_param") or number < 0:
        raise _wrong_parameter("sequence_step", f"expected an integer of 0 or more, got {kind or 'nothing'} {number}")
    return check_seq("sequence_step", number)


def _steps(tensor: Input, count: int) -> Ints:
    steps = _column(tensor, count).array("INT64").astype(np.int64, copy=False)
    least, most = int(steps.min(initial=0)), int(steps.max(initial=0))
    if least < NO_SEQ:
        raise wrong(STEP, f"expected numbers of 0 or more, or {NO_SEQ} for none, got {least}")
    check_seq(STEP, most)
    return steps.reshape(count)


def _flag(parameters: Parameters, name: str) -> bool:
    if name not in parameters:
        return False
    parameter = parameters[name]
    kind = parameter.WhichOneof("parameter_choice")
    if kind != "bool_param":
        raise _wrong_parameter(name, f"expected a bool, got {kind or 'nothing'}")
    return parameter.bool_param


def _flags(tensor: Input | None, count: int) -> Flags | None:
    if tensor is None:
        return None
    flags = _column(tensor, count).array("BOOL").reshape(count)
    return flags if flags.any() else None


def _count(tensor: Input) -> int:
    if not tensor.shape or tensor.shape[1:] not in ((), (1,)) or tensor.shape[0] < 1:
        raise wrong(tensor.name, f"shape: expected [B], one per sequence, got {list(tensor.shape)}")
    return tensor.shape[0]


def _column(tensor: Input, count: int) -> Input:
    if _count(tensor) != count:
        raise wrong(tensor.name, f"shape: expected [{count}] as of {ID}, got {list(tensor.shape)}")
    return tensor


def _wrong_parameter(field: str, problem: str) -> CallerError:
    return CallerError(Reason.INVALID_ARGUMENT, f"{field}: {problem}", field=field)
