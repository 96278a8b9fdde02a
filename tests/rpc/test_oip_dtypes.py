"""Tensors of every dtype over the Open Inference Protocol: described, taken in whatever size they come, and answered."""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray

from stepstream_proto.oip.v2 import oip_pb2
from stepstream_server.engine.ports import Limits
from stepstream_server.rpc.oip.catalogue import encode_config, encode_metadata
from support.front_door import FrontDoor, front_door
from support.mixed import BEGIN, RANGE, TOKENS, MixedBackend, mixed_spec
from support.oip.wire import add_column, infer

LISTED = {"FP32": "fp32_contents", "INT32": "int_contents", "INT64": "int64_contents", "BOOL": "bool_contents"}


@pytest.fixture
async def mixed() -> AsyncIterator[FrontDoor]:
    """A model of every dtype."""
    async with front_door("mixed", spec=mixed_spec, backend=MixedBackend) as front:
        yield front


def request(
    count: NDArray[np.generic],
    *,
    datatype: str = "INT32",
    level: float = 0.5,
    flag: bytes = b"\0\1",
    listed: bool = False,
) -> oip_pb2.ModelInferRequest:
    """A step of each of so many new sequences; `count` [B] is said to be of the datatype."""
    rows = len(count)
    made = oip_pb2.ModelInferRequest(model_name="mixed")
    data = {
        "level": ("FP32", [rows, 2], np.full((rows, 2), level, "<f4").tobytes()),
        "count": (datatype, [rows], count.tobytes()),
        "token": ("INT64", [rows], np.arange(rows).tobytes()),
        "flag": ("BOOL", [rows, 2], flag * rows),
    }
    for name, (kind, shape, raw) in data.items():
        tensor = made.inputs.add(name=name, datatype=kind, shape=shape)
        if listed:
            values = np.frombuffer(raw, {"FP32": "<f4", "BOOL": "?"}.get(kind, f"<i{len(raw) // rows}")).tolist()
            getattr(tensor.contents, LISTED[kind]).extend(values)
        else:
            made.raw_input_contents.append(raw)
    return made


def alone(made: oip_pb2.ModelInferRequest) -> oip_pb2.ModelInferRequest:
    """As the first step of one sequence that its parameters name."""
    made.parameters["sequence_id"].int64_param = 1
    made.parameters["sequence_start"].bool_param = True
    return made


def outputs(response: oip_pb2.ModelInferResponse) -> dict[str, tuple[str, bytes]]:
    """Datatype and elements by name."""
    pairs = zip(response.outputs, response.raw_output_contents, strict=True)
    return {each.name: (each.datatype, raw) for each, raw in pairs}


async def refusal(front: FrontDoor, wrong: oip_pb2.ModelInferRequest) -> str:
    """What a request that is wrong hears."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await infer(front.channel, wrong)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    return str(caught.value.details())


def test_metadata_and_config_name_every_dtype() -> None:
    """States included; range and limit are properties."""
    metadata = encode_metadata(mixed_spec(), [1])
    datatypes = ["FP32", "INT32", "INT64", "BOOL"]
    assert [each.datatype for each in metadata.inputs] == [each.datatype for each in metadata.outputs] == datatypes
    config = encode_config(mixed_spec(), Limits(8, 64, 8, 8, 60.0, 4))
    names = {number: name for name, number in oip_pb2.DataType.items()}
    types = ["TYPE_FP32", "TYPE_INT32", "TYPE_INT64", "TYPE_BOOL"]
    assert [names[each.data_type] for each in config.input] == [names[each.data_type] for each in config.output] == types
    assert [names[each.data_type] for each in config.sequence_batching.state] == ["TYPE_FP32", "TYPE_INT32", "TYPE_BOOL"]
    properties = dict(metadata.properties)
    assert {name: value for name, value in properties.items() if "." in name} == {
        "level.range": str(RANGE),
        "token.limit": str(TOKENS),
    }
    assert properties["cell"] == "program"


@pytest.mark.parametrize("listed", [False, True], ids=["raw", "listed"])
async def test_every_dtype_is_taken_and_answered(mixed: FrontDoor, listed: bool) -> None:
    """As itself."""
    response = await infer(mixed.channel, alone(request(np.array([-7], "<i4"), listed=listed)))
    assert outputs(response) == {
        "level": ("FP32", np.full(2, 0.5, "<f4").tobytes()),
        "total": ("INT32", np.array([BEGIN - 7], "<i4").tobytes()),
        "token": ("INT64", np.array([0], "<i8").tobytes()),
        "seen": ("BOOL", b"\0\1"),
    }


@pytest.mark.parametrize("datatype", ["INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64"])
async def test_whole_numbers_of_any_size_are_taken_as_far_as_they_fit(mixed: FrontDoor, datatype: str) -> None:
    """A number that the input's dtype does not have is refused by name, never wrapped."""
    dtype = np.dtype(datatype.lower())
    response = await infer(mixed.channel, alone(request(np.array([100], dtype), datatype=datatype)))
    assert outputs(response)["total"] == ("INT32", np.array([BEGIN + 100], "<i4").tobytes())
    if np.iinfo(dtype).max > 2**31 - 1:
        refused = await refusal(mixed, alone(request(np.array([2**31], dtype), datatype=datatype)))
        expected = "inputs[count]: expected numbers from -2147483648 to 2147483647, got 2147483648"
        assert refused == f"INPUT_OUT_OF_RANGE: {expected}"


async def test_a_truth_value_is_0_or_1(mixed: FrontDoor) -> None:
    """No other byte is one, whatever C makes of it."""
    refused = await refusal(mixed, alone(request(np.array([1], "<i4"), flag=b"\0\2")))
    assert refused == "INVALID_ARGUMENT: inputs[flag]: expected bytes of 0 or 1, got 2"


async def test_a_range_is_kept(mixed: FrontDoor) -> None:
    """The engine says what is within it."""
    refused = await refusal(mixed, alone(request(np.array([1], "<i4"), level=RANGE + 0.25)))
    assert refused.startswith("INPUT_OUT_OF_RANGE: inputs of the 1 steps from 0 on: expected -1.5 <= level <= 1.5 and ")


async def test_a_sequence_that_failed_has_numbers_that_are_no_answer(mixed: FrontDoor) -> None:
    """Beside others that are answered: NaN, -1 and false, by dtype."""
    made = request(np.array([1, 2], "<i4"))
    add_column(made, "SEQUENCE_ID", [1, 2])
    add_column(made, "SEQUENCE_START", [True, False])
    answered = outputs(await infer(mixed.channel, made))
    assert np.isnan(np.frombuffer(answered["level"][1], "<f4")).tolist() == [False, False, True, True]
    assert np.frombuffer(answered["total"][1], "<i4").tolist() == [BEGIN + 1, -1]
    assert np.frombuffer(answered["token"][1], "<i8").tolist() == [0, -1]
    assert answered["seen"][1] == b"\0\1\0\0"
