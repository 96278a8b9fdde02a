"""HTTP/2 as the generators speak it, against frames written by hand."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

import pytest

from benchmarks.wire import Connection, WireError

_DATA, _HEADERS, _RST_STREAM, _WINDOW_UPDATE = 0, 1, 3, 8
_END_STREAM, _END_HEADERS = 1, 4

Ends = tuple[socket.socket, socket.socket]


@pytest.fixture
def ends() -> Iterator[Ends]:
    """The generator's end and the server's."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">BHBBI", 0, len(payload), kind, flags, stream) + payload


def _message(payload: bytes) -> bytes:
    return struct.pack(">BI", 0, len(payload)) + payload


def _frames(sent: bytes) -> list[tuple[int, int, int, int]]:
    """Type, flags, stream and length of each frame."""
    found = []
    while sent:
        high, low, kind, flags, stream = struct.unpack_from(">BHBBI", sent)
        found.append((kind, flags, stream, high << 16 | low))
        sent = sent[9 + (high << 16 | low) :]
    return found


def test_call_ends_with_its_answer(ends: Ends) -> None:
    """A call is closed behind its request; its end after an answer is what was expected."""
    ours, theirs = ends
    connection = Connection(ours, "nobody")
    call = connection.open_stream("/service/Method")
    connection.send(call, b"request", last=True)
    connection.flush()
    assert _frames(theirs.recv(1 << 16))[-1] == (_DATA, _END_STREAM, call, 12)
    theirs.sendall(_frame(_HEADERS, _END_HEADERS, call) + _frame(_DATA, 0, call, _message(b"answer")))
    theirs.sendall(_frame(_HEADERS, _END_HEADERS | _END_STREAM, call))
    assert connection.receive() == [(call, b"answer")]
    assert connection.ended == 1


def test_call_without_an_answer_is_an_error(ends: Ends) -> None:
    """A status alone means that the call failed."""
    ours, theirs = ends
    connection = Connection(ours, "nobody")
    call = connection.open_stream("/service/Method")
    connection.send(call, b"request", last=True)
    theirs.sendall(_frame(_HEADERS, _END_HEADERS | _END_STREAM, call))
    with pytest.raises(WireError, match="the server ended it"):
        connection.receive()


def test_lenient_connection_counts_what_the_server_ends(ends: Ends) -> None:
    """Whoever misbehaves expects to be refused."""
    ours, theirs = ends
    connection = Connection(ours, "nobody", lenient=True)
    refused, kept = connection.open_stream("/service/Method"), connection.open_stream("/service/Method")
    theirs.sendall(_frame(_RST_STREAM, 0, refused, bytes(4)) + _frame(_HEADERS, _END_HEADERS, kept))
    assert connection.receive() == []
    assert (connection.accepted, connection.ended) == (1, 1)


def test_pushed_back_message_waits_for_the_window(ends: Ends) -> None:
    """What exceeds the peer's window stays, `takes` says so, and it leaves when the window widens."""
    ours, theirs = ends
    connection = Connection(ours, "nobody")
    stream = connection.open_stream("/service/Method")
    assert connection.takes(stream)
    connection.send(stream, bytes(70_000))
    assert not connection.takes(stream)
    connection.flush()
    theirs.recv(1 << 20)
    theirs.sendall(_frame(_WINDOW_UPDATE, 0, 0, struct.pack(">I", 1 << 20)))
    theirs.sendall(_frame(_WINDOW_UPDATE, 0, stream, struct.pack(">I", 1 << 20)))
    connection.receive()
    assert connection.takes(stream)
    connection.flush()
    assert _frames(theirs.recv(1 << 20)) == [(_DATA, 0, stream, 70_005 - 65_535)]


def test_message_that_is_begun_lacks_its_last_byte(ends: Ends) -> None:
    """Its length is told in full, and nothing follows what was held back."""
    ours, theirs = ends
    connection = Connection(ours, "nobody")
    stream = connection.open_stream("/service/Method")
    connection.flush()
    theirs.recv(1 << 16)
    connection.begin(stream, b"request")
    connection.flush()
    sent = theirs.recv(1 << 16)
    assert _frames(sent) == [(_DATA, 0, stream, 5), (_DATA, 0, stream, 6)]
    assert sent[9:14] + sent[-6:] == _message(b"request")[:-1]


def test_finished_stream_ends_on_both_sides(ends: Ends) -> None:
    """A stream that was answered and has nothing more to say is closed, and the server's end of it is expected."""
    ours, theirs = ends
    connection = Connection(ours, "nobody")
    stream = connection.open_stream("/service/Method")
    theirs.sendall(_frame(_HEADERS, _END_HEADERS, stream) + _frame(_DATA, 0, stream, _message(b"answer")))
    connection.receive()
    connection.finish(stream)
    connection.flush()
    assert _frames(theirs.recv(1 << 16))[-1] == (_DATA, _END_STREAM, stream, 0)
    theirs.sendall(_frame(_HEADERS, _END_HEADERS | _END_STREAM, stream))
    assert connection.receive() == []
    assert connection.ended == 1


def test_stream_given_up_is_forgotten(ends: Ends) -> None:
    """What still comes for it is ignored."""
    ours, theirs = ends
    connection = Connection(ours, "nobody")
    stream = connection.open_stream("/service/Method")
    connection.reset(stream)
    connection.flush()
    assert _frames(theirs.recv(1 << 16))[-1] == (_RST_STREAM, 0, stream, 4)
    theirs.sendall(_frame(_DATA, 0, stream, _message(b"late")) + _frame(_WINDOW_UPDATE, 0, stream, bytes(3) + b"\1"))
    theirs.sendall(_frame(_HEADERS, _END_HEADERS | _END_STREAM, stream))
    assert connection.receive() == []
    assert connection.ended == 0


def test_write_does_not_wait_for_a_peer_that_does_not_read(ends: Ends) -> None:
    """An open loop must not stand still because the server does: what the kernel does not take is left for later."""
    ours, _ = ends
    connection = Connection(ours, "nobody")
    stream = connection.open_stream("/service/Method")
    connection.send(stream, bytes(60_000))
    assert connection.write()
    for _ in range(200):
        connection.reset(connection.open_stream("/" + "long" * 30))
    while connection.write():
        for _ in range(200):
            connection.reset(connection.open_stream("/" + "long" * 30))
    assert not connection.write()
