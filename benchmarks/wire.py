"""A gRPC stream over HTTP/2 in as little Python as it takes: the load generator's side of the wire.

gRPC's own Python client needs about as much CPU per message as a server does. Where both share a machine, a generator made of
it would be what is measured; this one needs a fraction. It knows frames (RFC 9113), the gRPC message prefix and flow control,
and nothing of the contract. It is not a client: it speaks to servers that it trusts and gives up at the first surprise.
"""

from __future__ import annotations

import socket
import struct
from collections import deque
from collections.abc import Iterator

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE, _CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
_END_STREAM, _ACK, _END_HEADERS, _PADDED = 0x1, 0x1, 0x4, 0x8
_INITIAL_WINDOW_SIZE, _MAX_FRAME_SIZE, _ENABLE_PUSH = 4, 5, 2

_FRAME = struct.Struct(">BHBBI")  # length (8 + 16 bits), type, flags, stream
_PREFIX = struct.Struct(">BI")  # compressed, length of the message
_SETTING = struct.Struct(">HI")
_NUMBER = struct.Struct(">I")

_DEFAULT_WINDOW = 65_535
_LARGEST_WINDOW = (1 << 31) - 1
_WINDOW_LOW = 1 << 30  # given back when this much has been received, so that nothing waits for it
_FRAME_LIMIT = 1 << 20  # bytes of one frame that we accept
_READ_BYTES = 1 << 18


class WireError(Exception):
    """The peer ended a stream or did what this generator does not expect."""


class _Sending:
    """What one stream has still to send, and how much of it the peer will take."""

    def __init__(self, window: int) -> None:
        self.window = window
        self.waiting: deque[bytes] = deque()


class Connection:
    """One HTTP/2 connection with prior knowledge. Blocking: `receive` waits, unless a selector said that there is something."""

    def __init__(self, peer: socket.socket, authority: str) -> None:
        self._socket = peer
        self._authority = authority
        self._input = bytearray()
        self._output = bytearray()
        self._messages: dict[int, bytearray] = {}  # per stream: the beginning of a message that is not complete
        self._sending: dict[int, _Sending] = {}
        self._next_stream = 1
        self._window = _DEFAULT_WINDOW  # of the connection
        self._initial_window = _DEFAULT_WINDOW
        self._max_frame = 16_384
        self._received = 0  # bytes since the connection's window was last given back
        self._received_by: dict[int, int] = {}

    def fileno(self) -> int:
        """For selectors."""
        return self._socket.fileno()

    def start(self) -> None:
        """Sends the preface: windows as wide as they can be, so that the generator never holds the server back."""
        settings = ((_ENABLE_PUSH, 0), (_INITIAL_WINDOW_SIZE, _LARGEST_WINDOW), (_MAX_FRAME_SIZE, _FRAME_LIMIT))
        self._output += _PREFACE
        self._frame(_SETTINGS, 0, 0, b"".join(_SETTING.pack(*each) for each in settings))
        self._frame(_WINDOW_UPDATE, 0, 0, _NUMBER.pack(_LARGEST_WINDOW - _DEFAULT_WINDOW))
        self.flush()

    def open_stream(self, path: str) -> int:
        """Begins a call; returns its stream's number."""
        stream, self._next_stream = self._next_stream, self._next_stream + 2
        headers = (
            (b":method", b"POST"),
            (b":scheme", b"http"),
            (b":path", path.encode()),
            (b":authority", self._authority.encode()),
            (b"te", b"trailers"),
            (b"content-type", b"application/grpc"),
        )
        self._frame(_HEADERS, _END_HEADERS, stream, b"".join(_literal(*each) for each in headers))
        self._sending[stream] = _Sending(self._initial_window)
        self._messages[stream] = bytearray()
        self._received_by[stream] = 0
        return stream

    def send(self, stream: int, message: bytes) -> None:
        """Queues a message; `flush` writes it as far as the peer's windows allow."""
        self._sending[stream].waiting.append(_PREFIX.pack(0, len(message)) + message)
        self._move(stream)

    def flush(self) -> None:
        """Writes what is queued, in one system call if the kernel takes it."""
        if self._output:
            self._socket.sendall(self._output)
            self._output.clear()

    def receive(self) -> list[tuple[int, bytes]]:
        """Waits for bytes; returns the messages that they complete as (stream, message). Raises WireError."""
        data = self._socket.recv(_READ_BYTES)
        if not data:
            raise WireError("the server closed the connection")
        self._input += data
        messages: list[tuple[int, bytes]] = []
        for kind, flags, stream, payload in self._frames():
            if kind == _DATA:
                self._data(stream, flags, payload, messages)
            else:
                self._control(kind, flags, stream, payload)
        self.flush()
        return messages

    def close(self) -> None:
        """Lets the connection go, streams and all."""
        self._socket.close()

    def _frames(self) -> Iterator[tuple[int, int, int, bytes]]:
        """Takes complete frames off the input: type, flags, stream, payload."""
        position, data = 0, bytes(self._input)
        while len(data) - position >= _FRAME.size:
            high, low, kind, flags, stream = _FRAME.unpack_from(data, position)
            end = position + _FRAME.size + (high << 16 | low)
            if end > len(data):
                break
            yield kind, flags, stream, data[position + _FRAME.size : end]
            position = end
        del self._input[:position]

    def _data(self, stream: int, flags: int, payload: bytes, messages: list[tuple[int, bytes]]) -> None:
        if flags & (_END_STREAM | _PADDED):
            raise WireError(f"stream {stream}: a DATA frame with flags {flags:#x}")
        self._give_back(stream, len(payload))
        held = self._messages[stream]
        if not held and len(payload) >= _PREFIX.size and _PREFIX.unpack_from(payload)[1] == len(payload) - _PREFIX.size:
            messages.append((stream, payload[_PREFIX.size :]))  # the usual case: one frame, one message
            return
        held += payload
        while len(held) >= _PREFIX.size:
            end = _PREFIX.size + _PREFIX.unpack_from(held)[1]
            if len(held) < end:
                return
            messages.append((stream, bytes(held[_PREFIX.size : end])))
            del held[:end]

    def _control(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == _WINDOW_UPDATE:
            self._widen(stream, _NUMBER.unpack(payload)[0])
        elif kind == _SETTINGS and not flags & _ACK:
            self._settings(payload)
        elif kind == _PING and not flags & _ACK:
            self._frame(_PING, _ACK, 0, payload)
        elif kind in (_RST_STREAM, _GOAWAY, _CONTINUATION) or (kind == _HEADERS and flags & _END_STREAM):
            raise WireError(f"stream {stream}: the server sent a frame of type {kind}: {payload!r}")

    def _settings(self, payload: bytes) -> None:
        for position in range(0, len(payload), _SETTING.size):
            name, value = _SETTING.unpack_from(payload, position)
            if name == _INITIAL_WINDOW_SIZE:
                for sending in self._sending.values():
                    sending.window += value - self._initial_window
                self._initial_window = value
            elif name == _MAX_FRAME_SIZE:
                self._max_frame = value
        self._frame(_SETTINGS, _ACK, 0, b"")
        for stream in self._sending:
            self._move(stream)

    def _widen(self, stream: int, bytes_more: int) -> None:
        """The peer takes more, of one stream or of the connection."""
        if stream:
            self._sending[stream].window += bytes_more
            self._move(stream)
            return
        self._window += bytes_more
        for each in self._sending:
            self._move(each)

    def _move(self, stream: int) -> None:
        """Moves what a stream has waiting into frames, as far as both windows allow."""
        sending = self._sending[stream]
        while sending.waiting and (room := min(sending.window, self._window, self._max_frame)) > 0:
            message = sending.waiting.popleft()
            if len(message) > room:
                sending.waiting.appendleft(message[room:])
                message = message[:room]
            self._frame(_DATA, 0, stream, message)
            sending.window -= len(message)
            self._window -= len(message)

    def _give_back(self, stream: int, size: int) -> None:
        """Widens our own windows before they run out."""
        self._received += size
        self._received_by[stream] += size
        if self._received >= _WINDOW_LOW:
            self._frame(_WINDOW_UPDATE, 0, 0, _NUMBER.pack(self._received))
            self._received = 0
        if self._received_by[stream] >= _WINDOW_LOW:
            self._frame(_WINDOW_UPDATE, 0, stream, _NUMBER.pack(self._received_by[stream]))
            self._received_by[stream] = 0

    def _frame(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        size = len(payload)
        self._output += _FRAME.pack(size >> 16, size & 0xFFFF, kind, flags, stream)
        self._output += payload


def connect(address: str) -> Connection:
    """Connects to HOST:PORT. Raises OSError."""
    host, _, port = address.rpartition(":")
    peer = socket.create_connection((host, int(port)))
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection = Connection(peer, address)
    connection.start()
    return connection


def _literal(name: bytes, value: bytes) -> bytes:
    """A header field without indexing, Huffman code or names from a table (RFC 7541, 6.2.2); lengths below 127."""
    return b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value
