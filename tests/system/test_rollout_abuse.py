"""Callers of rollouts that misbehave, over real gRPC: others never notice, and nothing grows without bound."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AsyncExitStack
from typing import Any, cast

import grpc
import numpy as np
import pytest
from structlog.testing import capture_logs

from stepstream_proto.v1 import inference_pb2, inference_pb2_grpc, session_pb2
from stepstream_proto.v1.inference_pb2 import GenerateRequest
from stepstream_server.engine.rollouts.rollouts import MOST_AHEAD
from stepstream_server.rpc.generate import RolloutCaller
from support.echo import ring_backend, ring_spec, walk_backend, walk_spec
from support.front_door import CountingStream, front_door
from support.generating import FOREVER, check_nothing_rolls, engine_when, request, small_window, tokens, whole

UNREAD = 300  # rollouts at once
PATH = "/stepstream.v1.InferenceService/Generate"


async def test_rollouts_that_nobody_reads_cost_what_they_may_be_ahead() -> None:
    """Three hundred at once, with outputs, over ten connections: each pauses, live steps and a rollout that is read go on, and
    all is free when they are given up."""
    async with front_door("ring", spec=ring_spec, backend=ring_backend) as front, AsyncExitStack() as stack:
        channels = [await stack.enter_async_context(small_window(front.address)) for _ in range(10)]
        stubs = [inference_pb2_grpc.InferenceServiceStub(channel) for channel in channels]
        going = [stubs[number % 10].Generate(request(max_steps=FOREVER, outputs=True)) for number in range(UNREAD)]
        model = front.models["ring"]
        await engine_when(front, lambda stats: stats.rollouts == UNREAD and not model.engine._rollouts.busy)
        stream = await stack.enter_async_context(CountingStream(front.channel))
        (held,) = await stream.open("ring", [0])
        for seq in range(50):
            wanted = inference_pb2.StepRequest(model="ring", session_id=held.id, secret=held.secret, seq=seq)
            wanted.inputs["token"].numbers.append(seq % 8)
            assert (await front.inference.Step(wanted)).next_seq == seq + 1
        assert (await whole(front.inference.Generate(request(max_steps=1000)))).next_seq == 1001
        callers = [each for each in model.door._rollouts.values() if isinstance(each, RolloutCaller)]
        assert len(callers) == UNREAD
        assert max(sum(each.steps for each in caller._told) for caller in callers) <= MOST_AHEAD
        await stream.half_close()
        await stream.end()
        await front.sessions.CloseSession(session_pb2.CloseSessionRequest(model="ring", id=held.id, secret=held.secret))
        for call in going:
            call.cancel()
        await check_nothing_rolls(front)


async def test_noise_is_its_senders_fault() -> None:
    """Bytes that are no request are refused with the type that was expected, and are no matter for the log."""
    async with front_door("ring", spec=ring_spec, backend=ring_backend) as front:
        rng = np.random.default_rng(1)
        generate = cast("Any", front.channel).unary_stream(PATH, response_deserializer=inference_pb2.GenerateResponse.FromString)
        with capture_logs() as logs:
            for size in range(1, 200):
                call = generate(b"\xff" * 9 + rng.bytes(size))
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await call.read()
                assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
                assert "GenerateRequest" in str(caught.value.details())
        assert not logs
        await check_nothing_rolls(front)


def garbage(rng: np.random.Generator, model: str) -> GenerateRequest:
    """A request of which a field in eight holds anything."""

    def one_of(*values: Any) -> Any:
        return values[rng.integers(len(values))]

    def mostly(*good: Any, wrong: tuple[Any, ...]) -> Any:
        return one_of(*wrong) if rng.random() < 0.125 else one_of(*good)

    def column() -> bytes:
        noise = (tokens(8), tokens(-1), b"", bytes(3), rng.bytes(int(rng.integers(0, 40))))
        return bytes(mostly(tokens(0), tokens(1, 2, 3), wrong=noise))

    numeric = model == "walk"
    return GenerateRequest(
        model=model,
        session_id=mostly("", "s", wrong=("none", "\x00")),
        secret=mostly(b"", wrong=(b"guess",)),
        seq=mostly(None, wrong=(0, 7, 2**63)),
        prompt=[column() for _ in range(mostly(1, wrong=(0, 2)))],
        max_steps=mostly(1, 2, 20, wrong=(0,)),
        temperature=mostly(0.0, 1.0, wrong=(5e-324, 1e308, -1.0, float("nan"))),
        top_k=mostly(0, wrong=(1, 2**32 - 1)),
        top_p=mostly(0.0, wrong=(5e-324, 1.0, 2.0)),
        seed=one_of(0, 2**64 - 1),
        stop=[column() for _ in range(mostly(0, wrong=(1, 20)) if numeric else mostly(0, 1, 2, wrong=(20,)))],
        commit=mostly(0, 1, 2, 3, wrong=(-7, 4)),
        paths=mostly(0, 1, wrong=(2, 300, 2000)),
        levels=mostly([], wrong=([0.5], [0.1, 0.9], [0.9, 0.1], [0.0])),
        outputs=one_of(False, True),
    )


@pytest.mark.parametrize("model", ["ring", "walk"])
async def test_garbage_is_refused_and_harms_nobody(model: str) -> None:
    """Whatever fields hold: a rollout ends well or is refused for a reason, the server never fails, and nothing is left of it."""
    spec, backend = (ring_spec, ring_backend) if model == "ring" else (walk_spec, walk_backend)
    rng = np.random.default_rng(7)
    async with front_door(model, spec=spec, backend=backend, max_rollout_paths=400) as front:
        await front.sessions.OpenSession(session_pb2.OpenSessionRequest(model=model, id="s"))
        codes: Counter[str] = Counter()

        async def send() -> None:
            call = front.inference.Generate(garbage(rng, model))
            try:
                while await call.read() is not grpc.aio.EOF:
                    pass
            except grpc.aio.AioRpcError:
                pass
            codes[(await call.code()).name] += 1

        for _ in range(60):
            await asyncio.gather(*[send() for _ in range(20)])
        assert codes["OK"] > 50
        assert codes["INVALID_ARGUMENT"] > 300
        allowed = {
            "OK", "INVALID_ARGUMENT", "NOT_FOUND", "ABORTED", "PERMISSION_DENIED", "FAILED_PRECONDITION", "RESOURCE_EXHAUSTED",
        }  # fmt: skip
        assert codes.keys() <= allowed, codes
        assert not front.models[model].crashes
        await check_nothing_rolls(front, model)
