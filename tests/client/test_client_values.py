"""What callers have at hand as numbers, counts and names: what is taken at which value, and what is refused in which words."""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any
from uuid import UUID

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.ma import masked
from numpy.typing import NDArray

from stepstream import InputOutOfRange, InvalidArgument, InvalidInput, NonFiniteInput, ProtocolError
from stepstream._models import ModelInfo, TensorInfo, model_info
from stepstream._tensors import (
    at_least_one,
    byte_string,
    duration,
    identifier,
    identifiers,
    pack,
    step_count,
    version_number,
)
from support.servicer import default_models, rolling_models

PAIRS, LEVEL, MIXED = map(model_info, default_models())
DIGITS = model_info(rolling_models()["digits"])


class Foreign:
    """An array of another library, as numpy sees it."""

    def __init__(self, made: NDArray[Any] | Exception) -> None:
        self._made = made

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        if isinstance(self._made, Exception):
            raise self._made
        return self._made


def read_only(values: list[float]) -> NDArray[Any]:
    """An array that nobody may write into."""
    made = np.array(values)
    made.flags.writeable = False
    return made


def kind_of(value: Any) -> str | None:
    """For the name of a test: some of the values have no text of their own, or another one each time."""
    return None if isinstance(value, str) else type(value).__name__


def packed(model: ModelInfo, values: Any, *lead: int | None) -> list[float]:
    """What is sent of a value for a model of one input."""
    _, (column,) = pack(model, values, lead)
    numbers: list[float] = np.frombuffer(column, model.inputs[0].dtype.newbyteorder("<")).tolist()
    return numbers


# Readings ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        [1.5, 2],
        (1.5, 2.0),
        deque([1.5, 2.0]),
        [Decimal("1.5"), Decimal(2)],
        [Fraction(3, 2), 2],
        [np.float16(1.5), np.int8(2)],
        array("d", [1.5, 2.0]),
        memoryview(array("f", [1.5, 2.0])),
        np.array([1.5, 2.0], ">f8"),
        np.array([1.5, 2.0], np.longdouble),
        np.array([1.5, 2.0], object),
        np.array([[1.5, 9.0], [2.0, 9.0]])[:, 0],
        read_only([1.5, 2.0]),
        np.ma.array([1.5, 2.0]),
        np.ma.array([1.5, 2.0], mask=[False, False]),
        np.ma.array([Decimal("1.5"), Decimal(2)], mask=False),
        [np.ma.array(1.5), np.ma.array(2.0)],
        {"x": np.ma.array([1.5, 2.0], mask=False)},
        Foreign(np.array([1.5, 2.0])),
        torch.tensor([1.5, 2.0], dtype=torch.float64),
        [torch.tensor(1.5), torch.tensor(2.0)],
        torch.tensor([1.5, 2.0], requires_grad=True).detach(),
        pd.Series([1.5, 2.0], index=["b", "a"]),
        pd.Series([1.5, 2.0], dtype="Float64"),
        pd.Series([1.5, 2.0], dtype=object),
        pd.Series([1.5, 2.0], dtype="category"),
        pd.Series(pd.arrays.SparseArray([1.5, 2.0])),
        pd.Index([1.5, 2.0]),
        pd.DataFrame({"a": [1.5], "b": [2]}).iloc[0],
    ],
    ids=kind_of,
)
def test_readings_of_many_kinds_are_taken(value: Any) -> None:
    """Whatever numpy makes real numbers of, at their value."""
    assert packed(PAIRS, value) == [1.5, 2.0]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ([True, False], [1.0, 0.0]),
        (range(2), [0.0, 1.0]),
        (bytearray(b"ab"), [97.0, 98.0]),
        ([10**30, 1], [float(np.float32(1e30)), 1.0]),
        ([Decimal("0.1"), Fraction(1, 3)], [float(np.float32(0.1)), float(np.float32(1 / 3))]),
        (np.array([2**64 - 1, 0], np.uint64), [2.0**64, 0.0]),
    ],
)
def test_readings_become_the_nearest_float32(value: Any, expected: list[float]) -> None:
    """By way of Python's float where they are objects."""
    assert packed(PAIRS, value) == expected


@pytest.mark.parametrize(
    ("value", "kind", "message"),
    [
        (np.ma.array([1.0, -999.0], mask=[False, True]), NonFiniteInput, "expected float32 numbers, got a masked one at [1]"),
        ([1.0, masked], NonFiniteInput, "expected float32 numbers, got a masked one at [1]"),
        ([Decimal(1), masked], NonFiniteInput, "expected float32 numbers, got a masked one at [1]"),
        (deque([masked, 1]), NonFiniteInput, "expected float32 numbers, got a masked one at [0]"),
        ([np.ma.array(1.0), np.ma.array(9.0, mask=True)], NonFiniteInput, "expected float32 numbers, got a masked one at [1]"),
        (masked, NonFiniteInput, "expected float32 numbers, got a masked one"),
        ({"x": np.ma.array([1, 2], mask=[True, True])}, NonFiniteInput, "expected float32 numbers, got a masked one at [0]"),
        (
            np.ma.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f4")], mask=[(False, True)]),
            NonFiniteInput,
            "expected float32 numbers, got a masked one at [0]",
        ),
        (
            Foreign(np.ma.array([1.0, 2.0], mask=[False, True])),
            NonFiniteInput,
            "expected float32 numbers, got a masked one at [1]",
        ),
        (pd.Series([1.0, None]), NonFiniteInput, "expected finite float32 numbers, got nan at [1]"),
        (pd.Series([1, pd.NA], dtype="Int64"), NonFiniteInput, "expected finite float32 numbers, got nan at [1]"),
        (pd.Series([1.5, pd.NA], dtype="Float64"), NonFiniteInput, "expected finite float32 numbers, got nan at [1]"),
        (pd.Series([1.5, pd.NA], dtype=object), InvalidInput, "expected float32 numbers, got one of type NAType at [1]"),
        (pd.Series([True, pd.NA], dtype="boolean"), InvalidInput, "expected float32 numbers, got one of type NAType at [1]"),
        ([pd.NaT, 1.0], InvalidInput, "expected float32 numbers, got one of type NaTType at [0]"),
        (pd.Series(["1", "2"]), InvalidInput, "expected float32 numbers, got one of type str at [0]"),
        (pd.DataFrame({"a": [1.0], "b": ["2"]}).iloc[0], InvalidInput, "expected float32 numbers, got one of type str at [1]"),
        ([Decimal(1), Decimal("NaN")], NonFiniteInput, "expected finite float32 numbers, got nan at [1]"),
        ([Decimal(1), Decimal("sNaN")], NonFiniteInput, "expected float64 numbers, got Decimal('sNaN') at [1]"),
        ([Decimal("1e400"), 1], NonFiniteInput, "expected finite float32 numbers, got inf at [0]"),
        ([10**400, 1.0], NonFiniteInput, f"expected float64 numbers, got 1{'0' * 79}... at [0]"),
        ([10**5000, 1.0], NonFiniteInput, "expected float64 numbers, got one of type int at [0]"),
        ([Decimal(1), 1j], InvalidInput, "expected float32 numbers, got one of type complex at [1]"),
        ([1.0, None], InvalidInput, "expected float32 numbers, got one of type NoneType at [1]"),
        (None, InvalidInput, "expected float32 numbers, got one of type NoneType"),
        ((each for each in [1.0, 2.0]), InvalidInput, "expected float32 numbers, got one of type generator"),
        ({1.0, 2.0}, InvalidInput, "expected float32 numbers, got one of type set"),
        ([{}, {}], InvalidInput, "expected float32 numbers, got one of type dict at [0]"),
        ([datetime(2020, 1, 1), 1.0], InvalidInput, "expected float32 numbers, got one of type datetime at [0]"),
        (np.array([0, 1], "M8[s]"), InvalidInput, "expected float32 [2], got numbers of type datetime64[s]"),
        (["1.5", "2"], InvalidInput, "expected float32 [2], got numbers of type <U3"),
        ([1.5, "2"], InvalidInput, "expected float32 [2], got numbers of type <U32"),
        ([b"1", b"2"], InvalidInput, "expected float32 [2], got numbers of type |S1"),
        ("12", InvalidInput, "expected float32 [2], got <U2 []"),
    ],
    ids=kind_of,
)
def test_what_is_no_reading_is_refused_at_its_place(value: Any, kind: type[InvalidInput], message: str) -> None:
    """Nothing is sent of a value that holds one. What is masked counts as missing, whatever lies behind the mask."""
    with pytest.raises(InvalidInput) as refused:
        packed(PAIRS, value)
    assert (type(refused.value), refused.value.message) == (kind, f"input 'x': {message}")


@pytest.mark.parametrize(
    ("value", "advice"),
    [
        (torch.ones(2, requires_grad=True), "Use tensor.detach().numpy() instead"),
        ([torch.tensor(1.0, requires_grad=True), 1.0], "Use tensor.detach().numpy() instead"),
        (torch.ones(2, dtype=torch.bfloat16), "make it an array of float32 first"),
        ([torch.tensor(1.0, dtype=torch.bfloat16)] * 2, "make it an array of float32 first"),
        (torch.ones(2).to_sparse(), "Use Tensor.to_dense() first"),
        (torch.ones(2, device="meta"), "Use Tensor.cpu()"),
        (torch.ones(2, dtype=torch.complex64).conj(), "Use tensor.resolve_conj().numpy() instead"),
        (Foreign(LookupError("no data")), "no data"),
        ([[1.0], [1.0, 2.0]], "inhomogeneous shape"),
    ],
)
def test_what_numpy_cannot_read_is_refused_with_advice(value: Any, advice: str) -> None:
    """The error is of this package; that of the library whose object it is stands in it, and is its cause."""
    with pytest.raises(InvalidInput) as refused:
        packed(PAIRS, value)
    opening = f"input 'x': expected an array of [2], got a {type(value).__name__} of which numpy makes none ("
    assert refused.value.message.startswith(opening)
    assert refused.value.message.endswith("): make it an array of float32 first")
    assert advice in refused.value.message
    assert str(refused.value.__cause__) in refused.value.message


def test_lists_that_hold_themselves_are_refused() -> None:
    """Looking for masks in them ends."""
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(InvalidInput, match=r"^input 'x': expected an array of \[steps, 2\], got a list of which numpy "):
        packed(PAIRS, endless, None)


def in_rows(values: NDArray[Any], mask: NDArray[Any]) -> list[Any]:
    """A list of masked arrays."""
    return [np.ma.array(row, mask=hidden) for row, hidden in zip(values, mask, strict=True)]


def in_tuples(values: NDArray[Any], mask: NDArray[Any]) -> tuple[Any, ...]:
    """Numbers by themselves, among them the constant that stands for a masked one."""
    return tuple(
        [masked if hidden else value for value, hidden in zip(row, places, strict=True)]
        for row, places in zip(values.tolist(), mask.tolist(), strict=True)
    )


@given(arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=5)), st.sampled_from([np.ma.array, in_rows, in_tuples]))
def test_a_value_is_refused_exactly_if_something_in_it_is_masked(mask: NDArray[Any], given_as: Callable[..., Any]) -> None:
    """However the mask comes, the first place that it hides is named; without any, the values are taken."""
    spec = TensorInfo("x", np.dtype("float32"), mask.shape[1:])
    model = ModelInfo("wide", 1, "rnn", (spec,), (), (), "00", None, 8, 1024)
    values = np.arange(mask.size, dtype=float).reshape(mask.shape)
    value = given_as(values, mask=mask)
    if mask.any():
        first = [int(axis[0]) for axis in np.nonzero(mask)]
        with pytest.raises(NonFiniteInput) as refused:
            packed(model, value, None)
        assert refused.value.message == f"input 'x': expected float32 numbers, got a masked one at {first}"
    else:
        assert packed(model, value, None) == values.ravel().tolist()


# Tokens --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        [3, 0],
        array("b", [3, 0]),
        bytearray([3, 0]),
        np.array([3, 0], ">u8"),
        np.ma.array([3, 0], mask=[False, False]),
        [np.int64(3), False],
        np.array([3, np.uint8(0)], object),
        torch.tensor([3, 0]),
        pd.Series([3, 0], dtype="Int64"),
        pd.Series([3, 0], dtype=object),
        Foreign(np.array([3, 0], np.int32)),
    ],
    ids=kind_of,
)
def test_tokens_of_many_kinds_are_taken(value: Any) -> None:
    """Whole numbers of any type."""
    assert packed(DIGITS, value, None) == [3, 0]


@pytest.mark.parametrize(
    ("value", "kind", "message"),
    [
        (np.ma.array([3, 5], mask=[False, True]), NonFiniteInput, "expected int64 numbers, got a masked one at [1]"),
        ([3, masked], NonFiniteInput, "expected int64 numbers, got a masked one at [1]"),
        (np.array([3, 2**63], np.uint64), InputOutOfRange, f"expected 0 <= value < 10, got {2**63} at [1]"),
        ([2**63], InputOutOfRange, f"expected 0 <= value < 10, got {2**63} at [0]"),
        ([3, 10**30], InputOutOfRange, f"expected int64 numbers, got {10**30} at [1]"),
        ([3, -(10**30)], InputOutOfRange, f"expected int64 numbers, got {-(10**30)} at [1]"),
        ([3.0, 0.0], InvalidInput, "expected int64 [steps], got numbers of type float64"),
        (torch.tensor([3.0]), InvalidInput, "expected int64 [steps], got numbers of type float32"),
        (pd.Series([3, pd.NA], dtype="Int64"), InvalidInput, "expected int64 [steps], got numbers of type float64"),
        (np.array([3, 0.0], object), InvalidInput, "expected int64 numbers, got one of type float at [1]"),
        ([Decimal(3)], InvalidInput, "expected int64 numbers, got one of type Decimal at [0]"),
        ([3, None], InvalidInput, "expected int64 numbers, got one of type NoneType at [1]"),
        (["3"], InvalidInput, "expected int64 [steps], got numbers of type <U1"),
    ],
    ids=kind_of,
)
def test_what_is_no_token_is_refused(value: Any, kind: type[InvalidInput], message: str) -> None:
    """Numbers with a point too, whole ones not excepted."""
    with pytest.raises(InvalidInput) as refused:
        packed(DIGITS, value, None)
    assert (type(refused.value), refused.value.message) == (kind, f"input 'digit': {message}")


# Other dtypes and ranges ---------------------------------------------------------------------------------------------


def model_of(dtype: str, **told: Any) -> ModelInfo:
    """A model whose one input `x` is a number of that dtype per step."""
    return replace(DIGITS, inputs=(TensorInfo("x", np.dtype(dtype), (), **told),))


@pytest.mark.parametrize(
    ("dtype", "value", "numbers"),
    [
        ("int32", [3, -(2**31)], [3, -(2**31)]),
        ("int32", np.array([3, 2**31 - 1]), [3, 2**31 - 1]),
        ("int32", np.array([3, 4], ">i4"), [3, 4]),
        ("int32", np.array([3, np.uint64(4)], object), [3, 4]),
        ("int32", [True, False], [1, 0]),
        ("bool", [True, np.False_], [True, False]),
        ("bool", [1, 0], [True, False]),
        ("bool", np.array([1, 0], np.uint8), [True, False]),
        ("bool", np.array([True, 0, np.True_], object), [True, False, True]),
        ("bool", torch.tensor([True, False]), [True, False]),
    ],
    ids=kind_of,
)
def test_other_dtypes_are_packed_as_themselves(dtype: str, value: Any, numbers: list[Any]) -> None:
    """4 bytes, or 1."""
    assert packed(model_of(dtype), value, None) == numbers


@pytest.mark.parametrize(
    ("dtype", "value", "kind", "message"),
    [
        ("int32", [3, 2**31], InputOutOfRange, f"expected int32 numbers, got {2**31} at [1]"),
        ("int32", np.array([-(2**31) - 1]), InputOutOfRange, f"expected int32 numbers, got {-(2**31) - 1} at [0]"),
        ("int32", np.array([2**32 - 1], np.uint32), InputOutOfRange, f"expected int32 numbers, got {2**32 - 1} at [0]"),
        ("int32", [10**30], InputOutOfRange, f"expected int32 numbers, got {10**30} at [0]"),
        ("int32", np.array([0, np.int64(2**40)], object), InputOutOfRange, f"expected int32 numbers, got {2**40} at [1]"),
        ("int32", [1.0], InvalidInput, "expected int32 [steps], got numbers of type float64"),
        ("int32", [3, masked], NonFiniteInput, "expected int32 numbers, got a masked one at [1]"),
        ("int64", np.array([2**63], np.uint64), InputOutOfRange, f"expected int64 numbers, got {2**63} at [0]"),
        (
            "int64",
            np.array([1, np.uint64(2**63)], object),
            InputOutOfRange,
            f"expected int64 numbers, got np.uint64({2**63}) at [1]",
        ),
        ("bool", [True, 2], InvalidInput, "expected True, False, 0 or 1, got 2 at [1]"),
        ("bool", [-1], InvalidInput, "expected True, False, 0 or 1, got -1 at [0]"),
        ("bool", [10**30], InvalidInput, f"expected bool numbers, got {10**30} at [0]"),
        ("bool", [1.0], InvalidInput, "expected bool [steps], got numbers of type float64"),
        ("bool", [True, None], InvalidInput, "expected bool numbers, got one of type NoneType at [1]"),
        ("bool", ["True"], InvalidInput, "expected bool [steps], got numbers of type <U4"),
        ("bool", np.ma.array([True], mask=[True]), NonFiniteInput, "expected bool numbers, got a masked one at [0]"),
    ],
    ids=kind_of,
)
def test_what_a_dtype_does_not_have_is_refused(dtype: str, value: Any, kind: type[InvalidInput], message: str) -> None:
    """Never wrapped, and nothing is taken for true."""
    with pytest.raises(InvalidInput) as refused:
        packed(model_of(dtype), value, None)
    assert (type(refused.value), refused.value.message) == (kind, f"input 'x': {message}")


def test_a_float_stays_within_the_range() -> None:
    """The range itself is within; NaN is a worse fault than to be beyond it."""
    model = model_of("float32", range=0.1)
    edge = np.float32(0.1)
    assert packed(model, [edge, -edge, 0.1], None) == [edge, -edge, edge]
    with pytest.raises(InputOutOfRange, match=r"^input 'x': expected -0\.1 <= value <= 0\.1, got 0\.1\d+ at \[1\]$"):
        packed(model, [0.0, np.nextafter(edge, np.float32(1))], None)
    with pytest.raises(NonFiniteInput):
        packed(model, [0.2, np.nan], None)


def test_a_model_of_an_unknown_dtype_is_listed_and_not_stepped() -> None:
    """A newer server may serve what this client has no numbers for; whoever steps it is told what to do."""
    message = default_models()[2]
    message.inputs[1].data_type = 77  # type: ignore[assignment]
    info = model_info(message)
    assert [(each.name, each.is_known) for each in info.inputs] == [("a", True), ("token", False)]
    assert (info.unknown, info.batching) == (("token",), None)
    with pytest.raises(
        ProtocolError, match=r"^model 'mixed': expected dtypes that this client knows, got others for 'token': update it$"
    ):
        pack(info, {"a": [0.5], "token": [3]}, (None,))


# Several inputs ------------------------------------------------------------------------------------------------------


def test_several_inputs_are_taken_column_by_column() -> None:
    """A table is no mapping, but its columns make one."""
    table = pd.DataFrame({"a": [0.5, 1.5], "token": [3, 4]})
    assert [len(column) for column in pack(MIXED, {name: table[name] for name in table}, (None,))[1]] == [8, 16]
    with pytest.raises(InvalidInput, match=r"^inputs: expected a mapping with \['a', 'token'\], got DataFrame$"):
        pack(MIXED, table, (None,))


def test_a_mask_is_found_in_any_input() -> None:
    """The error names the input that it is in."""
    values: dict[str, Any] = {"a": np.ma.array([0.5, 1.5], mask=False), "token": [3, masked]}
    with pytest.raises(NonFiniteInput, match=r"^input 'token': expected int64 numbers, got a masked one at \[1\]$"):
        pack(MIXED, values, (None,))


def test_plain_numbers_of_a_model_of_one_per_step_may_be_masked() -> None:
    """The place is that in what was given."""
    with pytest.raises(NonFiniteInput, match=r"got a masked one at \[1\]$"):
        packed(LEVEL, np.ma.array([-1.2, -999.0, -1.2], mask=[False, True, False]), None)
    with pytest.raises(NonFiniteInput, match=r"got a masked one at \[1, 0\]$"):
        packed(LEVEL, np.ma.array([[-1.2], [-999.0], [-1.2]], mask=[[False], [True], [False]]), None)


# Counts, times, names and secrets ------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3), np.array(3), torch.tensor(3)])
def test_a_count_is_a_whole_number_of_any_type(value: Any) -> None:
    """It comes out as Python's."""
    for count in (step_count("seq", value), at_least_one("count", value), version_number(value)):
        assert (type(count), count) == (int, 3)


@pytest.mark.parametrize("value", [1.5, 1.0, "3", True, np.True_, None, Decimal(3), [3], -1, 2**64, 10**5000], ids=kind_of)
def test_what_is_no_count_is_refused(value: Any) -> None:
    """Neither 3 in quotes nor a truth value: they are mistakes."""
    with pytest.raises(InvalidArgument, match=f"^seq: expected a whole number of at least 0 and at most {2**64 - 1}, got "):
        step_count("seq", value)


@pytest.mark.parametrize("value", [2, 2.0, np.float32(2), np.int8(2), Fraction(2)])
def test_a_time_is_a_number_of_seconds(value: Any) -> None:
    """Of any type."""
    assert duration("timeout", value) == timedelta(seconds=2)


@pytest.mark.parametrize(
    "value", ["2", None, True, timedelta(seconds=2), Decimal(2), 2j, 0, -1, float("nan"), float("inf"), 10**400, [2]]
)
def test_what_is_no_time_is_refused(value: Any) -> None:
    """Also a timedelta, since everything else of the client is in seconds."""
    with pytest.raises(InvalidArgument, match="^timeout: expected a positive number of seconds up to 315576000000, got "):
        duration("timeout", value)


@pytest.mark.parametrize(
    ("value", "got"),
    [
        (7, "7"),
        (None, "None"),
        (b"bed-7", "b'bed-7'"),
        (UUID(int=7), "UUID('00000000-0000-0000-0000-000000000007')"),
        ("bed-\ud800", "'bed-\\ud800'"),
        (["x" * 100], f"['{'x' * 78}..."),
    ],
)
def test_what_is_no_id_is_refused(value: Any, got: str) -> None:
    """By itself, and among others by its place."""
    expected = f"expected a string of characters that UTF-8 has, got {got}"
    with pytest.raises(InvalidArgument) as refused:
        identifier("id", value)
    assert refused.value.message == f"id: {expected}"
    with pytest.raises(InvalidArgument) as refused:
        identifiers("ids", ["bed-6", value], 2)
    assert refused.value.message == f"ids[1]: {expected}"


@pytest.mark.parametrize("value", ["ab", b"ab", 2, None])
def test_what_is_no_list_of_ids_is_refused(value: Any) -> None:
    """A string would be one id per character."""
    with pytest.raises(InvalidArgument, match=f"^ids: expected a list of 2 strings, got {value!r}$"):
        identifiers("ids", value, 2)


def test_ids_are_as_many_as_sessions() -> None:
    """They may come in any collection."""
    assert identifier("id", "bed-6") == "bed-6"
    assert identifiers("ids", ("a", "b"), 2) == identifiers("ids", iter(["a", "b"]), 2) == ["a", "b"]
    with pytest.raises(InvalidArgument, match=r"^ids: expected 2, got 1$"):
        identifiers("ids", ["a"], 2)


@pytest.mark.parametrize("value", ["hush", 7, None, ["hush"]])
def test_a_secret_is_bytes_and_never_shown(value: Any) -> None:
    """Messages end up in logs."""
    assert byte_string("secret", b"hush") == b"hush"
    with pytest.raises(InvalidArgument, match=f"^secret: expected bytes, got {type(value).__name__}$"):
        byte_string("secret", value)
