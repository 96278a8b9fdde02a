"""A ModelInferRequest as it was understood: the one-shot steps that it asks for."""

from __future__ import annotations

from typing import NamedTuple

from stepstream_proto.oip.v2 import oip_pb2
from stepstream_server.engine.ports import Keep
from stepstream_server.errors import CallerError, Reason
from stepstream_server.rpc.gathering import Steps
from stepstream_server.rpc.oip.fields import decode_count
from stepstream_server.rpc.oip.layouts import Layout, Layouts
from stepstream_server.rpc.oip.sequences import decode_columns, decode_parameters
from stepstream_server.rpc.oip.tensors import check_elements, data

_MICROSECONDS = 1e-6
LONGEST_ID = 1024  # characters of a request's id: it comes back in the response, which must stay within a message


class Request(NamedTuple):
    """What is asked for."""

    id: str
    layout: Layout
    steps: Steps


def decode_request(request: oip_pb2.ModelInferRequest, layouts: Layouts, arrival: float, deadline: float) -> Request:
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
    return Request(request.id, layout, Steps(ids, layout.steps, inputs, arrival, deadline, Keep.ALL, seqs, None, starts, ends))


def _decode_timeout(request: oip_pb2.ModelInferRequest) -> float:
    """Seconds, of a parameter in microseconds; 0 if there is none."""
    parameter = request.parameters.get("timeout")
    if parameter is None:
        return 0.0
    return decode_count("timeout", "an integer of microseconds, 0 or more", parameter) * _MICROSECONDS
