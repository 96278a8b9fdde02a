"""Inputs and outputs of every dtype over the contract: how a model says them, in blocks, in one-shot calls, in rollouts."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import AsyncIterator
from typing import Any

import grpc
import numpy as np
import pytest

from stepstream import Client, InputOutOfRange, InvalidInput
from stepstream._translation import from_rpc
from stepstream_proto.v1 import common_pb2, inference_pb2, model_pb2, session_pb2
from stepstream_server.spec import ModelSpec
from support.backend import FakeBackend
from support.echo import walk_backend, walk_spec
from support.front_door import FrontDoor, front_door
from support.generating import floats, refusal, request, tokens, whole
from support.mixed import BEGIN, RANGE, TOKENS, MixedBackend, mixed_spec
from support.tokens import Speaker, SpeakingBackend, tokens_spec
from support.wire import StreamRequest, WireStream, u32, u64

LEVEL = np.array([[0.5, -0.5], [1.5, -1.5]], "<f4")
COUNT = np.array([2**31 - 10, -(2**31)], "<i4")
TOKEN = np.array([0, 6], "<i8")
FLAG = np.array([[False, True], [True, False]])
ODD = b"\2\1"


@pytest.fixture
async def mixed() -> AsyncIterator[FrontDoor]:
    """A model of every dtype."""
    async with front_door("mixed", spec=mixed_spec, backend=MixedBackend) as front:
        yield front


def narrow_spec(name: str) -> ModelSpec:
    """The model that speaks, with tokens of 4 bytes."""
    spec = tokens_spec()
    return dataclasses.replace(spec, inputs=(dataclasses.replace(spec.inputs[0], dtype="int32"),))


def ranged_spec(name: str) -> ModelSpec:
    """The model that walks, no further than 2.5."""
    spec = walk_spec(name)
    return dataclasses.replace(spec, inputs=(dataclasses.replace(spec.inputs[0], range=2.5),))


async def test_a_model_says_dtypes_range_and_batching(mixed: FrontDoor) -> None:
    """Of inputs, outputs and states; what has no range or limit says 0."""
    model = (await mixed.catalogue.GetModel(model_pb2.GetModelRequest(name="mixed"))).model
    names = {number: name.removeprefix("DATA_TYPE_") for name, number in common_pb2.DataType.items()}
    assert [(each.name, names[each.data_type], each.limit, each.range) for each in model.inputs] == [
        ("level", "FLOAT32", 0, RANGE),
        ("count", "INT32", 0, 0),
        ("token", "INT64", TOKENS, 0),
        ("flag", "BOOL", 0, 0),
    ]
    assert [names[each.data_type] for each in model.outputs] == ["FLOAT32", "INT32", "INT64", "BOOL"]
    assert [(each.name, names[each.data_type]) for each in model.states] == [
        ("level", "FLOAT32"),
        ("total", "INT32"),
        ("seen", "BOOL"),
    ]
    assert (model.cell, model.batching, model.rollout_output) == ("program", 4, "")


async def test_a_model_that_steps_one_by_one_says_so() -> None:
    """0, which is not the same as to say nothing."""
    async with front_door(backend=lambda: FakeBackend(batching=0)) as front:
        model = (await front.catalogue.GetModel(model_pb2.GetModelRequest(name="counter"))).model
        assert (model.HasField("batching"), model.batching) == (True, 0)


def block(*inputs: bytes) -> StreamRequest:
    """Two steps of one session."""
    row = inference_pb2.Block(handles=u32([0]), first_seqs=u64([0]), lengths=u32([2]), inputs=inputs)
    return StreamRequest(block=row)


async def test_a_block_carries_every_dtype(mixed: FrontDoor) -> None:
    """Each by its own bytes, in both directions."""
    async with WireStream(mixed.channel) as stream:
        await stream.open("mixed", [0])
        await stream.send(block(LEVEL.tobytes(), COUNT.tobytes(), TOKEN.tobytes(), FLAG.tobytes()))
        level, total, token, seen = (await stream.receive()).answers.outputs
    assert (level, token) == (LEVEL.tobytes(), TOKEN.tobytes())
    assert np.frombuffer(total, "<i4").tolist() == [BEGIN + 2**31 - 10, BEGIN - 10]
    assert np.frombuffer(seen, "?").reshape(2, 2).tolist() == [[False, True], [True, True]]


async def test_a_truth_value_is_a_byte_of_0_or_1(mixed: FrontDoor) -> None:
    """Anything else is refused by the input's name, and nothing is applied."""
    async with WireStream(mixed.channel) as stream:
        await stream.open("mixed", [0])
        await stream.send(block(LEVEL.tobytes(), COUNT.tobytes(), TOKEN.tobytes(), ODD * 2))
        (error,) = (await stream.receive()).answers.errors
        assert (error.error.reason, error.error.message) == ("INVALID_ARGUMENT", "inputs[3]: expected bytes of 0 or 1, got 2")
        await stream.send(block(LEVEL.tobytes(), COUNT.tobytes(), TOKEN.tobytes(), FLAG.tobytes()))
        assert (await stream.receive()).answers.handles


async def test_a_client_steps_every_dtype(mixed: FrontDoor) -> None:
    """On a stream and in one call, with its own numbers back."""
    well: dict[str, Any] = {"level": [0.5, -0.5], "count": -7, "token": 3, "flag": [True, 0]}
    async with Client(mixed.address) as client:
        (info,) = await client.models()
        assert [(each.dtype.name, each.range) for each in info.inputs][:2] == [("float32", RANGE), ("int32", 0)]
        assert info.batching == 4
        async with client.open_session("mixed", id="a") as session:
            answer = await session.step(well)
            assert {name: (each.dtype.name, each.tolist()) for name, each in answer.items()} == {
                "level": ("float32", [0.5, -0.5]),
                "total": ("int32", BEGIN - 7),
                "token": ("int64", 3),
                "seen": ("bool", [True, False]),
            }
            with pytest.raises(InputOutOfRange, match=r"^input 'level': expected -1\.5 <= value <= 1\.5, got -1\.6\d* at \[1\]$"):
                await session.step({**well, "level": [0.5, -1.625]})
            with pytest.raises(InputOutOfRange, match=r"^input 'count': expected int32 numbers, got 2147483648$"):
                await session.step({**well, "count": 2**31})
            with pytest.raises(InvalidInput, match=r"^input 'flag': expected True, False, 0 or 1, got 2 at \[0\]$"):
                await session.step({**well, "flag": [2, 0]})
            chunk = await session.chunk({"level": LEVEL, "count": [1, 2], "token": [0, 1], "flag": FLAG})
            assert chunk["total"].tolist() == [BEGIN - 6, BEGIN - 4]
            moved = await session.export()
        again = await client.import_session(moved, id="b")
        assert (await again.step(well))["total"] == BEGIN - 11
        await again.detach()
        one_shot = await client.step("mixed", "b", well)
        assert {name: (each.dtype.name, each.tolist()) for name, each in one_shot.items()} == {
            "level": ("float32", [0.5, -0.5]),
            "total": ("int32", BEGIN - 18),
            "token": ("int64", 3),
            "seen": ("bool", [True, True]),
        }


async def test_the_server_holds_one_shot_calls_to_range_and_dtype(mixed: FrontDoor) -> None:
    """Whoever does not look before is told by name."""
    await mixed.sessions.OpenSession(session_pb2.OpenSessionRequest(model="mixed", id="a"))
    well: dict[str, list[float]] = {"level": [0, 0], "count": [1], "token": [0], "flag": [0, 1]}
    cases: list[tuple[dict[str, list[float]], str, str]] = [
        ({"level": [0, 1.625]}, "INPUT_OUT_OF_RANGE", "expected -1.5 <= level <= 1.5 and 0 <= token < 7"),
        ({"count": [2.0**31]}, "INVALID_ARGUMENT", "inputs[count]: expected whole numbers from -2^31 up to 2^31 - 1"),
        ({"flag": [0, 2]}, "INVALID_ARGUMENT", "inputs[flag]: expected 0 or 1"),
    ]
    for wrong, reason, said in cases:
        step = inference_pb2.StepRequest(model="mixed", session_id="a")
        for name, numbers in {**well, **wrong}.items():
            step.inputs[name].numbers.extend(numbers)
        with pytest.raises(grpc.aio.AioRpcError, match=re.escape(said)) as caught:
            await mixed.inference.Step(step)
        assert from_rpc(caught.value).reason == reason


async def test_a_model_of_several_inputs_is_not_rolled_out(mixed: FrontDoor) -> None:
    """It says so, in words."""
    found = await refusal(mixed.inference.Generate(request(model="mixed", prompt=[])))
    assert (found.reason, found.field) == ("INVALID_ARGUMENT", "model")
    assert "cannot be rolled out" in found.message


async def test_tokens_of_4_bytes_are_8_in_a_rollout() -> None:
    """The contract has one size of tokens, drawn ones and those of stop sequences; a prompt has the input's."""
    async with front_door("speaker", spec=narrow_spec, backend=SpeakingBackend) as front:
        prompt = np.array([3, 2], "<i4").tobytes()
        told = await whole(front.inference.Generate(request(model="speaker", prompt=[prompt], max_steps=4)))
        expected = Speaker([3, 2]).roll(4)
        assert told.tokens == expected
        stopped = request(model="speaker", prompt=[prompt], max_steps=4, stop=[tokens(*expected[1:3])])
        assert (await whole(front.inference.Generate(stopped))).tokens == expected[:1]
        async with Client(front.address) as client:
            drawn = await client.generate("speaker", [3, 2], max_steps=4, greedy=True).whole()
            assert (drawn.dtype.name, drawn.tolist()) == ("int64", expected)
            rollout = client.generate("speaker", [3, 2], max_steps=4, greedy=True, stop=[expected[1:3]])
            assert (await rollout.whole()).tolist() == expected[:1]


async def test_a_prompt_is_held_to_the_range() -> None:
    """And what is drawn stays within it, as a caller's numbers have to."""
    async with front_door("walk", spec=ranged_spec, backend=walk_backend) as front:
        found = await refusal(front.inference.Generate(request(model="walk", prompt=[floats(0, -2.625)])))
        assert (found.reason, found.field) == ("INPUT_OUT_OF_RANGE", "prompt[0]")
        assert found.message == "prompt[0]: expected -2.5 <= x <= 2.5, got -2.625"
        heat = request(model="walk", prompt=[floats(2.5)], max_steps=50, temperature=30.0, seed=1)
        values = (await whole(front.inference.Generate(heat))).values
        assert {-2.5, 2.5} <= set(values)
        assert max(map(abs, values)) == 2.5


async def test_a_model_without_dtypes_of_its_own_says_batching_1() -> None:
    """Cells batch any rows."""
    async with front_door() as front:
        model = (await front.catalogue.GetModel(model_pb2.GetModelRequest(name="counter"))).model
        assert (model.cell, model.batching) == ("rnn", 1)
