"""What callers give, checked and turned into bytes, and arrays made of bytes again. Pure: no connection, no session.

On the wire elements are little-endian and rows contiguous, columns are little-endian integers.
"""

from __future__ import annotations

import operator
import struct
import sys
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from decimal import Decimal
from itertools import chain
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stepstream._errors import InputOutOfRange, InvalidArgument, InvalidInput, NonFiniteInput, ProtocolError, shown
from stepstream._models import ModelInfo, TensorInfo
from stepstream._text import Text

MAX_COUNT = 2**64 - 1  # counts and numbers of steps are uint64 on the wire
MAX_VERSION = 2**32 - 1
MAX_SECONDS = 315_576_000_000  # 10,000 years: the longest that a protobuf Duration may be


def version_number(version: int | None) -> int:
    """The contract's number of a version: 0 for None, the newest served. Raises InvalidArgument."""
    return 0 if version is None else whole("version", version, 1, MAX_VERSION)


def is_real(value: object) -> bool:
    """Whether it is a number, finite or not, rather than a truth value or text."""
    return isinstance(value, Real) and not isinstance(value, bool)


def step_count(name: str, count: int) -> int:
    """A number of steps, or of one step, from 0. Raises InvalidArgument naming it."""
    return whole(name, count, 0, MAX_COUNT)


def at_least_one(name: str, count: int) -> int:
    """How many there shall be. Raises InvalidArgument naming it."""
    return whole(name, count, 1, MAX_VERSION)


def duration(name: str, seconds: float) -> timedelta:
    """A time that something may take. Raises InvalidArgument naming it, for nan too."""
    if not is_real(seconds) or not 0 < seconds <= MAX_SECONDS:
        raise InvalidArgument(f"{name}: expected a positive number of seconds up to {MAX_SECONDS}, got {shown(seconds)}")
    return timedelta(seconds=float(seconds))


def identifier(name: str, value: str) -> str:
    """An id or the name of a model, whose characters the server checks. Raises InvalidArgument naming it."""
    if not isinstance(value, str) or any("\ud800" <= each <= "\udfff" for each in value):  # UTF-8 has no surrogates
        raise InvalidArgument(f"{name}: expected a string of characters that UTF-8 has, got {shown(value)}")
    return value


def identifiers(name: str, values: Iterable[str], count: int) -> list[str]:
    """`count` ids. Raises InvalidArgument naming them, for a string, which would be one id per character, too."""
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise InvalidArgument(f"{name}: expected a list of {count} strings, got {shown(values)}")
    found = [identifier(f"{name}[{place}]", value) for place, value in enumerate(values)]
    if len(found) != count:
        raise InvalidArgument(f"{name}: expected {count}, got {len(found)}")
    return found


def secret_bytes(secret: bytes | None) -> bytes:
    """A secret as the contract has it: empty for None. Raises InvalidArgument."""
    return b"" if secret is None else byte_string("secret", secret)


def byte_string(name: str, value: bytes) -> bytes:
    """A secret, which no message shows, or a snapshot. Raises InvalidArgument naming it."""
    if not isinstance(value, bytes):
        raise InvalidArgument(f"{name}: expected bytes, got {type(value).__name__}")
    return value


def whole(name: str, value: int, lowest: int, highest: int) -> int:
    """A whole number within bounds. Raises InvalidArgument naming it."""
    try:
        number = None if isinstance(value, bool) else operator.index(value)  # numpy's integers too
    except TypeError:
        number = None
    if number is None or not lowest <= number <= highest:
        raise InvalidArgument(f"{name}: expected a whole number of at least {lowest} and at most {highest}, got {shown(value)}")
    return number


Values = ArrayLike | Mapping[str, ArrayLike]
"""Inputs as a caller gives them: an array for a model with one input, else arrays by name; text for an input of text."""

Array = NDArray[Any]

_AXES = ("sessions", "steps")
_NESTED = (list, tuple, deque)  # what numpy takes apart that may hold masked arrays
# Of objects: which are numbers, as what they are read, and what those beyond it are.
_FLOATS: tuple[tuple[type, ...], str, type[InvalidInput]] = ((Real, Decimal), "float64", NonFiniteInput)
_INTEGERS: tuple[tuple[type, ...], str, type[InvalidInput]] = ((Integral,), "int64", InputOutOfRange)
_BOOLS: tuple[tuple[type, ...], str, type[InvalidInput]] = ((Integral, np.bool_), "int64", InvalidInput)
_OBJECTS = {"f": _FLOATS, "i": _INTEGERS, "b": _BOOLS}
_PLAIN = {float, int, bool, np.float32, np.float64, np.int64}  # what lists mostly hold


def pack(model: ModelInfo, values: Values, lead: tuple[int | None, ...]) -> tuple[tuple[int, ...], list[bytes]]:
    """Checks inputs and turns each into bytes, in the model's order. Returns the axes before each tensor's own shape as well.

    lead: these axes as they must be; None: of any length >= 1. For a tensor of shape [1] the last axis may be left out, so
    that a model of one number per step takes plain numbers. Raises InvalidInput naming input, expected and actual: its kinds
    NonFiniteInput for what is NaN, infinite or masked, InputOutOfRange for what the model or the type does not have. Raises
    ProtocolError for a model that has a dtype which this client does not know.
    """
    if model.unknown:
        tensors = ", ".join(map(repr, model.unknown))
        raise ProtocolError(f"model {model.name!r}: expected dtypes that this client knows, got others for {tensors}: update it")
    given = _by_name(model, values)
    packed: list[bytes] = []
    asked = lead
    for spec in model.inputs:
        value = given[spec.name]
        if spec.text is not None and isinstance(value, str) and asked in ((), (None,)):  # of one session
            value = _tokens(spec, spec.text, value, lead)
        array = _checked(spec, value, lead)
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


def _tokens(spec: TensorInfo, text: Text, value: str, lead: tuple[int | None, ...]) -> ArrayLike:
    """The tokens of text for an input: [T], or one token where no axis of steps is asked for."""
    tokens = text.tokens(value)
    if lead:
        return tokens
    if len(tokens) != 1:
        raise InvalidInput(f"input {spec.name!r}: expected text of one token, got {len(tokens)} in {shown(value)}")
    return int(tokens[0])


def _checked(spec: TensorInfo, value: ArrayLike, lead: tuple[int | None, ...]) -> Array:
    array = value if type(value) is np.ndarray else _read(spec, value, lead)
    if array.dtype.kind == "O":
        array = _numbers(spec, array)
    if spec.shape == (1,) and array.ndim == len(lead):
        array = array[..., np.newaxis]
    fits = array.ndim == len(lead) + len(spec.shape) and array.shape[len(lead) :] == spec.shape
    if not fits or not all(want in (None, got) and got > 0 for want, got in zip(lead, array.shape, strict=False)):
        raise InvalidInput(f"{_expected(spec, lead)}, got {array.dtype} {list(array.shape)}")
    if array.dtype.kind not in ("biuf" if spec.dtype.kind == "f" else "biu"):
        raise InvalidInput(f"{_expected(spec, lead)}, got numbers of type {array.dtype}")
    return _CONVERTED[spec.dtype.kind](spec, array)


def _read(spec: TensorInfo, value: ArrayLike, lead: tuple[int | None, ...]) -> Array:
    """What numpy makes of anything. Raises NonFiniteInput for what is masked: numpy would take what lies behind the mask."""
    try:
        given: Any = value if isinstance(value, _NESTED) else np.asanyarray(value)  # which keeps a mask
        masked = np.argwhere(_mask(given)).tolist() if _has_mask(given, len(lead) + len(spec.shape)) else []
        if not masked:
            return np.asarray(given)
    except Exception as error:  # numpy's about ragged lists, or one of the library that the object comes from
        raise InvalidInput(
            f"input {spec.name!r}: expected an array of {_shape(spec, lead)}, got a {type(value).__name__} of which numpy makes"
            f" none ({error}): make it an array of {spec.dtype} first"
        ) from error
    raise NonFiniteInput(f"input {spec.name!r}: expected {spec.dtype} numbers, got a masked one{_at(masked[0])}")


def _has_mask(value: Any, axes: int) -> bool:
    """Whether it is a masked array, or lists with one in them. What is nested deeper than its axes has the wrong shape anyway."""
    masked_arrays = sys.modules.get("numpy.ma")
    if masked_arrays is None:  # nobody has imported it, so there is none
        return False
    if not isinstance(value, _NESTED):
        return isinstance(value, masked_arrays.MaskedArray)
    nested: Sequence[Any] = (value,)
    for _ in range(axes):
        kinds = set(map(type, chain.from_iterable(nested)))
        if kinds <= _PLAIN:
            return False
        if any(issubclass(kind, masked_arrays.MaskedArray) for kind in kinds):
            return True
        nested = [each for each in chain.from_iterable(nested) if isinstance(each, _NESTED)]
    return False


def _mask(value: Any) -> Array:
    """[*shape of the value]: whether it is masked."""
    if isinstance(value, _NESTED):
        return np.array([_mask(each) for each in value])
    return np.ma.getmaskarray(np.asanyarray(value))


def _numbers(spec: TensorInfo, array: Array) -> Array:
    """An array of numbers of one of objects, such as decimals, fractions and integers beyond 64 bits."""
    kinds, dtype, beyond = _OBJECTS[spec.dtype.kind]
    told = dtype if spec.dtype.kind == "f" else spec.dtype
    result = np.empty(array.shape, dtype)
    for where, each in np.ndenumerate(array):
        if not isinstance(each, kinds):
            got = f"got one of type {type(each).__name__}{_at(where)}"
            raise InvalidInput(f"input {spec.name!r}: expected {spec.dtype} numbers, {got}")
        try:
            result[where] = each if spec.dtype.kind == "f" else int(array[where])  # numpy would wrap its own integers
        except (OverflowError, ValueError):  # ValueError: a decimal that is a signalling NaN
            raise beyond(f"input {spec.name!r}: expected {told} numbers, got {shown(each)}{_at(where)}") from None
    return result


def _float32(spec: TensorInfo, array: Array) -> Array:
    with np.errstate(over="ignore"):  # a float64 beyond float32's range becomes infinite and is refused below
        array = array.astype("<f4", copy=False)
    _refuse(spec, array, ~np.isfinite(array), "finite float32 numbers", NonFiniteInput)
    if spec.range:
        _refuse(spec, array, np.abs(array) > spec.range, f"{-spec.range:g} <= value <= {spec.range:g}", InputOutOfRange)
    return array


def _whole(spec: TensorInfo, array: Array) -> Array:
    limits = np.iinfo(spec.dtype)
    if spec.limit:
        _refuse(spec, array, (array < 0) | (array >= spec.limit), f"0 <= value < {spec.limit}", InputOutOfRange)
    elif array.dtype != spec.dtype:
        _refuse(spec, array, (array < limits.min) | (array > limits.max), f"{spec.dtype} numbers", InputOutOfRange)
    return array.astype(spec.dtype.newbyteorder("<"), copy=False)


def _bool(spec: TensorInfo, array: Array) -> Array:
    _refuse(spec, array, (array != 0) & (array != 1), "True, False, 0 or 1", InvalidInput)
    return array.astype(np.bool_, copy=False)


_CONVERTED = {"f": _float32, "i": _whole, "b": _bool}


def _refuse(spec: TensorInfo, array: Array, wrong: Array, expected: str, error: type[InvalidInput]) -> None:
    """Raises the error for the first number that is wrong. wrong: mask of the array's shape."""
    if wrong.any():
        where = np.argwhere(wrong)[0].tolist()
        raise error(f"input {spec.name!r}: expected {expected}, got {array[tuple(where)]}{_at(where)}")


def _expected(spec: TensorInfo, lead: tuple[int | None, ...]) -> str:
    return f"input {spec.name!r}: expected {spec.dtype} {_shape(spec, lead)}"


def _at(where: Sequence[int]) -> str:
    """The place of a number, unless it is by itself."""
    return f" at {list(where)}" if where else ""


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
