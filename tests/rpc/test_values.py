"""Plain numbers of a unary step."""

from __future__ import annotations

import numpy as np
import pytest

from stepstream_proto.v1.inference_pb2 import Values
from stepstream_server.errors import CallerError, Reason
from stepstream_server.rpc.one_shot import decode_values, encode_values
from stepstream_server.spec import CellModel, CellSpec, HeadSpec, ModelSpec, StateSpec, TensorSpec
from support.backend import counter_spec

SPEC = ModelSpec(
    name="two",
    version=1,
    inputs=(TensorSpec("x", "float32", (2,)), TensorSpec("token", "int64", (), limit=9)),
    outputs=(TensorSpec("y", "float32", (2,)),),
    states=(StateSpec("h", (1,)),),
    computation=CellModel(CellSpec("rnn", 3, 1, 1)),
    heads=(HeadSpec("y", "regression", 2),),
    fingerprint="",
)


def test_numbers_become_tensors() -> None:
    """Steps follow from the count; each tensor has the declared type and shape."""
    steps, (x, token) = decode_values({"x": Values(numbers=[1, 2, 3, 4]), "token": Values(numbers=[5, 6])}, SPEC)
    assert steps == 2
    assert x.dtype == np.float32
    assert x.tolist() == [[1, 2], [3, 4]]
    assert token.dtype == np.int64
    assert token.tolist() == [5, 6]


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({"x": [1, 2]}, "inputs[token]: missing; expected 1 numbers per step"),
        ({"x": [1, 2], "token": [1], "y": [1]}, "inputs[y]: expected only x, token"),
        ({"x": [1, 2, 3], "token": [1]}, "inputs[x]: expected a multiple of 2 numbers, one step or more, got 3"),
        ({"x": [], "token": [1]}, "inputs[x]: expected a multiple of 2 numbers, one step or more, got 0"),
        ({"x": [1, 2], "token": [1, 2]}, "inputs[token]: expected 1 steps as in x, got 2"),
        ({"x": [1, 2], "token": [1.5]}, "inputs[token]: expected whole numbers"),
        ({"x": [1, 2], "token": [float("nan")]}, "inputs[token]: expected whole numbers"),
        ({"x": [1, 2], "token": [1e300]}, "inputs[token]: expected whole numbers"),
    ],
)
def test_numbers_that_do_not_fit_are_named(inputs: dict[str, list[float]], said: str) -> None:
    """The error names the input, what was expected and what came."""
    with pytest.raises(CallerError) as caught:
        decode_values({name: Values(numbers=numbers) for name, numbers in inputs.items()}, SPEC)
    assert caught.value.reason is Reason.INVALID_ARGUMENT
    assert said in caught.value.message


def test_numbers_beyond_float32_become_infinite() -> None:
    """They are passed on so that the engine refuses them as not finite, rather than wrapped or cut off."""
    _, (x,) = decode_values({"x": Values(numbers=[1e300])}, counter_spec())
    assert np.isinf(x).all()


def test_outputs_are_plain_numbers_by_name() -> None:
    """float32 values are exact as doubles."""
    third = np.float32(1) / np.float32(3)
    encoded = encode_values([np.array([[third, 2]], np.float32).tobytes()], SPEC)
    assert list(encoded["y"].numbers) == [float(third), 2.0]
