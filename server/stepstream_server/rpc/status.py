"""The only table from `Reason` to a gRPC status, and how an error looks on the wire: in band and in trailers."""

from __future__ import annotations

import grpc
from google.protobuf.any_pb2 import Any
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from stepstream_proto.v1 import common_pb2
from stepstream_server.errors import Reason, StepStreamError

DOMAIN = "stepstream.v1"  # of every ErrorInfo: whose reasons these are

_CODES: dict[grpc.StatusCode, tuple[Reason, ...]] = {
    grpc.StatusCode.NOT_FOUND: (
        Reason.MODEL_NOT_FOUND,
        Reason.SESSION_NOT_FOUND,
        Reason.SESSION_CLOSED,
        Reason.SESSION_EXPIRED,
        Reason.SESSION_EVICTED,
        Reason.SESSION_MOVED,
        Reason.HANDLE_UNKNOWN,
    ),
    grpc.StatusCode.ALREADY_EXISTS: (Reason.SESSION_EXISTS, Reason.HANDLE_IN_USE),
    grpc.StatusCode.FAILED_PRECONDITION: (
        Reason.SESSION_IN_USE,
        Reason.SESSION_QUARANTINED,
        Reason.NON_FINITE_STATE,
        Reason.SEQUENCE_PASSED,
        Reason.MODEL_MISMATCH,
    ),
    grpc.StatusCode.RESOURCE_EXHAUSTED: (
        Reason.SESSION_CAPACITY,
        Reason.WINDOW_FULL,
        Reason.QUEUE_FULL,
        Reason.BLOCK_TOO_LARGE,
    ),
    grpc.StatusCode.PERMISSION_DENIED: (Reason.SECRET_MISMATCH,),
    grpc.StatusCode.ABORTED: (Reason.SEQUENCE_MISMATCH, Reason.STREAM_REPLACED),
    grpc.StatusCode.OUT_OF_RANGE: (Reason.ANSWER_DISCARDED, Reason.ANSWER_NOT_KEPT),
    grpc.StatusCode.DEADLINE_EXCEEDED: (Reason.DEADLINE_EXCEEDED,),
    grpc.StatusCode.INVALID_ARGUMENT: (
        Reason.INVALID_ARGUMENT,
        Reason.NON_FINITE_INPUT,
        Reason.INPUT_OUT_OF_RANGE,
        Reason.MIXED_MODELS,
    ),
    grpc.StatusCode.UNAVAILABLE: (Reason.SERVER_DRAINING, Reason.MODEL_NOT_READY, Reason.ENGINE_LOST),
    grpc.StatusCode.INTERNAL: (Reason.ENGINE_FAILED,),
    grpc.StatusCode.DATA_LOSS: (Reason.SNAPSHOT_CORRUPT,),
    grpc.StatusCode.UNIMPLEMENTED: (Reason.NOT_IMPLEMENTED,),
}

STATUS: dict[Reason, grpc.StatusCode] = {reason: code for code, reasons in _CODES.items() for reason in reasons}

# Of a message. Trailers have it three times, and clients take 8 KiB of trailers; what came from a caller may be of any length.
MOST_CHARACTERS = 1000

# Milliseconds, where the error itself gives no advice: what usually makes the refusal go away.
RETRY_DELAY_MS: dict[Reason, int] = {
    Reason.QUEUE_FULL: 20,  # ten turns of the engine
    Reason.SESSION_CAPACITY: 1000,  # sessions come and go in seconds rather than turns
    Reason.MODEL_NOT_READY: 1000,  # warm-up takes a second or two
    Reason.SERVER_DRAINING: 1000,  # another replica, or this one restarted
    Reason.ENGINE_LOST: 1000,  # the same
}


def wire_error(error: StepStreamError) -> common_pb2.Error:
    """An error in band: of a row, a handle or one session of many."""
    return row_error(error.reason, error.message, error.retry_delay_seconds)


def row_error(reason: Reason, message: str, retry_delay_seconds: float = 0.0) -> common_pb2.Error:
    """The same where no exception was raised: refusals cross the engine port as columns."""
    return common_pb2.Error(
        code=STATUS[reason].value[0],
        reason=reason.name,
        message=message[:MOST_CHARACTERS],
        retry_delay_ms=_retry_delay_ms(reason, retry_delay_seconds),
    )


def call_status(error: StepStreamError) -> grpc.Status:
    """An error that ends a call: google.rpc.Status with ErrorInfo, RetryInfo and BadRequest, as trailers."""
    message = error.message[:MOST_CHARACTERS]
    details: list[Message] = [ErrorInfo(reason=error.reason.name, domain=DOMAIN, metadata=_metadata(error))]
    if delay := _retry_delay_ms(error.reason, error.retry_delay_seconds):
        retry = RetryInfo()
        retry.retry_delay.FromMilliseconds(delay)
        details.append(retry)
    if error.field:
        violation = BadRequest.FieldViolation(field=error.field, description=message)
        details.append(BadRequest(field_violations=[violation]))
    status = Status(code=STATUS[error.reason].value[0], message=message, details=[_packed(each) for each in details])
    return rpc_status.to_status(status)


def _metadata(error: StepStreamError) -> dict[str, str]:
    return {"expectedSeq": str(error.expected_seq)} if error.reason is Reason.SEQUENCE_MISMATCH or error.expected_seq else {}


def _retry_delay_ms(reason: Reason, seconds: float) -> int:
    return round(seconds * 1000) or RETRY_DELAY_MS.get(reason, 0)


def _packed(message: Message) -> Any:
    packed = Any()
    packed.Pack(message)
    return packed
