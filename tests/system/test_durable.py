"""Durable sessions and real processes: killed, stopped in peace, and started again on the same file."""

from __future__ import annotations

import json
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import numpy as np
from numpy.typing import NDArray

from stepstream_proto.oip.v2 import oip_pb2
from stepstream_proto.v1 import inference_pb2, inference_pb2_grpc, session_pb2, session_pb2_grpc
from stepstream_proto.v1.inference_pb2 import AttachedSession, StepResponse, StreamRequest
from support.oip.wire import InferCall
from support.process import ServerProcess, launch, server_process
from support.wire import WireStream, block, read_to_drain, steps_of

INPUTS = np.random.default_rng(0).normal(size=(6, 2)).astype(np.float32)
NEVER = ["--store.every_seconds", "3600", "--store.every_steps", "1000000"]  # by itself


@asynccontextmanager
async def life(models: Path, file: Path, *flags: str) -> AsyncIterator[tuple[ServerProcess, grpc.aio.Channel]]:
    """A server on the file, of which all sessions of `small` are durable."""
    config = file.with_name("server.toml")
    config.write_text("[model.small]\ndurable = true\n[model.absent]\ndurable = true\n")
    given = ["--config", str(config), "--store.url", f"sqlite:{file}", *flags]
    async with server_process(models, *given) as server, grpc.aio.insecure_channel(server.listen) as channel:
        yield server, channel


async def step(channel: grpc.aio.Channel, id: str, inputs: NDArray[np.float32]) -> StepResponse:
    """Steps [T, 2] by a call."""
    request = inference_pb2.StepRequest(model="small", session_id=id)
    request.inputs["input"].numbers.extend(map(float, inputs.ravel()))
    response: StepResponse = await inference_pb2_grpc.InferenceServiceStub(channel).Step(request, timeout=60)
    return response


async def undisturbed(channel: grpc.aio.Channel) -> list[float]:
    """Gives what a session answers that takes all inputs at once."""
    opening = session_pb2.OpenSessionRequest(model="small", id="undisturbed")
    await session_pb2_grpc.SessionServiceStub(channel).OpenSession(opening)
    return list((await step(channel, "undisturbed", INPUTS)).outputs["output"].numbers)


def infer(inputs: NDArray[np.float32], *, start: bool) -> oip_pb2.ModelInferRequest:
    """One step of a sequence."""
    request = oip_pb2.ModelInferRequest(model_name="small")
    request.inputs.add(name="input", datatype="FP32", shape=(1, 2))
    request.raw_input_contents.append(inputs.tobytes())
    request.parameters["sequence_id"].string_param = "sequence"
    request.parameters["sequence_start"].bool_param = start
    return request


async def infer_one(channel: grpc.aio.Channel, inputs: NDArray[np.float32], *, start: bool) -> float:
    """Steps the sequence over the Open Inference Protocol."""
    call = InferCall(channel)
    await call.send(infer(inputs, start=start))
    (told,) = await call.receive()
    assert not told.error_message
    return float(np.frombuffer(told.infer_response.raw_output_contents[0], "<f4")[0])


async def attach(stream: WireStream, session: AttachedSession, **fields: int) -> AttachedSession:
    """Attaches a session under handle 0."""
    one = inference_pb2.AttachSession(handle=0, id=session.id, secret=session.secret, **fields)
    await stream.send(StreamRequest(attach=inference_pb2.Attach(model="small", sessions=[one])))
    return (await stream.receive()).attached.sessions[0]


async def answered(stream: WireStream, first: int, end: int, durable: int = 0) -> list[float]:
    """Reads until the steps [first, end) of handle 0 are answered and so many are in the store."""
    found, count = dict[int, float](), 0
    while len(found) < end - first or count < durable:
        message = await stream.receive()
        counts = np.frombuffer(message.durable.counts, "<u8").tolist()
        count = max([count, *counts])
        for values in message.answers.outputs:
            _, seqs = steps_of(message.answers)
            found.update(zip(seqs.tolist(), np.frombuffer(values, "<f4").tolist(), strict=True))
    return [found[seq] for seq in range(first, end)]


async def send(stream: WireStream, first: int, inputs: NDArray[np.float32]) -> None:
    """Steps [T, 2] of handle 0."""
    await stream.send(block([0], [first], [len(inputs)], inputs))


def events(log: str, name: str) -> Sequence[dict[str, object]]:
    """The lines of a log about one thing."""
    return [line for line in map(json.loads, log.splitlines()) if line["event"] == name]


async def test_sessions_survive_the_death_and_the_end_of_their_server(models: Path, tmp_path: Path) -> None:
    """By calls, over the Open Inference Protocol and over a stream: killed, then stopped while nothing was written by itself, in
    front of workers at last. Each session computes what one does that nothing has happened to."""
    file = tmp_path / "sessions"
    async with life(models, file, "--workers", "0") as (server, channel), WireStream(channel) as stream:
        expected = await undisturbed(channel)
        await session_pb2_grpc.SessionServiceStub(channel).OpenSession(session_pb2.OpenSessionRequest(model="small", id="called"))
        called = await step(channel, "called", INPUTS[:2])
        assert (list(called.outputs["output"].numbers), called.durable_seq) == (expected[:2], 2)
        assert await infer_one(channel, INPUTS[0], start=True) == np.float32(expected[0])
        (session,) = await stream.open("small", [0])
        assert session.durable
        await send(stream, 0, INPUTS[:2])
        assert await answered(stream, 0, 2, durable=2) == expected[:2]
        second = await launch(models, "--store.url", f"sqlite:{file}", "--workers", "0")
        _, told = await second.communicate()
        assert second.returncode == 1
        assert str(file) in told.decode().splitlines()[-1]
        server.process.kill()
        await server.ended()
    async with life(models, file, "--workers", "0", *NEVER) as (server, channel):
        called = await step(channel, "called", INPUTS[2:4])
        assert (list(called.outputs["output"].numbers), called.durable_seq, called.epoch) == (expected[2:4], 4, 1)
        assert await infer_one(channel, INPUTS[1], start=False) == np.float32(expected[1])
        async with WireStream(channel) as stream:
            again = await attach(stream, session, acked=1, replay_from=2)
            assert (again.next_seq, again.acked, again.epoch, again.bitwise) == (2, 1, 1, True)
            await send(stream, 2, INPUTS[2:4])
            assert await answered(stream, 1, 4) == expected[1:4]
            server.process.send_signal(signal.SIGTERM)
            *_, drain = await read_to_drain(stream)
            assert drain.drain.resume
        code, log = await server.ended()
        assert code == 0
        assert [(each["sessions_lost"], each["level"]) for each in events(log, "drained")] == [(0, "info")]
        assert [each["key"] for each in events(log, "settings_of_no_model")] == ["model.absent"]
        assert not events(log, "not_written")
    async with life(models, file, "--workers", "2") as (server, channel), WireStream(channel) as stream:
        again = await attach(stream, session, acked=4)
        assert (again.error.reason, again.next_seq, again.durable_seq, again.epoch) == ("", 4, 4, 2)
        await send(stream, 4, INPUTS[4:])
        assert await answered(stream, 4, 6, durable=6) == expected[4:]
        assert list((await step(channel, "called", INPUTS[4:])).outputs["output"].numbers) == expected[4:]
