"""How failures become exceptions: by reason, by code, by the way a session ended. The only such tables on this side.

Nothing else of this package shows an error of gRPC to a caller.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2
from grpc import StatusCode

from stepstream._errors import (
    AccessDenied,
    AnswerDiscarded,
    AnswerNotKept,
    BlockTooLarge,
    DeadlineExceeded,
    EngineFailed,
    EngineLost,
    HandleInUse,
    HandleUnknown,
    InputOutOfRange,
    InvalidArgument,
    MixedModels,
    ModelMismatch,
    ModelNotFound,
    ModelNotReady,
    NonFiniteInput,
    NonFiniteState,
    Overloaded,
    QueueFull,
    SecretMismatch,
    SequenceError,
    SequenceMismatch,
    SequencePassed,
    ServerDraining,
    ServerFault,
    SessionCapacity,
    SessionClosed,
    SessionDetached,
    SessionEnded,
    SessionError,
    SessionEvicted,
    SessionExists,
    SessionExpired,
    SessionInUse,
    SessionMoved,
    SessionNotFound,
    SessionQuarantined,
    SessionTaken,
    SnapshotCorrupt,
    StepStreamError,
    StreamReplaced,
    Unavailable,
    Unimplemented,
    WindowFull,
)
from stepstream_proto.v1 import common_pb2, inference_pb2

DOMAIN = "stepstream.v1"
STATUS_TRAILER = "grpc-status-details-bin"

BY_REASON: dict[str, type[StepStreamError]] = {
    each.default_reason: each
    for each in (
        ModelNotFound, ModelNotReady, SessionNotFound, SessionClosed, SessionExpired, SessionEvicted, SessionMoved,
        SessionTaken, SessionExists, SessionInUse, SessionCapacity, SessionQuarantined, SecretMismatch, HandleUnknown,
        HandleInUse, SequenceMismatch, AnswerDiscarded, AnswerNotKept, WindowFull, QueueFull, DeadlineExceeded,
        InvalidArgument, NonFiniteInput, InputOutOfRange, NonFiniteState, BlockTooLarge, MixedModels, ServerDraining,
        EngineFailed, EngineLost, Unimplemented, SequencePassed, SnapshotCorrupt, ModelMismatch,
        StreamReplaced,
    )
}  # fmt: skip

BY_CODE: dict[StatusCode, type[StepStreamError]] = {
    StatusCode.CANCELLED: Unavailable,
    StatusCode.UNKNOWN: ServerFault,
    StatusCode.INVALID_ARGUMENT: InvalidArgument,
    StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    StatusCode.NOT_FOUND: StepStreamError,
    StatusCode.ALREADY_EXISTS: SessionError,
    StatusCode.PERMISSION_DENIED: AccessDenied,
    StatusCode.UNAUTHENTICATED: AccessDenied,
    StatusCode.RESOURCE_EXHAUSTED: Overloaded,
    StatusCode.FAILED_PRECONDITION: SessionError,
    StatusCode.ABORTED: SequenceError,
    StatusCode.OUT_OF_RANGE: InvalidArgument,
    StatusCode.UNIMPLEMENTED: Unimplemented,
    StatusCode.INTERNAL: ServerFault,
    StatusCode.UNAVAILABLE: Unavailable,
    StatusCode.DATA_LOSS: ServerFault,
}

BY_ENDING: dict[int, type[SessionEnded]] = {
    inference_pb2.DETACH_REASON_REQUESTED: SessionDetached,
    inference_pb2.DETACH_REASON_SESSION_TAKEN: SessionTaken,
    inference_pb2.DETACH_REASON_SESSION_CLOSED: SessionClosed,
    inference_pb2.DETACH_REASON_SESSION_EXPIRED: SessionExpired,
    inference_pb2.DETACH_REASON_SESSION_EVICTED: SessionEvicted,
    inference_pb2.DETACH_REASON_SESSION_MOVED: SessionMoved,
}

_CODES: dict[int, StatusCode] = {code.value[0]: code for code in StatusCode}


def translate(
    code: int, reason: str, message: str, retry_delay: float | None = None, metadata: Mapping[str, str] | None = None
) -> StepStreamError:
    """The exception for a code (as a number), a reason and a message; by the code alone where the reason is unknown here."""
    status = _CODES.get(code, StatusCode.UNKNOWN)
    kind = BY_REASON.get(reason) or BY_CODE.get(status, StepStreamError)
    return kind(message, code=status, reason=reason, retry_delay=retry_delay, metadata=metadata)


def from_wire(error: common_pb2.Error, metadata: Mapping[str, str] | None = None) -> StepStreamError:
    """The exception for an error that travelled in band."""
    delay = error.retry_delay_ms / 1000 if error.retry_delay_ms else None
    return translate(error.code, error.reason, error.message, delay, metadata)


def from_rpc(error: grpc.aio.AioRpcError) -> StepStreamError:
    """The exception for a call that failed, with the details of its google.rpc.Status where there is one."""
    return from_status(error.code(), error.details() or "", error.trailing_metadata())


def from_status(code: StatusCode, details: str, trailers: Any) -> StepStreamError:
    """The same for a status that was read rather than raised. trailers: pairs of key and value, or None."""
    number = int(code.value[0])
    reason, delay, metadata = "", None, {}
    for detail in _details(trailers):
        if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            info = error_details_pb2.ErrorInfo.FromString(detail.value)
            if info.domain == DOMAIN:
                reason = info.reason
                metadata.update(info.metadata)
        elif detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
            delay = error_details_pb2.RetryInfo.FromString(detail.value).retry_delay.ToTimedelta().total_seconds()
        elif detail.Is(error_details_pb2.BadRequest.DESCRIPTOR):
            for violation in error_details_pb2.BadRequest.FromString(detail.value).field_violations:
                metadata.setdefault("field", violation.field)
    return translate(number, reason, details or code.name, delay, metadata)


def _details(trailers: Any) -> Sequence[Any]:
    for key, value in trailers or ():
        if key == STATUS_TRAILER:
            try:
                return list(status_pb2.Status.FromString(value).details)
            except DecodeError:  # something on the way mangled it; code and message still stand
                return []
    return []
