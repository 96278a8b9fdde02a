"""Frames on a socket: however the bytes are cut, the same frames, in order, none lost."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepstream_server.ipc import frames as frames_module
from stepstream_server.ipc.frames import Frames

Pair = tuple[socket.socket, Frames]


@pytest.fixture
def pair() -> Iterator[Pair]:
    """A socket that a test writes and reads by itself, and the frames at its other end."""
    raw, other = socket.socketpair()
    frames = Frames(other)
    yield raw, frames
    raw.close()
    frames.close()


def framed(frame: bytes) -> bytes:
    """As it lies on the socket."""
    return len(frame).to_bytes(8, "little") + frame


def received(frames: Frames) -> list[bytes]:
    """What one look finds."""
    return [bytes(each) for each in frames.receive()]


def all_sent(sender: Frames, receiver: Frames, count: int) -> list[bytes]:
    """Flushes and receives in turns until so many frames are there."""
    found: list[bytes] = []
    while len(found) < count:
        sender.flush()
        found += received(receiver)
    return found


def pieces(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    """The data cut at these places."""
    edges = [0, *sorted({cut % (len(data) + 1) for cut in cuts}), len(data)]
    return [data[start:end] for start, end in pairwise(edges) if end > start]


@given(st.lists(st.binary(max_size=300), max_size=8), st.lists(st.integers(0, 3000), max_size=12))
@settings(deadline=None)
def test_any_cutting_yields_the_same_frames(sent: list[bytes], cuts: list[int]) -> None:
    """Lengths and frames may arrive in any number of pieces."""
    raw, other = socket.socketpair()
    with raw, other:
        frames, found = Frames(other), list[bytes]()
        for piece in pieces(b"".join(map(framed, sent)), cuts):
            raw.sendall(piece)
            found += received(frames)
        assert found == sent


def test_byte_by_byte(pair: Pair) -> None:
    """A frame is there with its last byte, an empty one with the last byte of its length."""
    raw, frames = pair
    found = []
    for number, byte in enumerate(framed(b"abc") + framed(b"") + framed(b"d")):
        raw.send(bytes([byte]))
        found += [(number, each) for each in received(frames)]
    assert found == [(10, b"abc"), (18, b""), (27, b"d")]
    assert received(frames) == []


def test_a_full_socket_keeps_order_and_loses_nothing(pair: Pair) -> None:
    """Sending never waits; what had no room follows by `flush`, ahead of what is sent later."""
    raw, receiver = pair
    sender = Frames(raw)
    sent = [bytes([number % 256]) * (number * 97 % 5000) for number in range(500)]
    for frame in sent[:400]:
        sender.send(frame)
    assert sender.blocked
    found = received(receiver)
    for frame in sent[400:]:
        sender.send(frame)
    found += all_sent(sender, receiver, len(sent) - len(found))
    assert found == sent
    assert not sender.blocked


def test_a_large_frame_is_put_together_once(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its cost is in proportion to its size: with every piece of it, only that piece is copied."""
    copied = 0

    class Counting(bytearray):
        def __iadd__(self, other: Any) -> Any:  # type: ignore[misc]
            nonlocal copied
            copied += len(other)
            return super().__iadd__(other)

        def __bytes__(self) -> bytes:
            nonlocal copied
            copied += len(self)
            return bytes(memoryview(self))

    monkeypatch.setattr(frames_module, "bytearray", Counting, raising=False)
    raw, receiver = pair
    sender = Frames(raw)
    frame = bytes(range(256)) * (1 << 16)  # 16 MiB
    sender.send(frame)
    assert all_sent(sender, receiver, 1) == [frame]
    assert copied < 4 * len(frame)


def test_frames_outlive_the_next_look(pair: Pair) -> None:
    """What was received is not overwritten by what comes later."""
    raw, frames = pair
    raw.sendall(framed(b"first") + framed(b"second")[:6])
    (first,) = frames.receive()
    raw.sendall(framed(b"second")[6:])
    (second,) = frames.receive()
    assert (bytes(first), bytes(second)) == (b"first", b"second")


def test_frames_are_in_step_though_one_could_not_be_heard(pair: Pair) -> None:
    """Who fails over one frame and looks again gets the next ones, from their beginnings."""
    raw, frames = pair
    raw.sendall(framed(b"bad") + framed(b"cut off")[:5])
    for _ in frames.receive():
        break
    raw.sendall(framed(b"cut off")[5:] + framed(b"good"))
    assert received(frames) == [b"cut off", b"good"]


def test_the_end_of_the_stream(pair: Pair) -> None:
    """What was sent before it is received first; half a frame is nothing."""
    raw, frames = pair
    raw.sendall(framed(b"last words") + framed(b"never finished")[:9])
    raw.close()
    assert received(frames) == [b"last words"]
    with pytest.raises(EOFError):
        frames.receive()


def test_nobody_left_to_read(pair: Pair) -> None:
    """Sending, and going on to send, fail as sockets do."""
    raw, frames = pair
    frames.send(bytes(1 << 22))
    assert frames.blocked
    raw.close()
    with pytest.raises(OSError, match="pipe"):
        frames.flush()
    with pytest.raises(OSError, match=r"pipe|timed out|reset"):
        frames.finish(1.0)
    frames.close()
    assert not frames.blocked  # what nobody will read is not kept


def test_finishing_waits_no_longer_than_told(pair: Pair) -> None:
    """A reader that takes everything gets everything; one that never reads is given up."""
    raw, frames = pair
    frame = bytes(range(256)) * (1 << 14)
    frames.send(frame)
    reader = threading.Thread(target=read_exactly, args=(raw, found := bytearray(), 8 + len(frame)))
    reader.start()
    frames.finish(60.0)
    reader.join()
    assert (frames.blocked, bytes(found[8:])) == (False, frame)
    frames.send(frame)
    with pytest.raises(TimeoutError):
        frames.finish(0.01)


def read_exactly(raw: socket.socket, found: bytearray, size: int) -> None:
    """Waits for so many bytes."""
    while len(found) < size:
        found += raw.recv(1 << 16)
