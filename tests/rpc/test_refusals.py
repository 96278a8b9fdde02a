"""Rows that the front door cannot take: refused in their place among the session's outcomes, and the stream goes on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from stepstream_proto.v1 import inference_pb2
from stepstream_proto.v1.inference_pb2 import Block, StreamRequest
from stepstream_server.config import DoorSettings
from support.front_door import CountingStream, FrontDoor, front_door, wait_for
from support.wire import steps_of, u32, u64

Outcome = tuple[int, int, str]  # handle, number, "" or the reason


async def outcomes(stream: CountingStream, steps: int) -> list[Outcome]:
    """So many outcomes, in the order in which they come."""
    found: list[Outcome] = []
    while len(found) < steps:
        answers = (await stream.receive()).answers
        if answers.handles:
            found += [(int(handle), int(seq), "") for handle, seq in zip(*steps_of(answers), strict=True)]
        found += [(each.handle, each.first_seq, each.error.reason) for each in answers.errors]
    return found


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"inputs": [b"abc"]}, "INVALID_ARGUMENT"),
        ({"inputs": []}, "INVALID_ARGUMENT"),
        ({"outputs": 9}, "INVALID_ARGUMENT"),
        ({"outputs": -1}, "INVALID_ARGUMENT"),
        ({"acked": b"1"}, "INVALID_ARGUMENT"),
        ({"timeout": {"seconds": -1}}, "INVALID_ARGUMENT"),
        ({"lengths": u32([3])}, "BLOCK_TOO_LARGE"),
    ],
)
async def test_a_refusal_waits_for_what_was_sent_before(fields: dict[str, Any], reason: str) -> None:
    """The answer to an earlier step comes first, and the next good step of the same number is admitted."""
    async with front_door(settings=DoorSettings(max_block_steps=2)) as front, CountingStream(front.channel) as stream:
        gate = front.models["counter"].gate
        await stream.open("counter", [0])
        gate.close()
        await stream.step([0], [0], [1])
        await wait_for(gate.reached)
        good: dict[str, Any] = {"handles": u32([0]), "first_seqs": u64([1]), "inputs": [np.ones(1, "<f4").tobytes()]}
        await stream.send(StreamRequest(block=Block(**{**good, **fields})))
        await stream.step([0], [1], [5])
        await stream.all_read()
        gate.open()
        assert await outcomes(stream, 3) == [(0, 0, ""), (0, 1, reason), (0, 1, "")]


async def test_a_refused_row_names_the_expected_number(stream: CountingStream) -> None:
    """It is the session's next, whatever number the row had; its length comes back as it was."""
    await stream.open("counter", [0])
    await stream.step([0], [0], [1, 1])
    await stream.sums(2)
    wrong = Block(handles=u32([0]), first_seqs=u64([7]), lengths=u32([3]), inputs=[b"?"])
    await stream.send(StreamRequest(block=wrong))
    assert await stream.errors(1) == [(0, 7, 3, "INVALID_ARGUMENT", 2)]


async def test_mixed_models_are_refused_by_each_engine_in_its_order() -> None:
    """Behind what each session had pending, and both go on."""
    async with front_door("one", "two") as front, CountingStream(front.channel) as stream:
        gates = [model.gate for model in front.models.values()]
        await stream.open("one", [0])
        await stream.open("two", [1])
        for handle, gate in enumerate(gates):
            gate.close()
            await stream.step([handle], [0], [1])
            await wait_for(gate.reached)
        await stream.step([0, 1], [1, 1], [1], [1])
        await stream.step([0], [1], [1])
        await stream.step([1], [1], [1])
        await stream.all_read()
        for gate in gates:
            gate.open()
        found = await outcomes(stream, 6)
        for handle in (0, 1):
            assert [each[1:] for each in found if each[0] == handle] == [(0, ""), (1, "MIXED_MODELS"), (1, "")]


async def test_a_refusal_for_a_detached_session_is_not_awaited(front: FrontDoor, stream: CountingStream) -> None:
    """Its session was taken meanwhile: the handle is freed, and the stream ends as it should."""
    gate = front.models["counter"].gate
    first, _ = await stream.open("counter", [0, 1])
    gate.close()
    await stream.step([1], [0], [1])
    await wait_for(gate.reached)
    async with CountingStream(front.channel) as other:
        await other.send_attach("counter", 0, first.id, first.secret)
        await other.all_read()
        await stream.send(StreamRequest(block=Block(handles=u32([0]), first_seqs=u64([0]), inputs=[b"?"])))
        await stream.all_read()
        await stream.half_close()
        gate.open()
        assert (await other.receive()).attached.sessions[0].error.reason == ""
    code, _ = await stream.end()
    assert code.name == "OK"


async def test_an_open_that_asks_for_nothing_is_answered_and_paid_for() -> None:
    """Such answers pile up like others for a client that does not read, so they cost credit like others, and give it back."""
    async with front_door(settings=DoorSettings(stream_credit_steps=1)) as front, CountingStream(front.channel) as stream:
        for model, expected in (("counter", "counter"), ("none", "none")):
            assert await stream.open(model, []) == []
            await stream.send(StreamRequest(attach=inference_pb2.Attach(model=model)))
            assert (await stream.receive()).attached.model == expected
        await stream.half_close()
        assert (await stream.end())[0].name == "OK"


async def test_an_id_that_cannot_be_is_refused_alone(stream: CountingStream) -> None:
    """It is repeated only as far as an id may go."""
    (session,) = await stream.open("counter", [0])
    wanted = [
        inference_pb2.AttachSession(handle=1, id="x" * 1_000_000),
        inference_pb2.AttachSession(handle=2, id=session.id, secret=session.secret),
    ]
    await stream.send(StreamRequest(attach=inference_pb2.Attach(model="counter", sessions=wanted)))
    while not (message := await stream.receive()).HasField("attached"):
        pass
    wrong, right = message.attached.sessions
    assert (wrong.id, wrong.error.reason, right.error.reason) == ("x" * 128, "INVALID_ARGUMENT", "")
