"""What one stream has to write: messages in order, each with the credits that return once it is written.

What is ready at the same moment leaves in one message per model. Per session the order stays: answers, then errors, and nothing
overtakes a control message.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from stepstream_proto.v1 import inference_pb2
from stepstream_server.engine.ports import Ending
from stepstream_server.rpc.answers import Piece, encode_answers, split_by_size
from stepstream_server.rpc.convert import encode_detached
from stepstream_server.rpc.door import ModelDoor

# Beyond this a message gains nothing by growing, and stays well below gRPC's limit of 4 MiB for the client.
_MERGE_BYTES = 1 << 20
_ERROR_BYTES = 256  # of one RowError with its text, generously


class Message:
    """One message in the making: answers and errors of a model, or detached handles, or a finished response."""

    __slots__ = ("bytes", "credits", "door", "ending", "errors", "handles", "pieces", "response")

    def __init__(self, door: ModelDoor | None, response: inference_pb2.StreamResponse | None, ending: Ending | None) -> None:
        self.door = door
        self.response = response
        self.ending = ending
        self.handles: list[int] = []
        self.pieces: list[Piece] = []
        self.errors: list[inference_pb2.RowError] = []
        self.bytes = 0
        self.credits = 0

    def encode(self) -> inference_pb2.StreamResponse:
        if self.response is not None:
            return self.response
        if self.ending is not None:
            return encode_detached(self.handles, self.ending)
        return encode_answers(self.pieces, self.errors)


class Outgoing:
    """A queue whose last messages still grow. Bounded by the stream's credits."""

    def __init__(self) -> None:
        self._queue: deque[Message] = deque()
        self._growing: dict[ModelDoor | None, Message] = {}  # by model, None: errors of handles that stand for none

    def __len__(self) -> int:
        return len(self._queue)

    def answers(self, door: ModelDoor, piece: Piece, credits: int) -> None:
        for part in [piece] if piece.bytes <= _MERGE_BYTES else split_by_size(piece, _MERGE_BYTES):
            message = self._growing.get(door)
            if message is None or message.errors or message.bytes + part.bytes > _MERGE_BYTES:
                message = self._grow(door)
            message.pieces.append(part)
            message.bytes += part.bytes
        self._growing[door].credits += credits  # they return when the last of it is written

    def errors(self, door: ModelDoor | None, errors: Sequence[inference_pb2.RowError], credits: int) -> None:
        for error in errors:
            message = self._growing.get(door)
            if message is None or message.bytes > _MERGE_BYTES:
                message = self._grow(door)
            message.errors.append(error)
            message.bytes += _ERROR_BYTES
        self._growing[door].credits += credits

    def detached(self, handle: int, ending: Ending, credits: int) -> None:
        last = self._queue[-1] if self._queue else None
        if last is None or last.ending is not ending:
            last = self._append(Message(None, None, ending))
        last.handles.append(handle)
        last.credits += credits

    def control(self, response: inference_pb2.StreamResponse, credits: int) -> None:
        self._append(Message(None, response, None)).credits = credits

    def next(self) -> Message | None:
        """Takes the first message out; it grows no more."""
        if not self._queue:
            return None
        message = self._queue.popleft()
        if self._growing.get(message.door) is message:
            del self._growing[message.door]
        return message

    def _grow(self, door: ModelDoor | None) -> Message:
        message = Message(door, None, None)
        self._queue.append(message)
        self._growing[door] = message
        return message

    def _append(self, message: Message) -> Message:
        """A control message: what comes later must not join what was there before."""
        self._growing.clear()
        self._queue.append(message)
        return message
