"""How failures become exceptions: by reason, by code, by the way a session or a stream ended. The only such tables on this side.

Nothing else of this package shows an error of gRPC to a caller.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
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
    ConnectionLost,
    DeadlineExceeded,
    EngineFailed,
    EngineLost,
    HandleInUse,
    HandleUnknown,
    InputOutOfRange,
    InvalidArgument,
    MixedModels,
    ModelFailed,
    ModelMismatch,
    ModelNotFound,
    ModelNotReady,
    NonFiniteInput,
    NonFiniteState,
    NoStore,
    NotPermitted,
    Overloaded,
    ProtocolError,
    QueueFull,
    RecordUnreadable,
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
    SessionLost,
    SessionMoved,
    SessionNotFound,
    SessionQuarantined,
    SessionTaken,
    SnapshotCorrupt,
    StepStreamError,
    StoreUnavailable,
    StreamReplaced,
    Unauthenticated,
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
        InvalidArgument, NonFiniteInput, InputOutOfRange, NonFiniteState, ModelFailed, BlockTooLarge, MixedModels,
        ServerDraining, EngineFailed, EngineLost, Unimplemented, SequencePassed, SnapshotCorrupt, ModelMismatch,
        StreamReplaced, Unauthenticated, NotPermitted, SessionLost, StoreUnavailable, NoStore, RecordUnreadable,
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
    StatusCode.UNAUTHENTICATED: Unauthenticated,
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
    return translate(error.code, error.reason, error.message, delay, {**error.metadata, **(metadata or {})})


def from_rpc(error: grpc.aio.AioRpcError) -> StepStreamError:
    """The exception for a call that failed, with the details of its google.rpc.Status where there is one."""
    return from_status(error.code(), error.details() or "", error.trailing_metadata())


def from_status(code: StatusCode, details: str, trailers: Any) -> StepStreamError:
    """The exception for a status that was read rather than raised. trailers: pairs of key and value, or None."""
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


def breaks(failure: StepStreamError) -> bool:
    """Tells whether a call broke, so that nobody knows what of it was done: its server could not be reached, or has cancelled
    it, as one does that ends while the call waits."""
    return failure.code in (StatusCode.UNAVAILABLE, StatusCode.CANCELLED)


FAILED_WRITE = "Internal error from Core"  # how grpc.aio calls a write to a stream that has ended
PATIENCE_SECONDS = 1.0  # for the true status after a failed write: it is on its way, or gRPC has dropped it

_LASTING = {  # another stream would end the same way; all others may be the network's doing
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.OUT_OF_RANGE,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.DATA_LOSS,
    grpc.StatusCode.UNAUTHENTICATED,
}

StreamCall = grpc.aio.StreamStreamCall[inference_pb2.StreamRequest, inference_pb2.StreamResponse]


class Status:
    """Why a stream has ended.

    A write that fails because the server has ended the stream puts an INTERNAL of its own in the place of the true status,
    before or after that one arrives. Each is announced by a callback, so the first one that is not of that making is true.
    Where answers were still on their way, the true one may never be announced.
    """

    def __init__(self, call: StreamCall, patience_seconds: float = PATIENCE_SECONDS) -> None:
        self._patience_seconds = patience_seconds
        self._true: asyncio.Future[StepStreamError] = asyncio.get_running_loop().create_future()
        call.add_done_callback(self._heed)

    async def reason(self) -> StepStreamError:
        """Why the stream has ended, to be asked once nothing more can be read; after a while without a status, just that."""
        try:
            async with asyncio.timeout(self._patience_seconds):
                return await self._true
        except TimeoutError:
            return Unavailable("the server has ended it")

    def _heed(self, call: Any) -> None:
        code, details, trailers = (_at_once(each) for each in (call.code(), call.details(), call.trailing_metadata()))
        if details == FAILED_WRITE or self._true.done():
            return
        if code is grpc.StatusCode.OK:
            self._true.set_result(Unavailable("the server has ended it"))
        else:
            self._true.set_result(from_status(code, details or "", trailers))


def _at_once(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """The result of a coroutine that need not wait, as those of a call that has ended."""
    try:
        coroutine.send(None)
    except StopIteration as returned:
        return returned.value
    coroutine.close()
    raise ProtocolError("status: expected it to be there once the stream has ended")


def defect(error: Exception) -> StepStreamError:
    """Something that was received cannot be used."""
    failure = ProtocolError(f"the stream cannot be read: {error!r}")
    failure.__cause__ = error
    return failure


def lasting(reason: StepStreamError) -> bool:
    """Whether a stream that ended so is not worth another try."""
    return isinstance(reason, ProtocolError) or (reason.code in _LASTING and not isinstance(reason, QueueFull))


def lost(reason: StepStreamError) -> StepStreamError:
    """Says what everybody on the stream hears when it has ended for a reason: that the connection is lost, or that a token is no
    longer good."""
    if isinstance(reason, Unauthenticated):
        return reason.again()
    error = ConnectionLost(
        f"the stream to the server has ended: {reason.message}",
        code=reason.code,
        reason=reason.reason,
        retry_delay=reason.retry_delay,
        metadata=reason.metadata,
    )
    error.__cause__ = reason
    return error
