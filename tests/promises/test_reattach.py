"""A connection that is cut while steps are in flight: attached again with the secret, each step counts once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray

from stepstream_proto.v1 import inference_pb2, session_pb2, session_pb2_grpc
from support.promised import write_model
from support.server import WAYS, serving
from support.wire import WireStream, block, steps_of

STEPS = 200


@pytest.fixture(params=[*(("lstm", way) for way in WAYS), ("program", "on the loop")], ids=" ".join)
async def channel(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to a server of one small model."""
    kind, way = request.param
    write_model(tmp_path / "m", kind, 2, 16)
    async with serving(tmp_path, **WAYS[way]) as bound, grpc.aio.insecure_channel(bound.listen) as channel:
        yield channel


async def receive_steps(stream: WireStream, count: int) -> dict[int, bytes]:
    """Outputs by step number, until there are as many."""
    outputs: dict[int, bytes] = {}
    while len(outputs) < count:
        answers = (await stream.receive()).answers
        assert not answers.errors
        _, seqs = steps_of(answers)
        outputs |= {seq: answers.outputs[0][4 * at : 4 * at + 4] for at, seq in enumerate(seqs.tolist())}
    return outputs


async def undisturbed(channel: grpc.aio.Channel, readings: NDArray[np.float32]) -> dict[int, bytes]:
    """What a session answers that nothing happens to."""
    async with WireStream(channel) as stream:
        await stream.open("m", [0])
        await stream.send(block([0], [0], [STEPS], readings))
        return await receive_steps(stream, STEPS)


async def test_repeats_after_a_cut_give_the_same_answers_and_move_the_state_once(channel: grpc.aio.Channel) -> None:
    """Cut mid-flight, attach by secret, send everything again from the first missing answer: as if nothing had happened."""
    readings = np.random.default_rng(3).normal(size=(STEPS, 2)).astype(np.float32)
    expected = await undisturbed(channel, readings)

    first = WireStream(channel)
    (session,) = await first.open("m", [0])
    for step in range(STEPS // 2):  # sent, and not waited for
        await first.send(block([0], [step], [1], readings[step : step + 1]))
    received = await receive_steps(first, 10)
    first.cut()

    async with WireStream(channel) as second:
        attached = await second.attach("m", 5, session.id, session.secret, acked=0)
        applied = attached.sessions[0].next_seq
        assert 10 <= applied <= STEPS // 2
        kept = await receive_steps(second, applied)  # kept answers come by themselves
        await second.send(block([5], [0], [STEPS], readings))  # and everything is repeated, old and new
        repeated = await receive_steps(second, STEPS)
    assert repeated == expected
    assert kept == {step: expected[step] for step in range(applied)}
    assert received == {step: expected[step] for step in received}
    stub = session_pb2_grpc.SessionServiceStub(channel)
    answer = await stub.GetSession(session_pb2.GetSessionRequest(model="m", id=session.id))
    assert answer.session.next_seq == STEPS


async def test_a_gap_is_aborted_with_the_number_expected(channel: grpc.aio.Channel) -> None:
    """A client that lost count is told where to go on, and its session has not moved."""
    readings = np.ones((1, 2), np.float32)
    async with WireStream(channel) as stream:
        await stream.open("m", [0])
        await stream.send(block([0], [0], [1], readings))
        await stream.receive()
        await stream.send(block([0], [7], [1], readings))
        (error,) = (await stream.receive()).answers.errors
        assert (error.first_seq, error.length, error.expected_seq) == (7, 1, 1)
        assert (error.error.code, error.error.reason) == (grpc.StatusCode.ABORTED.value[0], "SEQUENCE_MISMATCH")
        await stream.send(block([0], [1], [1], readings))
        assert not (await stream.receive()).answers.errors


async def test_a_wrong_secret_does_not_take_a_session(channel: grpc.aio.Channel) -> None:
    """The rightful stream goes on."""
    async with WireStream(channel) as owner, WireStream(channel) as thief:
        (session,) = await owner.open("m", [0])
        attached = await thief.attach("m", 0, session.id, b"guess")
        assert attached.sessions[0].error.reason == "SECRET_MISMATCH"
        await owner.send(block([0], [0], [1], np.ones((1, 2), np.float32)))
        assert not (await owner.receive()).answers.errors


async def test_taking_over_tells_the_former_stream(channel: grpc.aio.Channel) -> None:
    """A half-open connection must not lock a session: the newcomer has it at once, the other hears why."""
    async with WireStream(channel) as former, WireStream(channel) as newcomer:
        (session,) = await former.open("m", [3])
        await newcomer.attach("m", 0, session.id, session.secret)
        detached = (await former.receive()).detached
        assert (np.frombuffer(detached.handles, "<u4").tolist(), detached.reason) == (
            [3],
            inference_pb2.DETACH_REASON_SESSION_TAKEN,
        )
