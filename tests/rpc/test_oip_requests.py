"""How requests of the Open Inference Protocol are understood, for models that no bundle declares yet."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from stepstream_proto.oip.v2 import oip_pb2
from stepstream_server.config import DoorSettings
from stepstream_server.engine.ports import Limits
from stepstream_server.errors import CallerError
from stepstream_server.rpc import EngineClient, Models
from stepstream_server.rpc.oip.layouts import Layout, Layouts
from stepstream_server.spec import CellModel, CellSpec, HeadSpec, ModelSpec, StateSpec, TensorSpec

SPEC = ModelSpec(
    name="mixed",
    version=1,
    inputs=(TensorSpec("token", "int64", (), limit=50), TensorSpec("x", "float32", (3,))),
    outputs=(TensorSpec("logits", "float32", (50,)),),
    states=(StateSpec("h", (1, 8)),),
    computation=CellModel(CellSpec("gru", 8, 8, 1)),
    heads=(HeadSpec("logits", "next_token", 50),),
    fingerprint="f" * 64,
)
LIMITS = Limits(window_steps=8, window_bytes=64, capacity=8, max_batch=8, idle_ttl_seconds=60.0, batching=1)


@pytest.mark.parametrize(
    ("token", "x", "leading"),
    [
        ((1,), (1, 3), [1]),
        ((1, 1), (1, 3), [1]),
        ((1, 1), (1, 1, 3), [1, 1]),  # [1, 1] of a scalar may have an axis of time
        ((1, 4), (1, 4, 3), [1, 4]),
        ((1, 4, 1), (1, 4, 3), [1, 4]),
    ],
)
async def test_inputs_of_a_model_have_as_many_steps(token: tuple[int, ...], x: tuple[int, ...], leading: list[int]) -> None:
    """With an axis of time or without one; outputs have it if any input has."""
    layout = await _layout(token, x)
    assert layout.steps == int(np.prod(leading))
    assert list(oip_pb2.ModelInferResponse.FromString(layout.head).outputs[0].shape) == [*leading, 50]


async def test_inputs_of_different_lengths_are_refused() -> None:
    """By the name of the second."""
    with pytest.raises(CallerError, match=r"inputs\[x\]: expected 4 steps as in token, got 1"):
        await _layout((1, 4), (1, 3))


async def _layout(token: tuple[int, ...], x: tuple[int, ...]) -> Layout:
    models = Models([SPEC])
    models.publish([EngineClient(SPEC, LIMITS, asyncio.get_running_loop())])
    request = oip_pb2.ModelInferRequest(model_name="mixed")
    request.inputs.add(name="token", datatype="INT64", shape=token)
    request.inputs.add(name="x", datatype="FP32", shape=x)
    return Layouts(models, DoorSettings()).of(request)
