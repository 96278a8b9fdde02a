"""What requests are answered: responses as bytes, errors in the protocol's words."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stepstream_proto.oip.v2 import oip_pb2
from stepstream_server.errors import CallerError, Reason, StepStreamError
from stepstream_server.rpc.boundary import MOST_CHARACTERS
from stepstream_server.rpc.columns import I64, WIRE_TYPES
from stepstream_server.rpc.deliveries import wire_field
from stepstream_server.rpc.oip.layouts import Layout
from stepstream_server.rpc.oip.requests import Request
from stepstream_server.rpc.oip.tensors import encode_strings
from stepstream_server.rpc.one_shot import Outcome
from stepstream_server.spec import DType, TensorSpec

_FILL: dict[DType, float] = {"float32": np.nan, "int32": -1, "int64": -1, "bool": False}


def encode_response(request: Request, outcomes: Sequence[Outcome]) -> bytes:
    """A whole response. Raises StepStreamError if the request's only sequence was refused or failed.

    Parts behind each other are the same as one message (protobuf.dev/programming-guides/encoding, "Last One Wins").
    """
    layout = request.layout
    own = oip_pb2.ModelInferResponse(id=request.id)
    if layout.columns is None:
        (outcome,) = outcomes
        if outcome.error is not None:
            raise outcome.error
        outputs = outcome.joined()
        own.raw_output_contents.extend([outputs[index] for index in layout.outputs])
        own.parameters["sequence_step"].int64_param = outcome.first_seq
    else:
        own.raw_output_contents.extend(_columns(layout, outcomes))
    return layout.head + own.SerializeToString()


def encode_in_stream(response: bytes) -> bytes:
    """A response in a stream's message. It is one field: some clients keep only the last of a field that occurs twice."""
    return wire_field(oip_pb2.ModelStreamInferResponse.INFER_RESPONSE_FIELD_NUMBER, response)


def encode_failure(id: str, error: StepStreamError) -> bytes:
    """An error in its request's place on a stream."""
    response = oip_pb2.ModelInferResponse(id=id)
    return oip_pb2.ModelStreamInferResponse(error_message=error.message, infer_response=response).SerializeToString()


def translate(error: StepStreamError) -> StepStreamError:
    """The same error in the words of the protocol. Its clients show the text alone, so the reason stands in it."""
    reason, message, place = error.reason, error.message, error.field
    if reason is Reason.SESSION_NOT_FOUND:
        reason, place = Reason.INVALID_ARGUMENT, "sequence_start"
        message += ": an inference request must specify the START flag on the first request of the sequence"
    return CallerError(
        reason,
        f"{error.reason.name}: {message}"[:MOST_CHARACTERS],
        field=place,
        expected_seq=error.expected_seq,
        retry_delay_seconds=error.retry_delay_seconds,
    )


def _columns(layout: Layout, outcomes: Sequence[Outcome]) -> list[bytes]:
    """Outputs of several sequences one behind the other; those that failed have their errors, and outputs that are no numbers."""
    missing = [_missing(each, layout.steps) for each in layout.engine.spec.outputs]
    rows = [missing if outcome.error else outcome.joined() for outcome in outcomes]
    contents = [b"".join([row[index] for row in rows]) for index in layout.outputs]
    if layout.tells_step:
        contents.append(np.array([-1 if each.error else each.first_seq for each in outcomes], I64).tobytes())
    if layout.tells_error:
        contents.append(encode_strings([translate(each.error).message if each.error else "" for each in outcomes]))
    return contents


def _missing(output: TensorSpec, steps: int) -> bytes:
    """NaN where there are floats, which nobody takes for an answer; -1 of whole numbers, and false."""
    return np.full((steps, *output.shape), _FILL[output.dtype], WIRE_TYPES[output.dtype]).tobytes()
