"""What one stream has to write: messages in order, each with the credits that return once it is written.

What is ready at the same moment leaves in one message per model. Per session the order stays: answers, then errors, and nothing
overtakes a control message. Durable counts, of which the newest of each handle is enough, leave ahead of answers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from stepstream_proto.v1 import inference_pb2
from stepstream_server.engine.ports import Ending, Ints, Opened, RowErrors
from stepstream_server.errors import Reason, StepStreamError
from stepstream_server.rpc.boundary import row_error, wire_error
from stepstream_server.rpc.columns import I64, U32
from stepstream_server.rpc.deliveries import Part, Piece, cut_out, encode_answers, split_by_size, split_rows
from stepstream_server.rpc.engine_client import EngineClient
from stepstream_server.rpc.fields import encode_duration
from stepstream_server.rpc.stream.flow_control import Unread
from stepstream_server.tenancy import plain

_DETACH_REASONS: dict[Ending, inference_pb2.DetachReason] = {
    Ending.REQUESTED: inference_pb2.DETACH_REASON_REQUESTED,
    Ending.TAKEN: inference_pb2.DETACH_REASON_SESSION_TAKEN,
    Ending.CLOSED: inference_pb2.DETACH_REASON_SESSION_CLOSED,
    Ending.EXPIRED: inference_pb2.DETACH_REASON_SESSION_EXPIRED,
    Ending.EVICTED: inference_pb2.DETACH_REASON_SESSION_EVICTED,
    Ending.MOVED: inference_pb2.DETACH_REASON_SESSION_MOVED,
}

# Beyond this a message gains nothing by growing. A client that reads no more costs one such message for as long as it is there.
_MERGE_BYTES = 256 << 10
_ERROR_BYTES = 256  # of one RowError with its text, generously
_DURABLE_BYTES = 128  # that a handle's durable count takes in memory
_OBJECT_BYTES = 512  # that hold a part, an error or a control message in memory, beside its bytes


def encode_attached_session(handle: int, id: str, result: Opened | StepStreamError) -> inference_pb2.AttachedSession:
    """`handle` and `id` as asked for, the rest as the engine tells."""
    if isinstance(result, StepStreamError):
        return inference_pb2.AttachedSession(handle=handle, id=id, error=wire_error(result))
    return inference_pb2.AttachedSession(
        handle=handle,
        id=plain(result.id),
        secret=result.secret,
        next_seq=result.next_seq,
        acked=result.acked,
        epoch=result.epoch,
        durable_seq=result.durable_seq,
        bitwise=result.bitwise,
        durable=result.durable,
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


def encode_detached(
    handles: Sequence[int], ending: Ending | None, error: StepStreamError | None = None
) -> inference_pb2.StreamResponse:
    """`ending` is None where nothing was detached, for the reason that `error` gives. With both, not all was done that was
    asked for."""
    reason = inference_pb2.DETACH_REASON_UNSPECIFIED if ending is None else _DETACH_REASONS[ending]
    detached = inference_pb2.Detached(handles=np.array(handles, U32).tobytes(), reason=reason)
    if error is not None:
        detached.error.CopyFrom(wire_error(error))
    return inference_pb2.StreamResponse(detached=detached)


def encode_drain(seconds: float, *, resume: bool) -> inference_pb2.StreamResponse:
    """Streams are ended in so many seconds. resume: whether durable sessions will be found again."""
    return inference_pb2.StreamResponse(drain=inference_pb2.Drain(deadline=encode_duration(seconds), resume=resume))


def encode_durable(counts: Mapping[int, int]) -> inference_pb2.StreamResponse:
    """counts: by handle."""
    handles, below = np.array([*counts], U32), np.array([*counts.values()], I64)
    return inference_pb2.StreamResponse(durable=inference_pb2.Durable(handles=handles.tobytes(), counts=below.tobytes()))


class _Message(ABC):
    """One message in the making, with the credits that return once it is written."""

    __slots__ = ("bytes", "credits", "held_bytes")

    def __init__(self) -> None:
        self.bytes = 0  # on the wire, nearly
        self.held_bytes = 0  # in memory, nearly
        self.credits = 0

    @abstractmethod
    def encode(self) -> bytes:
        """The message, serialised."""


class _Answers(_Message):
    """Answers and errors of a model; None: errors of handles that stand for none."""

    __slots__ = ("engine", "errors", "parts")

    def __init__(self, engine: EngineClient | None) -> None:
        super().__init__()
        self.engine = engine
        self.parts: list[Part] = []
        self.errors: list[inference_pb2.RowError] = []

    def encode(self) -> bytes:
        return encode_answers(self.parts, self.errors)


class _DetachedHandles(_Message):
    """Handles that no longer stand for sessions, all for one reason."""

    __slots__ = ("ending", "error", "handles")

    def __init__(self, ending: Ending, error: StepStreamError | None) -> None:
        super().__init__()
        self.ending = ending
        self.error = error
        self.handles: list[int] = []

    def encode(self) -> bytes:
        return encode_detached(self.handles, self.ending, self.error).SerializeToString()


class _Control(_Message):
    """A finished response."""

    __slots__ = ("_response",)

    def __init__(self, response: inference_pb2.StreamResponse) -> None:
        super().__init__()
        self._response = response

    def encode(self) -> bytes:
        return self._response.SerializeToString()


class Writer:
    """A queue whose last messages still grow. Bounded by the stream's credits, and by what is left unread on all streams;
    durable counts, which nobody pays for, by its handles.

    `ready` is called when something is there to be written.
    """

    def __init__(self, max_message_bytes: int, unread: Unread, ready: Callable[[], None]) -> None:
        self.bytes = 0  # in memory, nearly
        self._unread = unread
        self._ready = ready
        self._limit = min(_MERGE_BYTES, max_message_bytes // 2)  # half: a part may be added that nearly fills a message alone
        self._queue: deque[_Message] = deque()
        self._growing: dict[EngineClient | None, _Answers] = {}  # by model
        self._controls = 0  # messages in the queue that are no answers
        self._durable: dict[int, int] = {}  # counts to be told, by handle

    def answers(self, engine: EngineClient, piece: Piece, credits: int) -> None:
        size = piece.bytes
        if size <= self._limit:
            self._add(engine, cut_out(piece, size)).credits += credits
        else:
            for each in split_by_size(split_rows(piece, self._limit), self._limit):
                last = self._add(engine, cut_out(each, each.bytes))
            last.credits += credits  # they return when the last of it is written
        self._ready()

    def _add(self, engine: EngineClient, part: Part) -> _Answers:
        """Adds a part of answers to the message that grows, or to a new one; returns that."""
        message = self._growing.get(engine)
        if message is None or message.errors or message.bytes + part.size > self._limit:
            message = self._grow(engine)
        message.parts.append(part)
        self._hold(message, part.size)
        return message

    def errors(self, engine: EngineClient | None, errors: Sequence[inference_pb2.RowError], credits: int) -> None:
        for error in errors:
            message = self._growing.get(engine)
            if message is None or message.bytes + _ERROR_BYTES > self._limit:
                message = self._grow(engine)
            message.errors.append(error)
            self._hold(message, _ERROR_BYTES)
        self._growing[engine].credits += credits
        self._ready()

    def durable(self, handle: int, count: int) -> None:
        if handle not in self._durable:
            self._account(_DURABLE_BYTES)
        self._durable[handle] = count
        self._ready()

    def detached(self, handle: int, ending: Ending, credits: int, error: StepStreamError | None = None) -> None:
        if self._durable.pop(handle, None) is not None:  # the handle may soon stand for another session
            self._account(-_DURABLE_BYTES)
        last = self._queue[-1] if self._queue else None
        if not isinstance(last, _DetachedHandles) or last.ending is not ending or last.error is not error:
            last = _DetachedHandles(ending, error)
            self._append(last)
        last.handles.append(handle)
        last.credits += credits
        self._hold(last, 8)
        self._ready()

    def control(self, response: inference_pb2.StreamResponse, credits: int) -> None:
        message = _Control(response)
        message.credits = credits
        self._append(message)
        self._hold(message, response.ByteSize())
        self._ready()

    def next(self) -> tuple[bytes, int] | None:
        """Takes the first message out, serialised, with the credits that return once it is written; it grows no more."""
        if self._durable and not self._controls:  # which may be what tells what their handles stand for
            return self._take_durable(), 0
        if not self._queue:
            return None
        message = self._queue.popleft()
        self._account(-message.held_bytes)
        if not isinstance(message, _Answers):
            self._controls -= 1
        elif self._growing.get(message.engine) is message:
            del self._growing[message.engine]
        return message.encode(), message.credits

    def _take_durable(self) -> bytes:
        """All counts, as a message."""
        counts, self._durable = self._durable, {}
        self._account(-_DURABLE_BYTES * len(counts))
        return encode_durable(counts).SerializeToString()

    def clear(self) -> None:
        """Drops everything: nobody is left to read it."""
        self._queue.clear()
        self._growing.clear()
        self._durable.clear()
        self._controls = 0
        self._account(-self.bytes)

    def _hold(self, message: _Message, size: int) -> None:
        message.bytes += size
        held = size + _OBJECT_BYTES
        message.held_bytes += held
        self._account(held)

    def _account(self, size: int) -> None:
        """So many bytes more are held, or less."""
        self.bytes += size
        self._unread.bytes += size

    def _grow(self, engine: EngineClient | None) -> _Answers:
        message = self._growing[engine] = _Answers(engine)
        self._queue.append(message)
        return message

    def _append(self, message: _Message) -> None:
        """What comes later must not join what was there before it."""
        self._growing.clear()
        self._controls += 1
        self._queue.append(message)
