"""What one stream has to write: messages in order, each with the credits that return once it is written.

What is ready at the same moment leaves in one message per model. Per session the order stays: answers, then errors, and nothing
overtakes a control message.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from stepstream_proto.v1 import inference_pb2
from stepstream_server.engine.ports import Ending
from stepstream_server.rpc.answers import Part, Piece, cut_out, encode_answers, split_by_size, split_rows
from stepstream_server.rpc.convert.streams import encode_detached
from stepstream_server.rpc.door import ModelDoor

# Beyond this a message gains nothing by growing. A client that reads no more costs one such message for as long as it is there.
_MERGE_BYTES = 256 << 10
_ERROR_BYTES = 256  # of one RowError with its text, generously
_OBJECT_BYTES = 512  # that hold a part, an error or a control message in memory, beside its bytes


class Message:
    """One message in the making: answers and errors of a model, or detached handles, or a finished response."""

    __slots__ = ("bytes", "credits", "door", "ending", "errors", "handles", "held_bytes", "parts", "response")

    def __init__(self, door: ModelDoor | None, response: inference_pb2.StreamResponse | None, ending: Ending | None) -> None:
        self.door = door
        self.response = response
        self.ending = ending
        self.handles: list[int] = []
        self.parts: list[Part] = []
        self.errors: list[inference_pb2.RowError] = []
        self.bytes = 0  # on the wire, nearly
        self.held_bytes = 0  # in memory, nearly
        self.credits = 0

    def encode(self) -> bytes:
        """Serialised."""
        if self.response is not None:
            return self.response.SerializeToString()
        if self.ending is not None:
            return encode_detached(self.handles, self.ending).SerializeToString()
        return encode_answers(self.parts, self.errors)


class Unread:
    """What all streams hold for their clients to read, and how much that may be."""

    def __init__(self, limit: int) -> None:
        self.bytes = 0  # in memory, nearly
        self.limit = limit


class Outgoing:
    """A queue whose last messages still grow. Bounded by the stream's credits, and by what is left unread on all streams."""

    def __init__(self, max_message_bytes: int, unread: Unread) -> None:
        self.bytes = 0  # in memory, nearly
        self._unread = unread
        self._limit = min(_MERGE_BYTES, max_message_bytes // 2)  # half: a part may be added that nearly fills a message alone
        self._queue: deque[Message] = deque()
        self._growing: dict[ModelDoor | None, Message] = {}  # by model, None: errors of handles that stand for none

    def __len__(self) -> int:
        return len(self._queue)

    def answers(self, door: ModelDoor, piece: Piece, credits: int) -> None:
        limit = self._limit
        for each in [piece] if piece.bytes <= limit else split_by_size(split_rows(piece, door.spec, limit), limit):
            part = cut_out(each)
            message = self._growing.get(door)
            if message is None or message.errors or message.bytes + part.size > limit:
                message = self._grow(door)
            message.parts.append(part)
            self._hold(message, part.size)
        self._growing[door].credits += credits  # they return when the last of it is written

    def errors(self, door: ModelDoor | None, errors: Sequence[inference_pb2.RowError], credits: int) -> None:
        for error in errors:
            message = self._growing.get(door)
            if message is None or message.bytes + _ERROR_BYTES > self._limit:
                message = self._grow(door)
            message.errors.append(error)
            self._hold(message, _ERROR_BYTES)
        self._growing[door].credits += credits

    def detached(self, handle: int, ending: Ending, credits: int) -> None:
        last = self._queue[-1] if self._queue else None
        if last is None or last.ending is not ending:
            last = self._append(Message(None, None, ending))
        last.handles.append(handle)
        last.credits += credits
        self._hold(last, 8)

    def control(self, response: inference_pb2.StreamResponse, credits: int) -> None:
        message = self._append(Message(None, response, None))
        message.credits = credits
        self._hold(message, response.ByteSize())

    def next(self) -> Message | None:
        """Takes the first message out; it grows no more."""
        if not self._queue:
            return None
        message = self._queue.popleft()
        self._let_go(message.held_bytes)
        if self._growing.get(message.door) is message:
            del self._growing[message.door]
        return message

    def clear(self) -> None:
        """Drops everything: nobody is left to read it."""
        self._queue.clear()
        self._growing.clear()
        self._let_go(self.bytes)

    def _hold(self, message: Message, size: int) -> None:
        message.bytes += size
        held = size + _OBJECT_BYTES
        message.held_bytes += held
        self.bytes += held
        self._unread.bytes += held

    def _let_go(self, size: int) -> None:
        self.bytes -= size
        self._unread.bytes -= size

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
