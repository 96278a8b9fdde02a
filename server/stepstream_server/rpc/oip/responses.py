"""ModelInferResponses as bytes. What the responses of one form have in common is serialised once.

Protocol buffers that are put behind each other merge into one message, fields of messages within them included
(protobuf.dev/programming-guides/encoding, "Last One Wins"): so a response is a prepared head and what is its own.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stepstream_proto.oip.v2 import oip_pb2
from stepstream_server.errors import CallerError, Reason, StepStreamError
from stepstream_server.rpc.caller import Outcome
from stepstream_server.rpc.columns import I64, WIRE_TYPES
from stepstream_server.rpc.door import ModelDoor
from stepstream_server.rpc.oip.fields import DATATYPES
from stepstream_server.rpc.oip.requests import COLUMNS, Form, Request
from stepstream_server.rpc.oip.tensors import encode_strings
from stepstream_server.spec import TensorSpec

_MOST_HEADS = 1024  # one per model and length of chunk that clients use; at some 200 bytes each
_STEP, _ERROR = COLUMNS


class Responses:
    """Encodes responses; `stream` says of which of the two calls."""

    def __init__(self, *, stream: bool) -> None:
        self._stream = stream
        self._heads: dict[tuple[ModelDoor, int, Form], bytes] = {}

    def encode(self, request: Request, outcomes: Sequence[Outcome]) -> bytes:
        """A whole response. Raises StepStreamError if the request's only sequence was refused or failed."""
        if request.form.columns:
            return self._merge(request, _of_many(request, outcomes))
        (outcome,) = outcomes
        if outcome.error is not None:
            raise outcome.error
        own = oip_pb2.ModelInferResponse(id=request.id, raw_output_contents=_chosen(request, outcome.joined()))
        own.parameters["sequence_step"].int64_param = outcome.first_seq
        return self._merge(request, own)

    def _merge(self, request: Request, own: oip_pb2.ModelInferResponse) -> bytes:
        key = (request.door, len(request.lengths), request.form)
        head = self._heads.get(key)
        if head is None:
            if len(self._heads) >= _MOST_HEADS:
                self._heads.clear()
            head = self._heads[key] = self._serialise(_head(request))
        return head + self._serialise(own)

    def _serialise(self, response: oip_pb2.ModelInferResponse) -> bytes:
        if self._stream:
            return oip_pb2.ModelStreamInferResponse(infer_response=response).SerializeToString()
        return response.SerializeToString()


def encode_failure(id: str, error: StepStreamError) -> bytes:
    """An error in its request's place on a stream."""
    response = oip_pb2.ModelInferResponse(id=id)
    return oip_pb2.ModelStreamInferResponse(error_message=error.message, infer_response=response).SerializeToString()


def translate(error: StepStreamError) -> StepStreamError:
    """The same error in the words of the protocol. Its clients show the text alone, so the reason stands in it."""
    reason, message, field = error.reason, error.message, error.field
    if reason is Reason.SESSION_NOT_FOUND:
        reason, field = Reason.INVALID_ARGUMENT, "sequence_start"
        message += ": an inference request must specify the START flag on the first request of the sequence"
    told = CallerError(
        reason,
        f"{error.reason.name}: {message}",
        field=field,
        expected_seq=error.expected_seq,
        retry_delay_seconds=error.retry_delay_seconds,
    )
    return told.with_traceback(error.__traceback__)


def _head(request: Request) -> oip_pb2.ModelInferResponse:
    spec, form, count = request.door.spec, request.form, len(request.lengths)
    head = oip_pb2.ModelInferResponse(model_name=spec.name, model_version=str(spec.version))
    head.parameters["triton_final_response"].bool_param = True  # one response to each request
    leading = (count,) if form.steps is None else (count, form.steps)
    for output in spec.outputs:
        if _wanted(form, output.name):
            head.outputs.add(name=output.name, datatype=DATATYPES[output.dtype], shape=(*leading, *output.shape))
    if form.columns:
        for name, datatype in ((_STEP, "INT64"), (_ERROR, "BYTES")):
            if _wanted(form, name):
                head.outputs.add(name=name, datatype=datatype, shape=(count,))
    return head


def _wanted(form: Form, name: str) -> bool:
    return not form.outputs or name in form.outputs


def _chosen(request: Request, outputs: tuple[bytes, ...]) -> tuple[bytes, ...]:
    """Those that were asked for, in the model's order."""
    if not request.form.outputs:
        return outputs
    declared = request.door.spec.outputs
    return tuple([data for data, each in zip(outputs, declared, strict=True) if each.name in request.form.outputs])


def _of_many(request: Request, outcomes: Sequence[Outcome]) -> oip_pb2.ModelInferResponse:
    """Outputs of several sequences one behind the other; those that failed have their errors, and outputs that are no numbers."""
    spec, steps = request.door.spec, request.form.steps or 1
    missing = tuple(_missing(each, steps) for each in spec.outputs)
    rows = [outcome.joined() if outcome.error is None else missing for outcome in outcomes]
    own = oip_pb2.ModelInferResponse(id=request.id)
    own.raw_output_contents.extend(_chosen(request, tuple(b"".join(of_output) for of_output in zip(*rows, strict=True))))
    if _wanted(request.form, _STEP):
        own.raw_output_contents.append(np.array([-1 if each.error else each.first_seq for each in outcomes], I64).tobytes())
    if _wanted(request.form, _ERROR):
        own.raw_output_contents.append(encode_strings([_told(outcome.error) for outcome in outcomes]))
    return own


def _missing(output: TensorSpec, steps: int) -> bytes:
    """NaN where there are floats, which nobody takes for an answer; -1 otherwise."""
    fill = np.nan if output.dtype == "float32" else -1
    return np.full((steps, *output.shape), fill, WIRE_TYPES[output.dtype]).tobytes()


def _told(error: StepStreamError | None) -> str:
    return "" if error is None else translate(error).message
