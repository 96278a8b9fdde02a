"""Any record of the server as Hypothesis makes it up, straight from the types of its fields, and whether two are the same."""

from __future__ import annotations

import collections.abc
import dataclasses
import enum
import types
import typing
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from numpy.typing import NDArray

from stepstream_server.engine.ports import PIECE, ROW
from stepstream_server.errors import CallerError, Reason, ServerFault, StepStreamError

INTEGERS = st.integers(-(2**63), 2**63 - 1)
FLOATS = st.floats(allow_nan=False)
JSON = st.recursive(
    st.none() | st.booleans() | INTEGERS | FLOATS | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
ANY_DTYPE = st.sampled_from([ROW, PIECE, np.dtype(np.float32), np.dtype(np.int64)])  # where a type does not say
PLAIN: dict[Any, st.SearchStrategy[Any]] = {
    int: INTEGERS,
    float: FLOATS,
    bool: st.booleans(),
    str: st.text(max_size=20),
    bytes: st.binary(max_size=20),
    type(None): st.none(),
    object: JSON,
}


def errors() -> st.SearchStrategy[StepStreamError]:
    """Whatever a caller may be told."""
    return st.builds(
        lambda kind, reason, message, **rest: kind(reason, message, **rest),
        st.sampled_from([CallerError, ServerFault]),
        st.sampled_from(Reason),
        st.text(max_size=20),
        field=st.text(max_size=5),
        expected_seq=st.integers(0, 2**63 - 1),
        retry_delay_seconds=FLOATS,
        since=st.none() | st.integers(0, 2**63 - 1),
    )


def arrays(hint: Any) -> st.SearchStrategy[NDArray[Any]]:
    """Arrays of the dtype that an annotation names, of any shape, not always contiguous."""
    (scalar,) = typing.get_args(typing.get_args(hint)[1])
    dtypes = ANY_DTYPE if scalar is Any else st.just(np.dtype(scalar))
    shapes = st_numpy.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)
    made = st.builds(lambda dtype, shape, data: _array(dtype, shape, data), dtypes, shapes, st.binary(max_size=40))
    return made | made.map(lambda array: array.T)


def _array(dtype: np.dtype[Any], shape: tuple[int, ...], data: bytes) -> NDArray[Any]:
    size = int(np.prod(shape)) * dtype.itemsize
    if dtype == np.bool_:
        data = bytes(byte & 1 for byte in data)
    return np.frombuffer((data * size + bytes(size))[:size], dtype).reshape(shape)


def values(hint: Any) -> st.SearchStrategy[Any]:
    """Values of an annotated type."""
    if hint in PLAIN:
        return PLAIN[hint]
    if isinstance(hint, type) and not isinstance(hint, types.GenericAlias):
        return _instances(hint)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is np.ndarray:
        return arrays(hint)
    if origin in (types.UnionType, typing.Union):
        return st.one_of([values(each) for each in arguments])
    if origin is typing.Literal:
        return st.sampled_from(arguments)
    if origin in (list, collections.abc.Sequence):
        return st.lists(values(arguments[0]), max_size=3)
    if origin in (dict, collections.abc.Mapping):
        return st.dictionaries(values(arguments[0]), values(arguments[1]), max_size=3)
    if origin is tuple:
        if arguments[-1] is ...:
            return st.lists(values(arguments[0]), max_size=3).map(tuple)
        return st.tuples(*[values(each) for each in arguments])
    raise TypeError(f"no strategy for {hint!r}")


def _instances(kind: type[Any]) -> st.SearchStrategy[Any]:
    if issubclass(kind, StepStreamError):
        return errors()
    if issubclass(kind, enum.Enum):
        return st.sampled_from(kind)
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        return st.builds(kind, **{each.name: values(hints[each.name]) for each in dataclasses.fields(kind)})
    raise TypeError(f"no strategy for {kind!r}")


def _content(array: NDArray[Any]) -> list[bytes]:
    """The bytes of its elements, without what lies between the fields of a record, which copies need not keep."""
    names = array.dtype.names
    return [array[name].tobytes() for name in names] if names else [array.tobytes()]


def same(one: Any, other: Any) -> bool:
    """Whether two values are of the same type and hold the same, however deep."""
    if type(one) is not type(other):
        return False
    if isinstance(one, np.ndarray):
        return bool(one.dtype == other.dtype and one.shape == other.shape and _content(one) == _content(other))
    if isinstance(one, StepStreamError):
        return same([str(one), *vars(one).values()], [str(other), *vars(other).values()])
    if dataclasses.is_dataclass(one):
        return all(same(getattr(one, each.name), getattr(other, each.name)) for each in dataclasses.fields(one))
    if isinstance(one, dict):
        return same(list(one.items()), list(other.items()))
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(same(*pair) for pair in zip(one, other, strict=True))
    return bool(one == other)
