"""How a session lies in a store: a fixed binary layout, so that a group of records costs a microsecond or two each to write.

    magic, format number, length of the description     16 bytes
    description                                         JSON: fingerprint, numerics, tensors by name, dtype and shape
    CRC-32 of all but itself                            4 bytes
    numbers, SHA-256 of the secret                      FIXED
    states, as described
    held                                                next_seq - acked flags
    outputs, as described                               as many steps as flags are set
    draws, as described                                 as many as FIXED says

Numbers are little-endian, tensors in C order, nothing is padded. The description is that of the model, and the same bytes in all
its records. Whoever changes anything here changes FORMAT too. Nothing that is read is trusted before it has been checked, and
nothing is allocated for a length before the data was seen to be so long.
"""

from __future__ import annotations

import itertools
import json
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from stepstream_server.engine.ports import HEAD, Group, Record, Tensor
from stepstream_server.errors import CallerError, Reason, StepStreamError
from stepstream_server.snapshots import Snapshot
from stepstream_server.spec import ModelSpec, StateSpec, TensorSpec
from stepstream_server.tenancy import plain

FORMAT = 1
_MAGIC = b"StepRec\n"
_BEGIN = struct.Struct("<8sII")  # magic, format, bytes of the description
_CHECKSUM = struct.Struct("<I")
FIXED = np.dtype([("head", HEAD), ("draws", "<i8"), ("secret", np.uint8, (32,))])
_DTYPES = ("float32", "int32", "int64", "bool")
_NUMBERS_BELOW = 2**62  # of steps and restorations; nobody gets there, and sums of two of them are still numbers of 64 bits


@dataclass(frozen=True, slots=True)
class _Declared:
    """A tensor of a record, or each step of one."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True, slots=True)
class _Description:
    """All that a record says of its model."""

    fingerprint: str
    numerics: str
    states: tuple[_Declared, ...]
    outputs: tuple[_Declared, ...]
    draw: _Declared

    def encoded(self) -> bytes:
        tensors = {"states": self.states, "outputs": self.outputs, "draw": (self.draw,)}
        told = {name: [[each.name, each.dtype, each.shape] for each in group] for name, group in tensors.items()}
        return json.dumps({"fingerprint": self.fingerprint, "numerics": self.numerics, **told}).encode()


class Layout:
    """Records of one model, computed by a backend of those `numerics`."""

    def __init__(self, spec: ModelSpec, numerics: str) -> None:
        self._spec = spec
        states, outputs = tuple(map(_declared, spec.states)), tuple(map(_declared, spec.outputs))
        self._own = _Description(spec.fingerprint, numerics, states, outputs, _declared(spec.inputs[0]))
        self._description = self._own.encoded()
        self._begin = _BEGIN.pack(_MAGIC, FORMAT, len(self._description)) + self._description
        self._begin_checksum = crc32(self._begin)

    def encode(self, group: Group) -> list[bytes]:
        """The records of a group, in its order."""
        bodies = self._plain_bodies(group)
        for place, rest in self._unacknowledged(group):
            bodies[place] += rest
        for place, draws in group.drawn.items():
            bodies[place] += draws.tobytes()
        begin, checksum, pack = self._begin, self._begin_checksum, _CHECKSUM.pack
        return [b"".join((begin, pack(crc32(body, checksum)), body)) for body in bodies]

    def _plain_bodies(self, group: Group) -> list[bytes]:
        """Gives what every record has: its numbers and states."""
        count = len(group.keys)
        fixed = np.zeros(count, FIXED)
        fixed["head"], fixed["secret"] = group.heads, group.secrets
        for place, draws in group.drawn.items():
            fixed["draws"][place] = len(draws)
        columns = [fixed, *(np.ascontiguousarray(group.states[each.name], each.dtype) for each in self._own.states)]
        sizes = (FIXED.itemsize, *(each.bytes for each in self._own.states))
        flat = [column.reshape(-1).view(np.uint8).reshape(count, size) for column, size in zip(columns, sizes, strict=True)]
        size, data = sum(sizes), np.concatenate(flat, axis=1).tobytes()
        return [data[start : start + size] for start in range(0, count * size, size)]

    def _unacknowledged(self, group: Group) -> Iterator[tuple[int, bytes]]:
        """Flags and outputs of each session that has steps which are not acknowledged, by its place in the group."""
        steps = group.heads["next_seq"] - group.heads["acked"]
        ends = np.cumsum(steps)
        kept_before = np.concatenate(([0], np.cumsum(group.held)))
        starts, kept_starts, kept_ends = ends - steps, kept_before[ends - steps], kept_before[ends]
        held = group.held.tobytes()
        outputs = [(values.tobytes(), each.bytes) for values, each in zip(group.outputs, self._own.outputs, strict=True)]
        places = np.flatnonzero(steps)
        bounds = (column[places].tolist() for column in (starts, ends, kept_starts, kept_ends))
        for place, start, end, kept_start, kept_end in zip(places.tolist(), *bounds, strict=True):
            kept = (values[kept_start * size : kept_end * size] for values, size in outputs)
            yield place, b"".join((held[start:end], *kept))

    def decode(self, key: str, data: bytes) -> Record | StepStreamError:
        """The session under a key, or why it cannot be read: RECORD_UNREADABLE for anything that `encode` has not made in this
        format, MODEL_MISMATCH for a session of a model with another fingerprint."""
        try:
            return self._decode(key, data)
        except StepStreamError as error:
            return error
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
            return _unreadable(key, f"it cannot be read: {error}")

    def _decode(self, key: str, data: bytes) -> Record:
        description, body = self._opened(key, data)
        if description.fingerprint != self._spec.fingerprint:
            message = (
                f"record of session {plain(key)}: expected the fingerprint {self._spec.fingerprint} of the model served, "
                f"got {description.fingerprint}"
            )
            raise CallerError(Reason.MODEL_MISMATCH, message)
        fixed = np.frombuffer(body[: FIXED.itemsize], FIXED)[0]
        head = _checked_head(fixed["head"])
        rest = _Rest(body[FIXED.itemsize :])
        states = {each.name: rest.take(each, each.shape) for each in description.states}
        held = rest.take(_Declared("held", "bool", ()), (int(head["next_seq"]) - int(head["acked"]),))
        kept = int(held.sum())
        outputs = {each.name: rest.take(each, (kept, *each.shape)) for each in description.outputs}
        draws = int(fixed["draws"])
        drawn = rest.take(description.draw, (draws, *description.draw.shape)) if draws else None
        rest.check_empty()
        snapshot = Snapshot(
            model=self._spec.name,
            version=self._spec.version,
            fingerprint=description.fingerprint,
            numerics=description.numerics,
            id=plain(key),
            next_seq=int(head["next_seq"]),
            acked=int(head["acked"]),
            epoch=int(head["epoch"]),
            idle_ttl=float(head["idle_ttl"]),
            states=states,
            held=held,
            outputs=outputs,
        )
        return Record(key, snapshot, fixed["secret"].tobytes(), head, drawn)

    def _opened(self, key: str, data: bytes) -> tuple[_Description, memoryview]:
        """Gives what a record says of its model, and what lies behind that and the checksum. Its bytes are as they were
        written."""
        if len(data) < _BEGIN.size:
            raise _unreadable(key, f"expected at least {_BEGIN.size} bytes, got {len(data)}")
        magic, number, length = _BEGIN.unpack_from(data)
        if magic != _MAGIC:
            raise _unreadable(key, f"expected it to begin with {_MAGIC!r}, got {magic!r}")
        if number != FORMAT:
            raise _unreadable(key, f"expected format {FORMAT}, got {number}")
        end = _BEGIN.size + length
        start = end + _CHECKSUM.size
        if len(data) < start + FIXED.itemsize:
            raise _unreadable(key, f"expected at least {start + FIXED.itemsize} bytes, got {len(data)}")
        view = memoryview(data)
        if crc32(view[start:], crc32(view[:end])) != _CHECKSUM.unpack_from(data, end)[0]:
            raise _unreadable(key, f"its {len(data)} bytes do not have the checksum that it names")
        description = data[_BEGIN.size : end]
        return self._own if description == self._description else _described(description), view[start:]


class _Rest:
    """The part of a record that has not been read."""

    def __init__(self, data: memoryview) -> None:
        self._data = data

    def take(self, declared: _Declared, shape: tuple[int, ...]) -> Tensor:
        """The next tensor, a copy. Raises ValueError where it is not there."""
        dtype = np.dtype(declared.dtype)
        count = math.prod(shape)
        size = count * dtype.itemsize
        if min(shape, default=0) < 0 or size > len(self._data):
            raise ValueError(f"{declared.name}: expected {list(shape)} of {dtype}, got {len(self._data)} bytes")
        data, self._data = self._data[:size], self._data[size:]
        if dtype == np.bool_ and np.frombuffer(data, np.uint8).max(initial=0) > 1:
            raise ValueError(f"{declared.name}: expected bytes of 0 or 1")
        return np.frombuffer(data, dtype, count).reshape(shape).copy()

    def check_empty(self) -> None:
        """Raises ValueError if there is more."""
        if self._data:
            raise ValueError(f"expected it to end, got {len(self._data)} more bytes")


def dues(heads: NDArray[Any]) -> list[float]:
    """When sessions will have been idle for longer than they may, in unix seconds."""
    due: list[float] = (heads["used_at"] + heads["idle_ttl"]).tolist()
    return due


def encoded_heads(heads: NDArray[Any]) -> list[bytes]:
    """The numbers of sessions by themselves."""
    data, size = heads.tobytes(), HEAD.itemsize
    return [data[start : start + size] for start in range(0, len(data), size)]


def decoded_heads(heads: list[bytes]) -> NDArray[Any]:
    """The reverse; what is none becomes zeros."""
    empty = bytes(HEAD.itemsize)
    return np.frombuffer(b"".join(head if len(head) == HEAD.itemsize else empty for head in heads), HEAD)


def _declared(spec: TensorSpec | StateSpec) -> _Declared:
    return _Declared(spec.name, spec.dtype, spec.shape)


def _described(data: bytes) -> _Description:
    """The reverse of `_Description.encoded`. Raises what json does, ValueError, TypeError and KeyError."""
    fields = json.loads(data)
    states, outputs, draw = (tuple(itertools.starmap(_typed, fields[name])) for name in ("states", "outputs", "draw"))
    return _Description(_text(fields["fingerprint"]), _text(fields["numerics"]), states, outputs, *draw)


def _typed(name: Any, dtype: Any, shape: Any) -> _Declared:
    if dtype not in _DTYPES:
        raise ValueError(f"expected a tensor of {', '.join(_DTYPES)}, got {dtype!r}")
    if any(type(length) is not int or not 0 <= length < _NUMBERS_BELOW for length in shape):
        raise ValueError(f"expected a shape, got {shape!r}")
    return _Declared(_text(name), dtype, tuple(shape))


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected text, got {value!r}")
    value.encode()  # raises ValueError for what is no text, which JSON can name
    return value


def _checked_head(head: Any) -> Any:
    """A copy of the numbers. Raises ValueError for what no session can have."""
    for name in ("next_seq", "acked", "epoch"):
        if not 0 <= head[name] < _NUMBERS_BELOW:
            raise ValueError(f"{name}: expected a number from 0 up to 2^62, got {head[name]}")
    for name in ("idle_ttl", "opened_at", "used_at"):
        if not head[name] >= 0:
            raise ValueError(f"{name}: expected a number from 0 on, got {head[name]}")
    if head["acked"] > head["next_seq"]:
        raise ValueError(f"acked: expected at most next_seq {head['next_seq']}, got {head['acked']}")
    return head.copy()


def _unreadable(key: str, problem: str) -> CallerError:
    return CallerError(Reason.RECORD_UNREADABLE, f"record of session {plain(key)}: {problem}")
