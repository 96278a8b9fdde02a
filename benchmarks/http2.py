"""HTTP/2 as bytes: frames (RFC 9113), fields of headers (RFC 7541) and the messages of gRPC in them."""

from __future__ import annotations

import struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
ACK, END_STREAM, END_HEADERS, PADDED = 0x1, 0x1, 0x4, 0x8
ENABLE_PUSH, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE = 2, 4, 5  # settings
DEFAULT_WINDOW = 65_535
CANCEL = 8  # error code of a stream that is not wanted any more

FRAME = struct.Struct(">BHBBI")  # length (8 + 16 bits), type, flags, stream
PREFIX = struct.Struct(">BI")  # compressed, length of the message
SETTING = struct.Struct(">HI")
NUMBER = struct.Struct(">I")

Text = str | bytes


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """A frame of less than 16 MiB."""
    size = len(payload)
    return FRAME.pack(size >> 16, size & 0xFFFF, kind, flags, stream) + payload


def request(path: Text, authority: Text, *more: tuple[Text, Text]) -> bytes:
    """The header block of a gRPC call, with more fields at its end."""
    known = ((":method", "POST"), (":scheme", "http"), (":path", path), (":authority", authority), ("te", "trailers"))
    return b"".join(field(*each) for each in (*known, ("content-type", "application/grpc"), *more))


def field(name: Text, value: Text) -> bytes:
    """A header field as a literal that is never indexed (RFC 7541, 6.2.2), without Huffman code."""
    return b"\0" + _string(name) + _string(value)


def prefixed(message: bytes) -> bytes:
    """A message of gRPC, not compressed."""
    return PREFIX.pack(0, len(message)) + message


def _string(text: Text) -> bytes:
    data = text.encode() if isinstance(text, str) else text
    return _integer(len(data)) + data


def _integer(number: int) -> bytes:
    """An integer with a prefix of 7 bits (RFC 7541, 5.1)."""
    if number < 127:
        return bytes([number])
    digits, rest = bytearray([127]), number - 127
    while rest > 127:
        digits.append(rest & 127 | 128)
        rest >>= 7
    return bytes([*digits, rest])
