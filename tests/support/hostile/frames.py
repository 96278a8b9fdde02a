"""Bytes that are no calls: what strangers, scanners and broken peers write to a port."""

from __future__ import annotations

import ssl
import struct
from random import Random

from benchmarks.http2 import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PADDED,
    PING,
    PREFACE,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Text,
    frame,
    prefixed,
    request,
)
from support.hostile.wild import FORGED


def headers(path: Text, *more: tuple[Text, Text]) -> bytes:
    """A header block of a call to this machine."""
    return request(path, "localhost", *more)


def hello(*frames: bytes) -> bytes:
    """The first words of a client, and then these frames."""
    return PREFACE + frame(SETTINGS, 0, 0) + b"".join(frames)


def client_hello(name: str) -> bytes:
    """The first bytes of TLS, for a server of this name."""
    context, outgoing = ssl.create_default_context(), ssl.MemoryBIO()
    try:
        context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=name).do_handshake()
    except ssl.SSLWantReadError:
        return outgoing.read()
    raise AssertionError("nobody has answered")


def goaway(debug: bytes) -> bytes:
    """Says goodbye, and why."""
    return frame(GOAWAY, 0, 0, struct.pack(">II", 0, 2) + debug)


def call(stream: int, path: Text, message: bytes = b"", *more: tuple[Text, Text]) -> bytes:
    """A whole call with one message."""
    return frame(HEADERS, END_HEADERS, stream, headers(path, *more)) + frame(DATA, END_STREAM, stream, prefixed(message))


def strangers(seed: int, path: str) -> dict[str, bytes]:
    """Bytes that strangers write to a port, by what they are. path: of a call that is served."""
    rng = Random(seed)
    forged = FORGED.encode()
    whole = hello(call(1, path))
    lengths = (0, 1, 5, 9, 16_384, 16_385, 1 << 20, (1 << 24) - 1)
    cases = {
        "nothing": b"",
        "GET": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "POST": b"POST /x HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n" + forged,
        "an endless line": b"GET /" + b"a" * 200_000,
        "an upgrade": b"GET / HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMA\r\n\r\n",
        "TLS": client_hello("localhost"),
        "SSH": b"SSH-2.0-OpenSSH_9.6\r\n",
        "a log line": forged + b"\n",
        "zeros": bytes(100_000),
        "half a preface": PREFACE[:11],
        "a preface and noise": PREFACE + rng.randbytes(5000),
        "no settings": PREFACE + frame(PING, 0, 0, bytes(8)),
        "huge settings": PREFACE + frame(SETTINGS, 0, 0, struct.pack(">HI", 1, 2**32 - 1) * 2700),
        "settings of no window": PREFACE + frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 2**32 - 1)),
        "settings of five bytes": PREFACE + frame(SETTINGS, 0, 0, bytes(5)),
        "settings of a stream": PREFACE + frame(SETTINGS, 0, 3, bytes(6)),
        "padding beyond the frame": hello(frame(DATA, PADDED, 1, b"\xff" + bytes(10))),
        "padded headers beyond the frame": hello(frame(HEADERS, PADDED | END_HEADERS, 1, b"\xff" + headers(path))),
        "data before headers": hello(frame(DATA, 0, 1, b"x" * 100)),
        "an even stream": hello(frame(HEADERS, END_HEADERS, 2, headers(path))),
        "stream 0": hello(frame(HEADERS, END_HEADERS, 0, headers(path))),
        "streams backwards": hello(call(9, path), call(3, path)),
        "a continuation of nothing": hello(frame(CONTINUATION, END_HEADERS, 1, headers(path))),
        "headers that do not end": hello(frame(HEADERS, 0, 1, headers(path)), frame(PING, 0, 0, bytes(8))),
        "headers of noise": hello(*(frame(HEADERS, END_HEADERS, stream, rng.randbytes(200)) for stream in range(1, 99, 2))),
        "an unknown frame": hello(frame(0xBE, 0xFF, 1, rng.randbytes(100)), call(1, path)),
        "a push promise": hello(frame(PUSH_PROMISE, END_HEADERS, 1, bytes(4) + headers(path))),
        "no window": hello(frame(WINDOW_UPDATE, 0, 0, bytes(4)), frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 2**31 - 1)) * 3),
        "a ping of three bytes": hello(frame(PING, 0, 0, bytes(3))),
        "a reset of nothing": hello(frame(RST_STREAM, 0, 77, bytes(4))),
        "a stream that waits for itself": hello(frame(PRIORITY, 0, 1, struct.pack(">IB", 1, 255))),
        "a goodbye": hello(goaway(b"x" + forged + b"\n")),
        "a long goodbye": hello(goaway((b"x" + forged + b"\x1b[2J\n\0\r") * 500)),
        "a message without end": hello(frame(HEADERS, END_HEADERS, 1, headers(path)), frame(DATA, 0, 1, b"\0\xff\xff\xff\xff")),
        "a compressed message": hello(
            frame(HEADERS, END_HEADERS, 1, headers(path)), frame(DATA, END_STREAM, 1, b"\1\0\0\0\4abcd")
        ),
        "half a message": hello(frame(HEADERS, END_HEADERS, 1, headers(path)), frame(DATA, END_STREAM, 1, b"\0\0\0\0\x09abc")),
        "control characters": hello(call(1, path, b"", ("x-forged", FORGED), ("user-agent", "\x1b[2J\r\n\0"))),
        "a header of 100 KB": hello(call(1, path, b"", ("x-long", "a" * 100_000))),
        "no path": hello(call(1, b"")),
        "a path of noise": hello(call(1, rng.randbytes(100))),
        **{f"a length of {length}": hello(length.to_bytes(3) + frame(DATA, 0, 1, b"x" * 40)[3:]) for length in lengths},
        **{f"cut after {cut}": whole[:cut] for cut in range(1, len(whole), 13)},
        **{f"noise {turn}": rng.randbytes(rng.choice((1, 10, 1000, 60_000))) for turn in range(20)},
        **{f"frames of noise {turn}": hello(*(_noise(rng) for _ in range(10))) for turn in range(40)},
    }
    return cases


def _noise(rng: Random) -> bytes:
    """A frame whose form is right."""
    return frame(rng.randrange(12), rng.randrange(256), rng.choice((0, 1, 2, 3, 2**31 - 1)), rng.randbytes(rng.randrange(60)))
