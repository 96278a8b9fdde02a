"""Values that no honest caller sends, of every type that a field may have."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from support.hostile.filling import BAD_TEXT, NOT_UTF8
from support.wire import u32, u64

FORGED = '\n{"event": "forged"}'  # what a reader of the log would take for one of our lines

_SET = 0.7  # of the fields
_ROWS = 2000  # of a column that is long
_LONG = 0.02  # of messages have one
_NUMBERS = (0, 1, -1, 2, 7, 127, 255, 2**31 - 1, -(2**31), 2**32 - 1, 2**62, 2**63 - 1, -(2**63), 2**64 - 1, 999_999_999, 10**9)
_FLOATS = (0.0, -0.0, -1.0, 1e-45, 3.4e38, -3.4e38, 1e300, -1e308, float("nan"), float("inf"), float("-inf"), 0.5)
_TEXTS = (
    "",
    " ",
    "\0",
    "a\0b",
    FORGED,
    "\r\nHTTP/1.1 200 OK",
    "\x1b[2J\x1b]0;forged\x07",
    "\u2028\u2029\u202e",
    "../../etc/passwd",
    "%s%n{0}",
    "int:1",
    "int:18446744073709551616",
    "\xe9" * 127,
    "x" * 129,
    "x" * 5000,
    "\U0001f600" * 300,
    BAD_TEXT,
    f"a{BAD_TEXT}",
    "1",
    "-1",
    "0x1",
    "\u0663",  # a digit, but not ours
)
_RANGES = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_ENUM: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}


class Wild:
    """Says what is out of the ordinary in each field of a message."""

    def __init__(self, rng: Random, word: str | None = None) -> None:
        """word: said in every text, if given."""
        self._rng = rng
        self._word = word
        self._long = rng.random() < _LONG  # whether a field of very many elements may come: one, since they multiply

    def fields(self, descriptor: Descriptor) -> Iterator[FieldDescriptor]:
        """Chooses most fields; of those that exclude each other the last one is sent."""
        return (field for field in descriptor.fields if self._rng.random() < _SET)

    def count(self, field: FieldDescriptor) -> tuple[int, int]:
        repeats, self._long = (_ROWS if field.message_type is None else _ROWS // 20) if self._long else 1, False
        return self._rng.choice((0, 1, 1, 2, 3, 9)), repeats

    def value(self, field: FieldDescriptor) -> Any:
        kind = field.cpp_type
        if kind in _RANGES:
            least, most = _RANGES[kind]
            return min(max(self._rng.choice(_NUMBERS), least), most)
        if kind in (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT):
            return self._rng.choice(_FLOATS)
        if kind == FieldDescriptor.CPPTYPE_BOOL:
            return self._rng.random() < 0.5
        if field.type == FieldDescriptor.TYPE_BYTES:
            return self._bytes()
        return self._rng.choice(_TEXTS) if self._word is None else self._word

    def _bytes(self) -> bytes:
        rng = self._rng
        makes: tuple[Callable[[], bytes], ...] = (
            lambda: rng.randbytes(rng.randint(0, 33)),
            lambda: u32([rng.choice((0, 1, 2, 3, 60_000, 2**32 - 1)) for _ in range(rng.randint(1, 4))]),
            lambda: u64([rng.choice((0, 1, 2, 2**62, 2**63, 2**64 - 1)) for _ in range(rng.randint(1, 4))]),
            lambda: struct.pack("<2f", rng.choice(_FLOATS[:6]), float("nan")),
            lambda: u32(range(_ROWS)) if rng.random() < 0.1 else b"",
            lambda: NOT_UTF8,
        )
        return rng.choice(makes)()
