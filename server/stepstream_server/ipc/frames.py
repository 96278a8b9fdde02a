"""Frames over a stream socket that must not block: four bytes of length, then so many bytes."""

from __future__ import annotations

import socket
from collections.abc import Iterator

_LENGTH_BYTES = 4
_RECEIVED_AT_ONCE = 1 << 18  # bytes: what the system holds for one socket, about


class Frames:
    """Both directions of one socket, which is made non-blocking."""

    def __init__(self, line: socket.socket) -> None:
        line.setblocking(False)
        self._line = line
        self._received = bytearray()  # the beginning of a frame
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

    def receive(self) -> Iterator[memoryview]:
        """The frames that are complete with what has arrived; views that end with the next call. Raises EOFError, OSError."""
        try:
            arrived = self._line.recv(_RECEIVED_AT_ONCE)
        except BlockingIOError:
            return
        if not arrived:
            raise EOFError
        data = memoryview(bytes(self._received + arrived) if self._received else arrived)
        start = 0
        while (begin := start + _LENGTH_BYTES) <= len(data):
            end = begin + int.from_bytes(data[start:begin], "little")
            if end > len(data):
                break
            yield data[begin:end]
            start = end
        self._received = bytearray(data[start:])

    def close(self) -> None:
        self._line.close()

    def _send(self, data: bytes | bytearray) -> int:
        try:
            return self._line.send(data)
        except BlockingIOError:
            return 0
