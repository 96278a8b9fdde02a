"""What callers give, checked and turned into bytes, and arrays made of bytes again. Pure: no connection, no session.

On the wire elements are little-endian and rows contiguous, columns are little-endian integers.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stepstream._errors import InputOutOfRange, InvalidArgument, InvalidInput, NonFiniteInput, ProtocolError
from stepstream._models import ModelInfo, TensorInfo

MAX_COUNT = 2**64 - 1  # counts and numbers of steps are uint64 on the wire
MAX_VERSION = 2**32 - 1
MAX_SECONDS = 315_576_000_000  # 10,000 years: the longest that a protobuf Duration may be


def version_number(version: int | None) -> int:
    """The contract's number of a version: 0 for None, the newest served. Raises InvalidArgument."""
    return 0 if version is None else _whole("version", version, 1, MAX_VERSION)


def step_count(name: str, count: int) -> int:
    """A number of steps, or of one step, from 0. Raises InvalidArgument naming it."""
    return _whole(name, count, 0, MAX_COUNT)


def at_least_one(name: str, count: int) -> int:
    """How many there shall be. Raises InvalidArgument naming it."""
    return _whole(name, count, 1, MAX_VERSION)


def duration(name: str, seconds: float) -> timedelta:
    """A time that something may take. Raises InvalidArgument naming it, for nan too."""
    if not (math.isfinite(seconds) and 0 < seconds <= MAX_SECONDS):
        raise InvalidArgument(f"{name}: expected a positive number of seconds up to {MAX_SECONDS}, got {seconds!r}")
    return timedelta(seconds=seconds)


def _whole(name: str, value: int, lowest: int, highest: int) -> int:
    if not lowest <= value <= highest:
        raise InvalidArgument(f"{name}: expected at least {lowest} and at most {highest}, got {value!r}")
    return value


Values = ArrayLike | Mapping[str, ArrayLike]
"""What a caller gives: an array for a model with one input, else arrays by name."""

Array = NDArray[Any]

_AXES = ("sessions", "steps")


def pack(model: ModelInfo, values: Values, lead: tuple[int | None, ...]) -> tuple[tuple[int, ...], list[bytes]]:
    """Checks inputs and turns each into bytes, in the model's order. Returns the axes before each tensor's own shape as well.

    lead: these axes as they must be; None: of any length >= 1. For a tensor of shape [1] the last axis may be left out, so
    that a model of one number per step takes plain numbers. Raises InvalidInput naming input, expected and actual.
    """
    given = _by_name(model, values)
    packed: list[bytes] = []
    for spec in model.inputs:
        array = _checked(spec, given[spec.name], lead)
        lead = array.shape[: len(lead)]  # inputs after the first must agree with it
        packed.append(array.tobytes())
    return tuple(size for size in lead if size is not None), packed


def _by_name(model: ModelInfo, values: Values) -> Mapping[str, ArrayLike]:
    names = [spec.name for spec in model.inputs]
    if not isinstance(values, Mapping):
        if len(names) != 1:
            raise InvalidInput(f"inputs: expected a mapping with {names}, got {type(values).__name__}")
        return {names[0]: values}
    if set(values) != set(names):
        raise InvalidInput(f"inputs: expected a mapping with {names}, got one with {list(values)}")
    return values


def _checked(spec: TensorInfo, value: ArrayLike, lead: tuple[int | None, ...]) -> Array:
    try:
        array = np.asarray(value)
    except ValueError as error:  # ragged lists
        raise InvalidInput(f"input {spec.name!r}: expected an array of {_shape(spec, lead)}, got {error}") from None
    if spec.shape == (1,) and array.ndim == len(lead):
        array = array[..., np.newaxis]
    expected = f"input {spec.name!r}: expected {spec.dtype} {_shape(spec, lead)}"
    fits = array.ndim == len(lead) + len(spec.shape) and array.shape[len(lead) :] == spec.shape
    if not fits or not all(want in (None, got) and got > 0 for want, got in zip(lead, array.shape, strict=False)):
        raise InvalidInput(f"{expected}, got {array.dtype} {list(array.shape)}")
    if array.dtype.kind not in ("biuf" if spec.dtype.kind == "f" else "biu"):
        raise InvalidInput(f"{expected}, got numbers of type {array.dtype}")
    return _float32(spec, array) if spec.dtype.kind == "f" else _int64(spec, array)


def _float32(spec: TensorInfo, array: Array) -> Array:
    with np.errstate(over="ignore"):  # a float64 beyond float32's range becomes infinite and is refused below
        array = array.astype("<f4", copy=False)
    if not np.isfinite(array).all():
        where = np.argwhere(~np.isfinite(array))[0].tolist()
        raise NonFiniteInput(f"input {spec.name!r}: expected finite float32 numbers, got {array[tuple(where)]} at {where}")
    return array


def _int64(spec: TensorInfo, array: Array) -> Array:
    if spec.limit:
        outside = (array < 0) | (array >= spec.limit)
        if outside.any():
            where = np.argwhere(outside)[0].tolist()
            raise InputOutOfRange(
                f"input {spec.name!r}: expected 0 <= value < {spec.limit}, got {array[tuple(where)]} at {where}"
            )
    return array.astype("<i8", copy=False)


def _shape(spec: TensorInfo, lead: tuple[int | None, ...]) -> str:
    names = _AXES[-len(lead) :] if lead else ()
    axes = [name if size is None else str(size) for name, size in zip(names, lead, strict=True)]
    return f"[{', '.join([*axes, *map(str, spec.shape)])}]"


def unpack(specs: Sequence[TensorInfo], columns: Sequence[bytes], steps: int) -> list[Array]:
    """Read-only views of bytes as arrays [steps, *shape], one per spec. Raises ProtocolError for columns that do not fit."""
    if len(columns) != len(specs):
        raise ProtocolError(f"outputs: expected {len(specs)} columns, got {len(columns)}")
    arrays = []
    for spec, column in zip(specs, columns, strict=True):
        if len(column) != steps * spec.step_bytes:
            raise ProtocolError(f"output {spec.name!r}: expected {steps * spec.step_bytes} bytes, got {len(column)}")
        arrays.append(np.frombuffer(column, spec.dtype.newbyteorder("<")).reshape(steps, *spec.shape))
    return arrays


def slices(model: ModelInfo, inputs: Sequence[bytes], first: int, steps: int) -> Sequence[bytes | memoryview]:
    """Of packed inputs those of `steps` steps from `first` on, without copying."""
    if first == 0 and all(len(each) == steps * spec.step_bytes for spec, each in zip(model.inputs, inputs, strict=True)):
        return inputs
    return [
        memoryview(each)[first * spec.step_bytes : (first + steps) * spec.step_bytes]
        for spec, each in zip(model.inputs, inputs, strict=True)
    ]


def blank(spec: TensorInfo, places: int) -> Array:
    """[places, *shape] to be filled piece by piece: NaN where nothing comes, 0 for integers."""
    return np.full((places, *spec.shape), np.nan if spec.dtype.kind == "f" else 0, spec.dtype)


def uint32s(values: Sequence[int]) -> bytes:
    """A column of uint32. struct is several times faster than numpy for lists of Python integers."""
    return struct.pack(f"<{len(values)}I", *values)


def uint64s(values: Sequence[int]) -> bytes:
    """A column of uint64."""
    return struct.pack(f"<{len(values)}Q", *values)


def numbers(column: bytes, dtype: str) -> list[int]:
    """A column as Python integers. dtype: '<u4' or '<u8'. Raises ProtocolError for a column with a torn last entry."""
    if len(column) % np.dtype(dtype).itemsize:
        raise ProtocolError(f"column: expected whole entries of type {dtype}, got {len(column)} bytes")
    result: list[int] = np.frombuffer(column, dtype).tolist()
    return result
