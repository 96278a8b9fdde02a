"""Frames over a stream socket that must not block: eight bytes of length, then so many bytes."""

from __future__ import annotations

import socket

_LENGTH_BYTES = 8
_RECEIVED_AT_ONCE = 1 << 18  # bytes: what the system holds for one socket, about


class Frames:
    """Both directions of one socket, which is made non-blocking."""

    def __init__(self, line: socket.socket) -> None:
        line.setblocking(False)
        self._line = line
        self._received = bytearray()  # the beginning of a frame
        self._needed = 0  # bytes until it is complete, its length included, as far as that is known
        self._unsent = bytearray()

    def fileno(self) -> int:
        return self._line.fileno()

    @property
    def blocked(self) -> bool:
        """Whether the other side has to read before the rest can be sent by `flush`."""
        return bool(self._unsent)

    def send(self, frame: bytes) -> None:
        """Sends as much as the system takes now. Raises OSError where nobody is left to read."""
        data = len(frame).to_bytes(_LENGTH_BYTES, "little") + frame
        if self._unsent:
            self._unsent += data
        elif (sent := self._send(data)) < len(data):
            self._unsent += memoryview(data)[sent:]

    def flush(self) -> None:
        """Goes on sending what is left."""
        sent = self._send(self._unsent)
        del self._unsent[:sent]

    def finish(self, seconds: float) -> None:
        """Sends what is left, waiting for the other side as long as this at most. Raises OSError."""
        self._line.settimeout(seconds)
        self._line.sendall(self._unsent)
        self._unsent.clear()

    def receive(self) -> list[memoryview]:
        """The frames that are complete with what has arrived. Raises EOFError, OSError."""
        try:
            arrived = self._line.recv(_RECEIVED_AT_ONCE)
        except BlockingIOError:
            return []
        if not arrived:
            raise EOFError
        if self._received:
            self._received += arrived
            if len(self._received) < self._needed:
                return []  # a large frame is put together once, not with every piece of it
            arrived = bytes(self._received)
        data, frames, start = memoryview(arrived), [], 0
        while (begin := start + _LENGTH_BYTES) <= len(data):
            end = begin + int.from_bytes(data[start:begin], "little")
            if end > len(data):
                break
            frames.append(data[begin:end])
            start = end
        self._needed = (end if begin <= len(data) else begin) - start
        self._received = bytearray(data[start:])
        return frames

    def close(self) -> None:
        """Drops what is left, too: whoever keeps this keeps nothing else."""
        self._line.close()
        self._received.clear()
        self._unsent.clear()

    def _send(self, data: bytes | bytearray) -> int:
        try:
            return self._line.send(data)
        except BlockingIOError:
            return 0
