"""A ModelInferRequest as it was understood: the sequences that it is for, and the one-shot steps that it asks for.

Triton's sequence extension names one sequence by parameters; input tensors of our own name several at once. A sequence is a
session: a string id names it as it stands, an integer n names session `int:n`.
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from stepstream_proto.oip.v2 import oip_pb2
from stepstream_server.engine.ports import NO_SEQ, Keep
from stepstream_server.errors import CallerError, Reason
from stepstream_server.rpc.coalescing import Steps
from stepstream_server.rpc.columns import check_seq
from stepstream_server.rpc.fields import check_id
from stepstream_server.rpc.oip.layouts import END, ID, START, STEP, Layout, Layouts
from stepstream_server.rpc.oip.tensors import Expected, check_elements, data, decode_count, numbers, strings, wrong
from stepstream_server.tenancy import scoped

_INTEGER = "int:"  # before the number, in the session's id of a sequence with an integer id
_U64 = 1 << 64  # C++ clients send unsigned ids as signed numbers
_OF_ONE = ("sequence_id", "sequence_start", "sequence_end", "sequence_step")  # parameters that say what is asked of one sequence
_YES = [True]
_MICROSECONDS = 1e-6
LONGEST_ID = 1024  # characters of a request's id: it comes back in the response, which must stay within a message


class Sequences(NamedTuple):
    """B sequences, as columns."""

    ids: list[str]  # of their sessions
    seqs: list[int] | None  # [B], or NO_SEQ; None: none is numbered
    starts: list[bool] | None  # [B]; None: none of them
    ends: list[bool] | None


def decode_parameters(request: oip_pb2.ModelInferRequest) -> Sequences:
    """The one sequence that a request's parameters name. Raises CallerError(INVALID_ARGUMENT)."""
    parameters = request.parameters
    id, step = parameters.get("sequence_id"), parameters.get("sequence_step")
    return Sequences(
        [_decode_id(id)],
        None if step is None else [_decode_step(step)],
        _YES if _decode_flag("sequence_start", parameters.get("sequence_start")) else None,
        _YES if _decode_flag("sequence_end", parameters.get("sequence_end")) else None,
    )


def decode_columns(request: oip_pb2.ModelInferRequest, columns: dict[str, Expected], raw: bool) -> Sequences:
    """Those that input tensors name. Raises CallerError(INVALID_ARGUMENT)."""
    for name in _OF_ONE:
        if name in request.parameters:
            raise wrong(ID, f"expected either this tensor or the parameter {name}, got both")
    starts, ends = (numbers(request, columns[name], raw) if name in columns else None for name in (START, END))
    seqs = _decode_steps(numbers(request, columns[STEP], raw)) if STEP in columns else None
    return Sequences(_decode_ids(request, columns[ID], raw), seqs, starts, ends)


def _decode_id(parameter: oip_pb2.InferParameter | None) -> str:
    kind = "nothing" if parameter is None else parameter.WhichOneof("parameter_choice")
    if parameter is not None and kind == "int64_param":
        return _integer("sequence_id", parameter.int64_param)
    if parameter is not None and kind == "string_param":
        return _string("sequence_id", parameter.string_param)
    if parameter is not None and kind == "uint64_param":
        return _integer("sequence_id", parameter.uint64_param)
    raise _wrong_parameter("sequence_id", f"expected an integer or a string, since the model keeps a state, got {kind}")


def _decode_ids(request: oip_pb2.ModelInferRequest, column: Expected, raw: bool) -> list[str]:
    if column.datatype == "BYTES":
        ids = [_string(ID, each) for each in strings(request, column, raw)]
    else:
        ids = [_integer(ID, each) for each in numbers(request, column, raw)]
    if len(set(ids)) != len(ids):
        ((twice, _),) = Counter(ids).most_common(1)
        raise wrong(ID, f"expected each sequence once, got {twice!r} again")
    return ids


def _decode_steps(seqs: list[int]) -> list[int]:
    if min(seqs) < NO_SEQ:
        raise wrong(STEP, f"expected numbers of 0 or more, or {NO_SEQ} for none, got {min(seqs)}")
    check_seq(STEP, max(0, *seqs))
    return seqs


def _integer(field: str, number: int) -> str:
    if number == 0:
        raise _wrong_parameter(field, "expected a number other than 0, which stands for no sequence")
    return f"{_INTEGER}{number % _U64}"


def _string(field: str, id: str) -> str:
    if id.startswith(_INTEGER):
        problem = f"expected no string that begins with {_INTEGER!r}, which stands for integers, got {id[:50]!r}"
        raise _wrong_parameter(field, problem)
    return check_id(field, id)


def _decode_step(parameter: oip_pb2.InferParameter) -> int:
    return check_seq("sequence_step", decode_count("sequence_step", "an integer of 0 or more", parameter))


def _decode_flag(name: str, parameter: oip_pb2.InferParameter | None) -> bool:
    if parameter is None:
        return False
    if not parameter.bool_param and (kind := parameter.WhichOneof("parameter_choice")) != "bool_param":
        raise _wrong_parameter(name, f"expected a bool, got {kind or 'nothing'}")
    return parameter.bool_param


def _wrong_parameter(field: str, problem: str) -> CallerError:
    return CallerError(Reason.INVALID_ARGUMENT, f"{field}: {problem}", field=field)


class Request(NamedTuple):
    """What is asked for."""

    id: str
    layout: Layout
    steps: Steps


def decode_request(request: oip_pb2.ModelInferRequest, layouts: Layouts, tenant: str, arrival: float, deadline: float) -> Request:
    """Times in monotonic seconds; the request's own timeout may bring the deadline forward.

    Raises CallerError that names the field, ServerFault(MODEL_NOT_READY) before models are. Nothing was applied then.
    """
    if len(request.id) > LONGEST_ID:
        message = f"id: expected at most {LONGEST_ID} characters, got {len(request.id)}"
        raise CallerError(Reason.INVALID_ARGUMENT, message, field="id")
    raw = check_elements(request)
    layout = layouts.of(request)
    sequences = decode_parameters(request) if layout.columns is None else decode_columns(request, layout.columns, raw)
    inputs = tuple([data(request, expected, raw) for expected in layout.inputs])
    timeout = _decode_timeout(request)
    if timeout:
        deadline = min(deadline, arrival + timeout)
    ids, seqs, starts, ends = sequences
    keys = [scoped(tenant, id) for id in ids] if tenant else ids
    return Request(request.id, layout, Steps(keys, layout.steps, inputs, arrival, deadline, Keep.ALL, seqs, None, starts, ends))


def _decode_timeout(request: oip_pb2.ModelInferRequest) -> float:
    """Seconds, of a parameter in microseconds; 0 if there is none."""
    parameter = request.parameters.get("timeout")
    if parameter is None:
        return 0.0
    return decode_count("timeout", "an integer of microseconds, 0 or more", parameter) * _MICROSECONDS
