"""ModelStreamInfer call by call: order, errors in their places, credits, ends; and the unary call beside it."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from stepstream_proto.oip.v2 import oip_pb2
from stepstream_proto.v1 import session_pb2
from stepstream_server.config import DoorSettings
from stepstream_server.engine.ports import CallersLeft
from stepstream_server.rpc.stream.flow_control import Credits
from support.front_door import Arrivals, FrontDoor, front_door, wait_for
from support.oip.wire import InferCall, add_column, infer, infer_request, sums_of
from support.waits import waits

STREAM = ("inference.GRPCInferenceService", "ModelStreamInfer")


async def test_interleaved_sequences_keep_their_states(front: FrontDoor) -> None:
    """A state belongs to the sequence, whichever of a stream's requests are in between."""
    stream = InferCall(front.channel)
    await stream.send(*[infer_request("counter", [1], each, start=True) for each in (1, 2)])
    await stream.send(*[infer_request("counter", [10 * each], each) for each in (1, 2, 1, 2)])
    responses = await stream.receive(6)
    assert [sums_of(each.infer_response) for each in responses] == [[1], [1], [11], [21], [21], [41]]
    assert await stream.end() == (grpc.StatusCode.OK, "")


async def test_sequences_outlive_their_stream(front: FrontDoor) -> None:
    """A sequence goes on over another stream, and over a call without one."""
    for first in (True, False):
        stream = InferCall(front.channel)
        await stream.send(infer_request("counter", [1], 7, start=first))
        await stream.receive()
        await stream.end()
    assert sums_of(await infer(front.channel, infer_request("counter", [1], 7))) == [3]


async def test_responses_come_in_the_order_of_requests(front: FrontDoor) -> None:
    """What is refused at once waits for what was asked before it, and repeats its request's id."""
    model = front.models["counter"]
    stream = InferCall(front.channel)
    await stream.send(infer_request("counter", [1], 1, id="open", start=True))
    await stream.receive()
    model.gate.close()
    await stream.send(infer_request("counter", [1], 1, id="slow"))
    await wait_for(model.gate.reached)
    await stream.send(infer_request("nobody", [1], 1, id="refused"), infer_request("counter", [1], 1, id="next"))
    model.gate.open()
    responses = await stream.receive(3)
    assert [each.infer_response.id for each in responses] == ["slow", "refused", "next"]
    assert [bool(each.error_message) for each in responses] == [False, True, False]
    assert sums_of(responses[2].infer_response) == [3]


async def test_steps_of_a_sequence_may_be_sent_ahead(front: FrontDoor) -> None:
    """Requests of one sequence that are in flight together are applied one after the other, its end and a new start included."""
    stream = InferCall(front.channel)
    requests = [infer_request("counter", [1], "a", start=number == 0, end=number == 9) for number in range(10)]
    await stream.send(*requests, *requests)
    responses = [each.infer_response for each in await stream.receive(20)]
    assert [sums_of(each) for each in responses] == [[number + 1] for number in range(10)] * 2
    assert [each.parameters["sequence_step"].int64_param for each in responses] == [*range(10)] * 2


async def test_a_response_says_what_it_is(front: FrontDoor) -> None:
    """Model, version, id, the step applied, all outputs with their raw elements."""
    response = await infer(front.channel, infer_request("counter", [2, 3], "a", id="x-1", start=True))
    assert (response.model_name, response.model_version, response.id) == ("counter", "1", "x-1")
    assert response.parameters["sequence_step"].int64_param == 0
    assert [(each.name, each.datatype, [*each.shape]) for each in response.outputs] == [
        ("sum", "FP32", [1, 2, 1]),
        ("count", "FP32", [1, 2, 1]),
    ]
    assert sums_of(response) == [2, 5]
    again = await infer(front.channel, infer_request("counter", [1], "a"))
    assert again.parameters["sequence_step"].int64_param == 2
    assert [[*each.shape] for each in again.outputs] == [[1, 1], [1, 1]]


@pytest.mark.parametrize("steps", [1, 1000])
async def test_a_response_stands_in_a_stream_once(front: FrontDoor, steps: int) -> None:
    """As one field of whatever length: where a field comes twice, some clients keep the last one alone."""
    call: Any = front.channel.stream_stream(
        "/inference.GRPCInferenceService/ModelStreamInfer", oip_pb2.ModelInferRequest.SerializeToString
    )()
    await call.write(infer_request("counter", [1.0] * steps, 1, id="first", start=True))
    raw: Any = await call.read()
    response = oip_pb2.ModelStreamInferResponse.FromString(raw)
    assert (response.infer_response.id, len(sums_of(response.infer_response))) == ("first", steps)
    again = oip_pb2.ModelStreamInferResponse(infer_response=response.infer_response).SerializeToString()
    assert len(raw) == len(again)
    call.cancel()


async def test_a_failed_sequence_leaves_those_of_its_request_alone(front: FrontDoor) -> None:
    """Of several sequences in one request each has its own outcome, in the columns of the response."""
    first = infer_request("counter", [[1], [2]])
    add_column(first, "SEQUENCE_ID", ["a", "b"])
    add_column(first, "SEQUENCE_START", [True, True])
    await infer(front.channel, first)
    second = infer_request("counter", [[1], [1], [2]])
    add_column(second, "SEQUENCE_ID", ["a", "stranger", "b"])
    response = await infer(front.channel, second)
    assert [each.name for each in response.outputs] == ["sum", "count", "SEQUENCE_STEP", "SEQUENCE_ERROR"]
    sums = sums_of(response)
    assert (sums[0], sums[2]) == (2, 4)
    assert sums[1] != sums[1]  # not a number
    errors = response.raw_output_contents[3]
    assert errors.startswith(bytes(4))
    assert b"SESSION_NOT_FOUND" in errors
    assert errors.endswith(bytes(4))


async def test_a_client_hears_little_of_its_own_words(front: FrontDoor) -> None:
    """However much of a request is wrong, its error is short, on a stream as elsewhere."""
    stream = InferCall(front.channel)
    request = infer_request("counter", [1], 1, start=True)
    request.inputs[0].datatype = "x" * 100_000
    await stream.send(request)
    (response,) = await stream.receive()
    assert response.error_message.startswith("INVALID_ARGUMENT: inputs[x]: expected datatype FP32, got 'xxx")
    assert len(response.error_message) == 1000
    assert await stream.end() == (grpc.StatusCode.OK, "")


async def test_errors_may_end_the_stream_instead(front: FrontDoor) -> None:
    """With the metadata that Triton knows for it, the first error ends the call, behind the responses before it."""
    stream = InferCall(front.channel, ("triton_grpc_error", "true"))
    await stream.send(infer_request("counter", [1], 1, start=True), infer_request("counter", [1], 2))
    (response,) = await stream.receive()
    assert sums_of(response.infer_response) == [1]
    code, details = await stream.end()
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "must specify the START flag" in details


async def test_half_close_waits_for_what_is_outstanding(front: FrontDoor) -> None:
    """The server answers all it has read, then ends the stream."""
    model = front.models["counter"]
    stream = InferCall(front.channel)
    await stream.opened()
    model.gate.close()
    await stream.send(infer_request("counter", [1], 1, start=True))
    await wait_for(model.gate.reached)
    await stream.call.done_writing()
    model.gate.open()
    (response,) = await stream.receive()
    assert sums_of(response.infer_response) == [1]
    assert await stream.call.read() is grpc.aio.EOF
    assert await stream.call.code() is grpc.StatusCode.OK


async def test_what_a_cancelled_stream_has_queued_is_dropped() -> None:
    """Cancelling applies nothing of what waits; the sequence stands where it was answered last."""
    arrivals = Arrivals()
    async with front_door(tap=arrivals) as front:
        model = front.models["counter"]
        stream, other = InferCall(front.channel), InferCall(front.channel)
        await stream.send(infer_request("counter", [1], 1, start=True))
        await stream.receive()
        model.gate.close()
        await other.send(infer_request("counter", [5], 2, start=True))
        await wait_for(model.gate.reached)
        gone = arrivals.next(CallersLeft)
        await stream.send(*[infer_request("counter", [1], 1)] * 3, infer_request("nobody", [1], 1))
        stream.call.cancel()
        await gone
        model.gate.open()
        await other.receive()
        assert sums_of(await infer(front.channel, infer_request("counter", [1], 1))) == [2]


async def test_a_client_that_does_not_read_is_not_read_from(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests in flight are bounded by the stream's credits, one for each step."""
    used_up = waits(monkeypatch, Credits)
    async with front_door(settings=DoorSettings(stream_credit_steps=4)) as front:
        model = front.models["counter"]
        stream = InferCall(front.channel)
        await stream.send(infer_request("counter", [1], 1, start=True))
        await stream.receive()
        model.gate.close()
        for _ in range(8):
            await stream.send(infer_request("counter", [1], 1))
        (open_stream,) = front.rpc.streams._open
        await asyncio.wait_for(used_up.wait(), 60)
        await _echoed(front)
        assert open_stream._credits.in_flight == 4
        model.gate.open()
        assert [sums_of(each.infer_response) for each in await stream.receive(8)] == [[number] for number in range(2, 10)]


async def test_streams_of_both_protocols_share_their_limit() -> None:
    """Beyond `max_streams` a stream is refused, whichever protocol it speaks."""
    async with front_door(settings=DoorSettings(max_streams=1)) as front:
        first = InferCall(front.channel)
        await first.opened()
        assert (await InferCall(front.channel).end())[0] is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert await front.inference.Stream().code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        first.call.cancel()


async def test_a_drain_ends_streams_once_they_are_answered() -> None:
    """What was read is answered; then the stream ends, though its client says nothing."""
    async with front_door() as front:
        stream = InferCall(front.channel)
        await stream.send(infer_request("counter", [1], 1, start=True))
        await stream.receive()
        front.rpc.streams.drain(1.0)
        assert await front.rpc.streams.finish(30.0, 0.0)
        assert await stream.call.read() is grpc.aio.EOF


async def test_a_crashed_engine_answers_every_request_with_an_error() -> None:
    """Nobody waits for ever: what was in flight and what comes later is told of the failure."""
    async with front_door() as front:
        model = front.models["counter"]
        model.backend.broken = True
        stream = InferCall(front.channel)
        await stream.send(*[infer_request("counter", [1], each, start=True) for each in range(1, 4)])
        assert [each.error_message.split(":")[0] for each in await stream.receive(3)] == ["ENGINE_FAILED"] * 3
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await infer(front.channel, infer_request("counter", [1], 9, start=True))
        assert caught.value.code() is grpc.StatusCode.INTERNAL


async def test_an_answer_too_large_for_a_message_is_never_computed() -> None:
    """Refused before any of its steps has run."""
    async with front_door(settings=DoorSettings(max_message_bytes=8192)) as front:
        await infer(front.channel, infer_request("counter", [1], 1, start=True))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await infer(front.channel, infer_request("counter", [1.0] * 1000, 1))
        assert "BLOCK_TOO_LARGE" in (caught.value.details() or "")
        assert sums_of(await infer(front.channel, infer_request("counter", [1], 1))) == [2]


async def test_an_id_that_no_response_could_carry_is_refused(front: FrontDoor) -> None:
    """It comes back cut off, and the stream goes on."""
    stream = InferCall(front.channel)
    await stream.send(
        infer_request("counter", [1], 1, start=True, id="x" * 3_000_000), infer_request("nobody", [1], 1, id="next")
    )
    first, second = await stream.receive(2)
    assert first.error_message == "INVALID_ARGUMENT: id: expected at most 1024 characters, got 3000000"
    assert (first.infer_response.id, second.infer_response.id) == ("x" * 1024, "next")


async def test_calls_are_counted_by_their_own_names(front: FrontDoor) -> None:
    """As those of the contract are."""
    stream = InferCall(front.channel)
    await stream.opened()
    assert await stream.end() == (grpc.StatusCode.OK, "")
    assert await asyncio.wait_for(front.ended.get(), 60) == (*STREAM, "OK")


async def test_a_sequence_is_a_session(front: FrontDoor) -> None:
    """Callers of the contract find it under its id."""
    await infer(front.channel, infer_request("counter", [1], 12, start=True))
    response = await front.sessions.GetSession(session_pb2.GetSessionRequest(model="counter", id="int:12"))
    assert (response.session.next_seq, response.session.attached) == (1, False)


async def _echoed(front: FrontDoor) -> None:
    """Returns once the event loop has been through all that came before, over a stream of its own."""
    probe = InferCall(front.channel)
    await probe.send(oip_pb2.ModelInferRequest(model_name="nobody"))
    await probe.receive()
    probe.call.cancel()
    await asyncio.wait_for(front.ended.get(), 60)
