"""Messages of the contract and the records of the engine port, each encode beside its decode. Blocks are in `columns`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np
from google.protobuf.duration_pb2 import Duration
from numpy.typing import NDArray

from stepstream_proto.v1 import common_pb2, inference_pb2, model_pb2, session_pb2
from stepstream_server.engine.ports import Detached, Ending, Ints, Opened, RowErrors, SessionInfo
from stepstream_server.errors import CallerError, Reason, StepStreamError
from stepstream_server.rpc.columns import U32
from stepstream_server.rpc.door import ModelDoor
from stepstream_server.rpc.status import row_error, wire_error
from stepstream_server.spec import DType, TensorSpec

# Sessions that one message may open or attach: an answer with ids of 128 characters takes 2 MB, half of gRPC's limit of 4 MiB.
MAX_SESSIONS_PER_MESSAGE = 10_000

_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_DATA_TYPES: dict[DType, common_pb2.DataType] = {
    "float32": common_pb2.DATA_TYPE_FLOAT32,
    "int64": common_pb2.DATA_TYPE_INT64,
}
_DETACH_REASONS: dict[Ending, inference_pb2.DetachReason] = {
    Ending.REQUESTED: inference_pb2.DETACH_REASON_REQUESTED,
    Ending.TAKEN: inference_pb2.DETACH_REASON_SESSION_TAKEN,
    Ending.CLOSED: inference_pb2.DETACH_REASON_SESSION_CLOSED,
    Ending.EXPIRED: inference_pb2.DETACH_REASON_SESSION_EXPIRED,
    Ending.EVICTED: inference_pb2.DETACH_REASON_SESSION_EVICTED,
    Ending.MOVED: inference_pb2.DETACH_REASON_SESSION_MOVED,
}
_SESSION_ENDED: dict[Ending, Reason] = {
    Ending.REQUESTED: Reason.SESSION_CLOSED,
    Ending.TAKEN: Reason.SESSION_IN_USE,
    Ending.CLOSED: Reason.SESSION_CLOSED,
    Ending.EXPIRED: Reason.SESSION_EXPIRED,
    Ending.EVICTED: Reason.SESSION_EVICTED,
    Ending.MOVED: Reason.SESSION_MOVED,
}


# --- scalars ---------------------------------------------------------------------------------------------------------


def encode_duration(seconds: float) -> Duration:
    """Exact to the nanosecond."""
    duration = Duration()
    duration.FromNanoseconds(round(seconds * 1e9))
    return duration


def decode_duration(field: str, duration: Duration) -> float:
    """Seconds. Raises CallerError(INVALID_ARGUMENT) unless positive."""
    seconds = duration.seconds + duration.nanos / 1e9
    if seconds <= 0:
        raise CallerError(Reason.INVALID_ARGUMENT, f"{field}: expected more than 0 s, got {seconds} s", field=field)
    return seconds


def check_id(field: str, id: str) -> str:
    """Raises CallerError(INVALID_ARGUMENT) for what no session can be called."""
    if not _ID.fullmatch(id):
        raise CallerError(
            Reason.INVALID_ARGUMENT,
            f"{field}: expected 1 to 128 characters of A-Z a-z 0-9 . _ : -, got {id[:130]!r}",
            field=field,
        )
    return id


def check_count(count: int) -> None:
    """Raises CallerError(BLOCK_TOO_LARGE) for more sessions than one message may open or attach."""
    if count > MAX_SESSIONS_PER_MESSAGE:
        raise CallerError(
            Reason.BLOCK_TOO_LARGE,
            f"sessions: expected at most {MAX_SESSIONS_PER_MESSAGE} in one message, got {count}",
            field="sessions",
        )


# --- sessions --------------------------------------------------------------------------------------------------------


def decode_ids(ids: Sequence[str], count: int) -> list[str]:
    """Ids of sessions to open, empty ones where the engine makes them. Raises CallerError(INVALID_ARGUMENT)."""
    check_count(count)
    if not ids:
        return [""] * count
    if len(ids) != count:
        raise CallerError(Reason.INVALID_ARGUMENT, f"ids: expected none or {count}, got {len(ids)}", field="ids")
    return [check_id(f"ids[{index}]", id) for index, id in enumerate(ids)]


def decode_idle_ttl(
    request: session_pb2.OpenSessionRequest | session_pb2.OpenSessionsRequest | inference_pb2.OpenOnStream,
) -> float | None:
    """Seconds, None if the caller leaves it to the engine. Raises CallerError, also for what is not to be had yet."""
    if request.durable:
        raise CallerError(Reason.NOT_IMPLEMENTED, "durable: sessions cannot be durable yet", field="durable")
    return decode_duration("idle_ttl", request.idle_ttl) if request.HasField("idle_ttl") else None


def encode_session(door: ModelDoor, info: SessionInfo) -> session_pb2.Session:
    """What `Get` tells of a session."""
    status = session_pb2.SESSION_STATUS_QUARANTINED if info.quarantined else session_pb2.SESSION_STATUS_OPEN
    return session_pb2.Session(
        model=door.spec.name,
        version=door.spec.version,
        id=info.id,
        status=status,
        next_seq=info.next_seq,
        acked=info.acked,
        epoch=info.epoch,
        pending_steps=info.pending_steps,
        age=encode_duration(info.age),
        idle=encode_duration(info.idle),
        idle_ttl=encode_duration(info.idle_ttl),
        attached=info.attached,
        slot=info.slot,
    )


def encode_opened(results: Iterable[Opened | StepStreamError]) -> list[session_pb2.OpenedSession]:
    """One entry per session asked for."""
    return [
        session_pb2.OpenedSession(error=wire_error(result))
        if isinstance(result, StepStreamError)
        else session_pb2.OpenedSession(id=result.id, secret=result.secret)
        for result in results
    ]


# --- on a stream -----------------------------------------------------------------------------------------------------


def encode_attached_session(handle: int, id: str, result: Opened | StepStreamError) -> inference_pb2.AttachedSession:
    """`handle` and `id` as asked for, the rest as the engine tells."""
    if isinstance(result, StepStreamError):
        return inference_pb2.AttachedSession(handle=handle, id=id, error=wire_error(result))
    return inference_pb2.AttachedSession(
        handle=handle,
        id=result.id,
        secret=result.secret,
        next_seq=result.next_seq,
        acked=result.acked,
        epoch=result.epoch,
    )


def encode_attached(model: str, version: int, sessions: Sequence[inference_pb2.AttachedSession]) -> inference_pb2.StreamResponse:
    """Answers OpenOnStream and Attach; the window is set by whoever knows the model."""
    return inference_pb2.StreamResponse(attached=inference_pb2.Attached(model=model, version=version, sessions=sessions))


def encode_refused(
    handles: NDArray[np.uint32], first_seqs: Ints, lengths: Ints, error: StepStreamError
) -> list[inference_pb2.RowError]:
    """Rows that never reached an engine. Nothing of them was applied, so a session, where there is one, still expects them."""
    reason, known = wire_error(error), error.reason is not Reason.HANDLE_UNKNOWN
    columns = zip(handles.tolist(), first_seqs.tolist(), lengths.tolist(), strict=True)
    return [
        inference_pb2.RowError(handle=handle, first_seq=first, length=length, error=reason, expected_seq=first if known else 0)
        for handle, first, length in columns
    ]


def encode_row_error(errors: RowErrors, row: int) -> inference_pb2.RowError:
    """One row of an engine's refusals."""
    return inference_pb2.RowError(
        handle=errors.tags[row],
        first_seq=errors.first_seqs[row],
        length=errors.lengths[row],
        error=row_error(errors.reasons[row], errors.messages[row]),
        expected_seq=errors.expected_seqs[row],
    )


def decode_row_error(errors: RowErrors, row: int) -> StepStreamError:
    """The same as an exception, for a call that stands for one row."""
    return CallerError(errors.reasons[row], errors.messages[row], expected_seq=errors.expected_seqs[row])


def encode_detached(
    handles: Sequence[int], ending: Ending | None, error: StepStreamError | None = None
) -> inference_pb2.StreamResponse:
    """`ending` is None where nothing was detached, for the reason that `error` gives."""
    reason = inference_pb2.DETACH_REASON_UNSPECIFIED if ending is None else _DETACH_REASONS[ending]
    detached = inference_pb2.Detached(handles=np.array(handles, U32).tobytes(), reason=reason)
    if error is not None:
        detached.error.CopyFrom(wire_error(error))
    return inference_pb2.StreamResponse(detached=detached)


def decode_detached(detached: Detached, row: int) -> StepStreamError:
    """Why a momentary call's session went away under it."""
    ending = detached.endings[row]
    return CallerError(_SESSION_ENDED[ending], f"the session ended while the step was waiting: {ending.name}")


def encode_drain(seconds: float) -> inference_pb2.StreamResponse:
    """Streams are ended in so many seconds."""
    return inference_pb2.StreamResponse(drain=inference_pb2.Drain(deadline=encode_duration(seconds)))


# --- models ----------------------------------------------------------------------------------------------------------


def encode_window(door: ModelDoor) -> common_pb2.Window:
    """How much a session of the model may have unacknowledged."""
    return common_pb2.Window(steps=door.window_steps, bytes=door.window_bytes)


def encode_model(door: ModelDoor) -> model_pb2.Model:
    """What a bundle declares."""
    spec = door.spec
    model = model_pb2.Model(
        name=spec.name,
        version=spec.version,
        description=spec.description,
        cell=spec.cell.kind,
        inputs=[_encode_tensor(each) for each in spec.inputs],
        outputs=[_encode_tensor(each) for each in spec.outputs],
        states=[_encode_tensor(TensorSpec(each.name, "float32", each.shape)) for each in spec.states],
        fingerprint=spec.fingerprint,
        window=encode_window(door),
        licence=spec.licence,
    )
    if spec.time_step_seconds is not None:
        model.time_step.CopyFrom(encode_duration(spec.time_step_seconds))
    return model


def _encode_tensor(spec: TensorSpec) -> common_pb2.TensorSpec:
    return common_pb2.TensorSpec(
        name=spec.name,
        data_type=_DATA_TYPES[spec.dtype],
        shape=spec.shape,
        description=spec.description,
        limit=spec.limit,
    )
