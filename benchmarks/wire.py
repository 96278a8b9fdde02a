"""gRPC calls over HTTP/2 in as little Python as it takes: the load generators' side of the wire.

gRPC's own Python client needs about as much CPU per message as a server does. Where both share a machine, a generator made of
it would be what is measured; this one needs a fraction. It knows frames (RFC 9113), the gRPC message prefix and flow control,
and nothing of the contract. It is not a client: it speaks to servers that it trusts and, unless told to bear with it, gives up
at the first surprise.
"""

from __future__ import annotations

import socket
import ssl
from collections import deque
from collections.abc import Iterator
from functools import cache

from benchmarks.http2 import (
    ACK,
    CANCEL,
    CONTINUATION,
    DATA,
    DEFAULT_WINDOW,
    ENABLE_PUSH,
    END_HEADERS,
    END_STREAM,
    FRAME,
    GOAWAY,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    MAX_FRAME_SIZE,
    NUMBER,
    PADDED,
    PING,
    PREFACE,
    PREFIX,
    RST_STREAM,
    SETTING,
    SETTINGS,
    WINDOW_UPDATE,
    request,
)

LARGEST_WINDOW = (1 << 31) - 1
_WINDOW_LOW = 1 << 30  # given back when this much has been received, so that nothing waits for it
_FRAME_LIMIT = 1 << 20  # bytes of one frame that we accept
_READ_BYTES = 1 << 18


class WireError(Exception):
    """The peer ended a stream or did what this generator does not expect."""


class _Stream:
    """What one stream has still to send, how much of it the peer will take, and what has come so far."""

    def __init__(self, window: int) -> None:
        self.window = window
        self.waiting: deque[bytes | memoryview] = deque()
        self.half_closed = False  # nothing more is to be sent once `waiting` is
        self.partial = bytearray()  # the beginning of a message that is not complete
        self.received = 0  # bytes since its window was last given back
        self.answered = False  # whether anything has come


class Connection:
    """One HTTP/2 connection with prior knowledge. Blocking: `receive` waits, unless a selector said that there is something.

    `window` is what the peer may send on each stream before it must wait; a small one is never widened. With `lenient`, streams
    that the peer ends are counted in `ended` and forgotten; otherwise only calls that were answered may end. Each call shows the
    token, if there is one.
    """

    def __init__(
        self, peer: socket.socket, authority: str, window: int = LARGEST_WINDOW, lenient: bool = False, token: str = ""
    ) -> None:
        self._socket = peer
        self._authority = authority
        self._shown = (("authorization", f"Bearer {token}"),) if token else ()
        self._own_window = window
        self._lenient = lenient
        self._input = bytearray()
        self._output = bytearray()
        self._streams: dict[int, _Stream] = {}
        self.accepted = 0  # streams that the peer has sent headers for
        self.ended = 0  # streams that the peer has ended
        self._next_stream = 1
        self._window = DEFAULT_WINDOW  # of the connection
        self._initial_window = DEFAULT_WINDOW
        self._max_frame = 16_384
        self._received = 0  # bytes since the connection's window was last given back

    def fileno(self) -> int:
        """For selectors."""
        return self._socket.fileno()

    def start(self) -> None:
        """Sends the preface: the connection's window as wide as it can be, so that only the streams' may hold the server back."""
        settings = ((ENABLE_PUSH, 0), (INITIAL_WINDOW_SIZE, self._own_window), (MAX_FRAME_SIZE, _FRAME_LIMIT))
        self._output += PREFACE
        self._frame(SETTINGS, 0, 0, b"".join(SETTING.pack(*each) for each in settings))
        self._frame(WINDOW_UPDATE, 0, 0, NUMBER.pack(LARGEST_WINDOW - DEFAULT_WINDOW))
        self.flush()

    def open_stream(self, path: str) -> int:
        """Begins a call; returns its stream's number."""
        stream, self._next_stream = self._next_stream, self._next_stream + 2
        self._frame(HEADERS, END_HEADERS, stream, _request(path, self._authority, *self._shown))
        self._streams[stream] = _Stream(self._initial_window)
        return stream

    def send(self, stream: int, message: bytes, last: bool = False) -> None:
        """Queues a message; `flush` writes it as far as the peer's windows allow. `last` closes our side behind it."""
        state = self._streams[stream]
        state.waiting.append(PREFIX.pack(0, len(message)) + message)
        state.half_closed = last
        self._move(stream, state)

    def begin(self, stream: int, message: bytes) -> None:
        """Queues all of a message but its last byte, which never comes."""
        state = self._streams[stream]
        state.waiting += (PREFIX.pack(0, len(message)), memoryview(message)[:-1])
        self._move(stream, state)

    def finish(self, stream: int) -> None:
        """Closes our side of a stream that has nothing more to send; the peer is then expected to end it."""
        self._streams[stream].half_closed = True
        self._frame(DATA, END_STREAM, stream, b"")

    def takes(self, stream: int) -> bool:
        """Whether the peer's windows leave room for a message: what is sent then leaves with the next `flush`."""
        state = self._streams[stream]
        return not state.waiting and state.window > 0 and self._window > 0

    def reset(self, stream: int) -> None:
        """Gives a call up, as a client does that goes away."""
        if self._streams.pop(stream, None) is not None:
            self._frame(RST_STREAM, 0, stream, NUMBER.pack(CANCEL))

    def flush(self) -> None:
        """Writes what is queued, in one system call if the kernel takes it."""
        if self._output:
            self._socket.sendall(self._output)
            self._output.clear()

    def write(self) -> bool:
        """Like `flush`, but leaves what the kernel does not take at once for later. Returns whether nothing is left. Not over
        TLS."""
        if self._output:
            try:
                del self._output[: self._socket.send(self._output, socket.MSG_DONTWAIT)]
            except BlockingIOError:
                return False
        return not self._output

    def receive(self) -> list[tuple[int, bytes]]:
        """Waits for bytes; returns the messages that they complete as (stream, message). Raises WireError.

        What there is to say to them, windows widened for example, leaves with the next `flush`.
        """
        data = self._socket.recv(_READ_BYTES)
        if not data:
            raise WireError("the server closed the connection")
        self._input += data
        messages: list[tuple[int, bytes]] = []
        for kind, flags, stream, payload in self._frames():
            if kind == DATA:
                self._data(stream, flags, payload, messages)
            else:
                self._control(kind, flags, stream, payload)
        return messages

    def close(self) -> None:
        """Lets the connection go, streams and all."""
        self._socket.close()

    def _frames(self) -> Iterator[tuple[int, int, int, bytes]]:
        """Takes complete frames off the input: type, flags, stream, payload."""
        position, data = 0, bytes(self._input)
        while len(data) - position >= FRAME.size:
            high, low, kind, flags, stream = FRAME.unpack_from(data, position)
            end = position + FRAME.size + (high << 16 | low)
            if end > len(data):
                break
            yield kind, flags, stream, data[position + FRAME.size : end]
            position = end
        del self._input[:position]

    def _data(self, stream: int, flags: int, payload: bytes, messages: list[tuple[int, bytes]]) -> None:
        if flags & (END_STREAM | PADDED):
            raise WireError(f"stream {stream}: a DATA frame with flags {flags:#x}")
        self._received += len(payload)
        state = self._streams.get(stream)
        if state is None:  # given up a moment ago
            return
        state.answered = True
        state.received += len(payload)
        self._give_back(stream, state)
        held = state.partial
        if not held and len(payload) >= PREFIX.size and PREFIX.unpack_from(payload)[1] == len(payload) - PREFIX.size:
            messages.append((stream, payload[PREFIX.size :]))  # the usual case: one frame, one message
            return
        held += payload
        while len(held) >= PREFIX.size:
            end = PREFIX.size + PREFIX.unpack_from(held)[1]
            if len(held) < end:
                return
            messages.append((stream, bytes(held[PREFIX.size : end])))
            del held[:end]

    def _control(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == WINDOW_UPDATE:
            self._widen(stream, NUMBER.unpack(payload)[0])
        elif kind == SETTINGS and not flags & ACK:
            self._settings(payload)
        elif kind == PING and not flags & ACK:
            self._frame(PING, ACK, 0, payload)
        elif kind in (GOAWAY, CONTINUATION):
            raise WireError(f"stream {stream}: the server sent a frame of type {kind}: {payload!r}")
        elif kind == RST_STREAM or (kind == HEADERS and flags & END_STREAM):
            self._end(stream, kind, payload)
        elif kind == HEADERS:
            self.accepted += 1

    def _end(self, stream: int, kind: int, payload: bytes) -> None:
        state = self._streams.pop(stream, None)
        if state is None:  # given up a moment ago
            return
        if not (self._lenient or (state.half_closed and state.answered)):
            raise WireError(f"stream {stream}: the server ended it with a frame of type {kind}: {payload!r}")
        self.ended += 1

    def _settings(self, payload: bytes) -> None:
        for position in range(0, len(payload), SETTING.size):
            name, value = SETTING.unpack_from(payload, position)
            if name == INITIAL_WINDOW_SIZE:
                for state in self._streams.values():
                    state.window += value - self._initial_window
                self._initial_window = value
            elif name == MAX_FRAME_SIZE:
                self._max_frame = value
        self._frame(SETTINGS, ACK, 0, b"")
        self._move_all()

    def _widen(self, stream: int, bytes_more: int) -> None:
        """The peer takes more, of one stream or of the connection."""
        if not stream:
            self._window += bytes_more
            self._move_all()
        elif (state := self._streams.get(stream)) is not None:
            state.window += bytes_more
            self._move(stream, state)

    def _move_all(self) -> None:
        for stream, state in self._streams.items():
            self._move(stream, state)

    def _move(self, stream: int, state: _Stream) -> None:
        """Moves what a stream has waiting into frames, as far as both windows allow."""
        while state.waiting and (room := min(state.window, self._window, self._max_frame)) > 0:
            message = state.waiting.popleft()
            if len(message) > room:
                state.waiting.appendleft(message[room:])
                message = message[:room]
            last = state.half_closed and not state.waiting
            self._frame(DATA, END_STREAM if last else 0, stream, message)
            state.window -= len(message)
            self._window -= len(message)

    def _give_back(self, stream: int, state: _Stream) -> None:
        """Widens our own windows before they run out."""
        if self._received >= _WINDOW_LOW:
            self._frame(WINDOW_UPDATE, 0, 0, NUMBER.pack(self._received))
            self._received = 0
        if state.received >= _WINDOW_LOW:
            self._frame(WINDOW_UPDATE, 0, stream, NUMBER.pack(state.received))
            state.received = 0

    def _frame(self, kind: int, flags: int, stream: int, payload: bytes | memoryview) -> None:
        size = len(payload)
        self._output += FRAME.pack(size >> 16, size & 0xFFFF, kind, flags, stream)
        self._output += payload


def connect(
    address: str, window: int = LARGEST_WINDOW, lenient: bool = False, authority_file: str = "", token: str = ""
) -> Connection:
    """Connects to HOST:PORT, over TLS to a server that this authority vouches for if there is a file of one (PEM); the rest as
    in Connection. Raises OSError."""
    host, _, port = address.rpartition(":")
    peer = socket.create_connection((host, int(port)))
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if authority_file:
        peer = _trusting(authority_file).wrap_socket(peer, server_hostname=host)
    connection = Connection(peer, address, window, lenient, token)
    connection.start()
    return connection


@cache
def _trusting(authority_file: str) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=authority_file)
    context.set_alpn_protocols(["h2"])
    return context


_request = cache(request)  # calls of a generator are alike
