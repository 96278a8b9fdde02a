"""Fields of protobuf messages as bytes, where a message object per answer would cost more than the answer.

As protobuf.dev/programming-guides/encoding has it; fields behind each other make a message.
"""

from __future__ import annotations


def field(number: int, content: bytes) -> bytes:
    """A field of type bytes, string or message."""
    return head(number, len(content)) + content


def head(number: int, size: int) -> bytes:
    """What stands before the content of such a field."""
    return _varint(number << 3 | 2) + _varint(size)


def _varint(number: int) -> bytes:
    """Seven bits to a byte, the lowest first; all but the last have their highest bit set."""
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)
