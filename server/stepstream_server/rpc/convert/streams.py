"""What a stream is told: sessions attached and detached, rows refused, the server about to stop."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from stepstream_proto.v1 import inference_pb2
from stepstream_server.engine.ports import Ending, Ints, Opened, RowErrors
from stepstream_server.errors import CallerError, Reason, StepStreamError
from stepstream_server.rpc.columns import U32
from stepstream_server.rpc.convert.fields import encode_duration
from stepstream_server.rpc.status import row_error, wire_error

_DETACH_REASONS: dict[Ending, inference_pb2.DetachReason] = {
    Ending.REQUESTED: inference_pb2.DETACH_REASON_REQUESTED,
    Ending.TAKEN: inference_pb2.DETACH_REASON_SESSION_TAKEN,
    Ending.CLOSED: inference_pb2.DETACH_REASON_SESSION_CLOSED,
    Ending.EXPIRED: inference_pb2.DETACH_REASON_SESSION_EXPIRED,
    Ending.EVICTED: inference_pb2.DETACH_REASON_SESSION_EVICTED,
    Ending.MOVED: inference_pb2.DETACH_REASON_SESSION_MOVED,
}


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
        handle=errors.handles[row],
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


def encode_drain(seconds: float) -> inference_pb2.StreamResponse:
    """Streams are ended in so many seconds."""
    return inference_pb2.StreamResponse(drain=inference_pb2.Drain(deadline=encode_duration(seconds)))
