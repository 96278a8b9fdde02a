"""Everything that can go wrong, as exceptions that mirror the contract's reasons; for many sessions at once, a group of them;
and how their messages show a value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
from grpc import StatusCode
from numpy.typing import NDArray

MAX_SHOWN = 80  # characters of a value in a message: enough for an id or a UUID, and no screenful


def shown(value: object) -> str:
    """A value in a message: of any type, and short."""
    try:
        text = repr(value)
    except Exception:  # an integer of more than 4,300 digits has none, nor have objects that are not whole
        return f"one of type {type(value).__name__}"
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."


class StepStreamError(Exception):
    """The root of all errors of this package.

    code: what kind of failure, in gRPC's words. reason: the stable name that the contract gives it, "" if it gives none.
    retry_delay: seconds to wait before trying again, None without advice. metadata: further facts by name: `expectedSeq`,
    the number of the next step that the session accepts, `since`, the first step that is lost, and `field`, what of a call is to
    blame. docs/errors.md tells which
    situation raises what. outputs: of a chunk that failed halfway, the steps that were answered before, [steps, ...] by name;
    else None.
    """

    code: StatusCode
    reason: str
    default_code: ClassVar[StatusCode] = StatusCode.UNKNOWN
    default_reason: ClassVar[str] = ""

    def __init__(
        self,
        message: str,
        *,
        code: StatusCode | None = None,
        reason: str | None = None,
        retry_delay: float | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = self.default_code if code is None else code
        self.reason = self.default_reason if reason is None else reason
        self.retry_delay = retry_delay
        self.metadata: Mapping[str, str] = metadata or {}
        self.outputs: Mapping[str, NDArray[Any]] | None = None

    @property
    def message(self) -> str:
        """What happened, for humans."""
        return str(self.args[0])

    def again(self, message: str | None = None) -> Self:
        """A copy for another caller, perhaps in other words: one exception object raised twice would mix up their tracebacks."""
        other = type(self)(
            message or self.message, code=self.code, reason=self.reason, retry_delay=self.retry_delay, metadata=self.metadata
        )
        other.__cause__ = self.__cause__
        return other


# By what is concerned ------------------------------------------------------------------------------------------------


class ModelError(StepStreamError):
    """The model that was named cannot be used."""


class ModelNotFound(ModelError):
    """No model of this name and version is served."""

    default_code, default_reason = StatusCode.NOT_FOUND, "MODEL_NOT_FOUND"


class ModelNotReady(ModelError):
    """The server is warming its models up."""

    default_code, default_reason = StatusCode.UNAVAILABLE, "MODEL_NOT_READY"


class ModelMismatch(ModelError):
    """The snapshot is of a model with another fingerprint than the one served."""

    default_code, default_reason = StatusCode.FAILED_PRECONDITION, "MODEL_MISMATCH"


class SessionError(StepStreamError):
    """The session cannot do what was asked."""


class SessionEnded(SessionError):
    """This session object no longer stands for a session of the server."""


class SessionNotFound(SessionEnded):
    """There has been no such session, or too long ago to be remembered."""

    default_code, default_reason = StatusCode.NOT_FOUND, "SESSION_NOT_FOUND"


class SessionClosed(SessionEnded):
    """The session was closed, here or by another caller."""

    default_code, default_reason = StatusCode.NOT_FOUND, "SESSION_CLOSED"


class SessionExpired(SessionEnded):
    """The session was idle for longer than its `idle_ttl`, or alive for too long."""

    default_code, default_reason = StatusCode.NOT_FOUND, "SESSION_EXPIRED"


class SessionLost(SessionEnded):
    """The server has been restarted, and steps of a session that this client held there are gone with it: those that were not in
    its store yet and whose inputs are not here any more, or all of them if the session was not durable."""

    default_code, default_reason = StatusCode.DATA_LOSS, "SESSION_LOST"

    @property
    def since(self) -> int:
        """The first step whose effect is lost; those before are not. 0: the whole state is."""
        return int(self.metadata.get("since", 0))


class NotBitwise(SessionEnded):
    """The session was restored or imported from what other versions or another instruction set computed, and its owner wants it
    to the bit or not at all (`require_bitwise`). One that was restored is still open at the server."""

    default_code, default_reason = StatusCode.FAILED_PRECONDITION, "NOT_BITWISE"


class SessionEvicted(SessionEnded):
    """The session was removed to make room."""

    default_code, default_reason = StatusCode.NOT_FOUND, "SESSION_EVICTED"


class SessionMoved(SessionEnded):
    """The session was exported with `close`, to live on elsewhere."""

    default_code, default_reason = StatusCode.NOT_FOUND, "SESSION_MOVED"


class SessionTaken(SessionEnded):
    """Another stream has attached the session with its secret. Whether outstanding inputs were applied, its owner can tell."""

    default_code, default_reason = StatusCode.ABORTED, "SESSION_TAKEN"


class SessionDetached(SessionEnded):
    """The session was let go here. It lives on at the server: `Client.attach_session` finds it again."""

    default_code, default_reason = StatusCode.FAILED_PRECONDITION, "SESSION_DETACHED"


class SessionExists(SessionError):
    """A session of this id is open already."""

    default_code, default_reason = StatusCode.ALREADY_EXISTS, "SESSION_EXISTS"


class SessionInUse(SessionError):
    """A stream holds the session, and no secret was given."""

    default_code, default_reason = StatusCode.FAILED_PRECONDITION, "SESSION_IN_USE"


class SessionQuarantined(SessionError):
    """The session's state cannot be trusted; only `reset` and `close` are accepted."""

    default_code, default_reason = StatusCode.FAILED_PRECONDITION, "SESSION_QUARANTINED"


class NonFiniteState(SessionQuarantined):
    """The step would have made the state infinite or not a number. It was not applied, and the session is now quarantined."""

    default_code, default_reason = StatusCode.FAILED_PRECONDITION, "NON_FINITE_STATE"


class ModelFailed(SessionQuarantined):
    """The model raised an error at the step. It was not applied, and the session is now quarantined."""

    default_code, default_reason = StatusCode.FAILED_PRECONDITION, "MODEL_FAILED"


class NoStore(SessionError):
    """The session was to be durable, and the server has no store."""

    default_code, default_reason = StatusCode.FAILED_PRECONDITION, "NO_STORE"


class RecordUnreadable(SessionError):
    """The store has the session in a form that this server cannot read, and leaves it there as it is."""

    default_code, default_reason = StatusCode.DATA_LOSS, "RECORD_UNREADABLE"


class SecretMismatch(SessionError):
    """The secret is not the session's."""

    default_code, default_reason = StatusCode.PERMISSION_DENIED, "SECRET_MISMATCH"


class SequenceError(SessionError):
    """The number of a step does not fit what the session has seen."""


class SequenceMismatch(SequenceError):
    """The input was not applied because an earlier one is missing or failed; `__cause__` says why, where it is known here."""

    default_code, default_reason = StatusCode.ABORTED, "SEQUENCE_MISMATCH"


class SequencePassed(SequenceError):
    """More steps are applied than the fork or export was to have: the session has moved on."""

    default_code, default_reason = StatusCode.FAILED_PRECONDITION, "SEQUENCE_PASSED"


class AnswerDiscarded(SequenceError):
    """The step was applied before and its answer acknowledged, so that it is no longer kept."""

    default_code, default_reason = StatusCode.OUT_OF_RANGE, "ANSWER_DISCARDED"


class AnswerNotKept(SequenceError):
    """The step was applied before with fewer outputs than are asked for now."""

    default_code, default_reason = StatusCode.OUT_OF_RANGE, "ANSWER_NOT_KEPT"


class Overloaded(StepStreamError):
    """There is no room now; `retry_delay` may say when to try again."""


class SessionCapacity(Overloaded):
    """As many sessions are open as the server has room for."""

    default_code, default_reason = StatusCode.RESOURCE_EXHAUSTED, "SESSION_CAPACITY"


class QueueFull(Overloaded):
    """As many steps, calls or streams wait as the server admits."""

    default_code, default_reason = StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL"


class WindowFull(Overloaded):
    """The input or its answer does not fit into the session's window."""

    default_code, default_reason = StatusCode.RESOURCE_EXHAUSTED, "WINDOW_FULL"


class InvalidArgument(StepStreamError, ValueError):
    """Something given is not as it must be; the message names it. A ValueError too."""

    default_code, default_reason = StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT"


class InvalidInput(InvalidArgument):
    """An input has the wrong name, shape, type or value. The session is untouched."""


class NonFiniteInput(InvalidInput):
    """An input holds an infinity or something that is not a number."""

    default_reason = "NON_FINITE_INPUT"


class InputOutOfRange(InvalidInput):
    """An input holds a number outside of what the model declares."""

    default_reason = "INPUT_OUT_OF_RANGE"


class SnapshotCorrupt(InvalidArgument):
    """The bytes are not a snapshot, or not as they were exported."""

    default_code, default_reason = StatusCode.DATA_LOSS, "SNAPSHOT_CORRUPT"


class BlockTooLarge(InvalidArgument):
    """More at once than one message may carry, one way or the other."""

    default_code, default_reason = StatusCode.RESOURCE_EXHAUSTED, "BLOCK_TOO_LARGE"


class ProtocolError(StepStreamError):
    """Client and server disagree about the contract: a defect of one of them."""

    default_code = StatusCode.INTERNAL


class HandleUnknown(ProtocolError):
    """The server knows no session by the handle that was sent."""

    default_code, default_reason = StatusCode.NOT_FOUND, "HANDLE_UNKNOWN"


class HandleInUse(ProtocolError):
    """The handle that was sent stands for another session."""

    default_code, default_reason = StatusCode.ALREADY_EXISTS, "HANDLE_IN_USE"


class StreamReplaced(ProtocolError):
    """A newer stream of the same client has taken this one's place."""

    default_code, default_reason = StatusCode.ABORTED, "STREAM_REPLACED"


class MixedModels(ProtocolError):
    """One block was sent for sessions of several models."""

    default_code, default_reason = StatusCode.INVALID_ARGUMENT, "MIXED_MODELS"


class Unavailable(StepStreamError):
    """The server cannot be reached or does not serve now."""

    default_code = StatusCode.UNAVAILABLE


class ConnectionLost(Unavailable):
    """The connection broke and could not be had again in time, or the client was closed. Inputs without an answer may or may not
    have been applied: `Client.attach_session` with the session's `acked`, and the same inputs again, give the answers without
    moving the state twice."""


class ServerDraining(Unavailable):
    """The server is about to stop and takes nothing new."""

    default_reason = "SERVER_DRAINING"


class EngineLost(Unavailable):
    """The server's process that computes has ended, and with it the sessions."""

    default_reason = "ENGINE_LOST"


class StoreUnavailable(Unavailable):
    """The server's store does not answer, or is too far behind: durable sessions can be neither opened nor found."""

    default_reason = "STORE_UNAVAILABLE"


class DeadlineExceeded(StepStreamError):
    """It took longer than was allowed. What was sent may yet be applied, unless the server says this itself."""

    default_code, default_reason = StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED"


class Unimplemented(StepStreamError):
    """The server cannot do this."""

    default_code, default_reason = StatusCode.UNIMPLEMENTED, "NOT_IMPLEMENTED"


class AccessDenied(StepStreamError):
    """The caller is unknown or not allowed to do this."""

    default_code = StatusCode.PERMISSION_DENIED


class Unauthenticated(AccessDenied):
    """The server knows no caller by the token or certificate that was shown, or none was. Of a stream that was under way: inputs
    without an answer may or may not have been applied, as with ConnectionLost."""

    default_code, default_reason = StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED"


class NotPermitted(AccessDenied):
    """The server knows the caller, who may not do this."""

    default_reason = "NOT_PERMITTED"


class ServerFault(StepStreamError):
    """The server failed; the caller did nothing wrong."""

    default_code = StatusCode.INTERNAL


class EngineFailed(ServerFault):
    """What computes the model has stopped."""

    default_reason = "ENGINE_FAILED"


class GroupError(StepStreamError, ExceptionGroup[StepStreamError]):
    """Some sessions of a group failed. `except*` with any class of this module picks out theirs.

    errors: by index in the group. ok: bool [N], the sessions that did not fail. outputs: as the call would have returned them,
    [N, ...]; what failed is NaN in float outputs and 0 in others. None where the call has no outputs.
    """

    errors: Mapping[int, StepStreamError]

    def __new__(
        cls,
        errors: Mapping[int, StepStreamError],
        ok: NDArray[np.bool_],
        outputs: Mapping[str, NDArray[Any]] | None = None,
    ) -> Self:
        return super().__new__(cls, cls._summary(errors, len(ok)), list(errors.values()))

    def __init__(
        self,
        errors: Mapping[int, StepStreamError],
        ok: NDArray[np.bool_],
        outputs: Mapping[str, NDArray[Any]] | None = None,
    ) -> None:
        first = next(iter(errors.values()))
        super().__init__(self._summary(errors, len(ok)), code=first.code, reason=first.reason, retry_delay=first.retry_delay)
        self.errors = dict(errors)
        self.ok = ok
        self.outputs = outputs

    def derive(self, excs: Sequence[StepStreamError], /) -> GroupError:  # type: ignore[override]
        """The part of this error that `except*` picked out: same indices, same outputs."""
        picked = {index: error for index, error in self.errors.items() if any(error is each for each in excs)}
        return GroupError(picked, self.ok, self.outputs)

    @staticmethod
    def _summary(errors: Mapping[int, StepStreamError], count: int) -> str:
        index, first = next(iter(errors.items()))
        return f"{len(errors)} of {count} sessions failed; first, at index {index}: {first.message}"
