"""The unary step, with plain numbers."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo
from grpc_status import rpc_status

from stepstream_proto.v1 import common_pb2, session_pb2
from stepstream_proto.v1.inference_pb2 import StepRequest, StepResponse, Values
from stepstream_server.config import DoorSettings
from support.front_door import CountingStream, FrontDoor, front_door, wait_for
from support.submissions import submissions


async def opened(front: FrontDoor) -> tuple[str, bytes]:
    """A session: id and secret."""
    response = await front.sessions.OpenSession(session_pb2.OpenSessionRequest(model="counter"))
    return response.session.id, response.secret


def request(session: str, *numbers: float, **fields: Any) -> StepRequest:
    """A step of the counting model."""
    inputs = {"x": Values(numbers=numbers)}
    return StepRequest(**{"model": "counter", "session_id": session, "inputs": inputs, **fields})


def sums(response: StepResponse) -> list[float]:
    """The running sums that came back."""
    return list(response.outputs["sum"].numbers)


async def failure(call: grpc.aio.UnaryUnaryCall[StepRequest, StepResponse]) -> tuple[grpc.StatusCode, ErrorInfo, list[str]]:
    """How a call failed: its code, its reason with metadata, and the fields it names."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    status = await rpc_status.aio.from_call(call)
    assert status is not None
    info, bad = ErrorInfo(), BadRequest()
    for detail in status.details:
        detail.Unpack(info)
        detail.Unpack(bad)
    return caught.value.code(), info, [each.field for each in bad.field_violations]


async def test_a_step_takes_and_gives_plain_numbers(front: FrontDoor) -> None:
    """Every output comes back by name, with the number of the step and the count after it."""
    session_id, _ = await opened(front)
    response = await front.inference.Step(request(session_id, 2.5))
    assert (response.seq, response.next_seq) == (0, 1)
    assert {name: list(values.numbers) for name, values in response.outputs.items()} == {"sum": [2.5], "count": [1.0]}
    assert (await front.inference.Step(request(session_id, 1))).seq == 1


async def test_a_chunk_is_several_steps(front: FrontDoor) -> None:
    """All steps come back, or only the last, or none."""
    session_id, _ = await opened(front)
    response = await front.inference.Step(request(session_id, *range(1, 101)))
    assert (response.seq, response.next_seq) == (0, 100)
    assert sums(response) == [n * (n + 1) / 2 for n in range(1, 101)]
    assert sums(await front.inference.Step(request(session_id, 1, 1, outputs=common_pb2.OUTPUTS_LAST))) == [5052]
    assert sums(await front.inference.Step(request(session_id, 1, outputs=common_pb2.OUTPUTS_NONE))) == []


async def test_a_numbered_step_can_be_repeated(front: FrontDoor) -> None:
    """The repeat is answered from the kept answer and moves nothing."""
    session_id, _ = await opened(front)
    first = await front.inference.Step(request(session_id, 3, seq=0))
    assert await front.inference.Step(request(session_id, 3, seq=0)) == first
    assert sums(await front.inference.Step(request(session_id, 4, seq=1))) == [7]


async def test_a_gap_tells_the_expected_number(front: FrontDoor) -> None:
    """ABORTED, with expectedSeq in the details."""
    session_id, _ = await opened(front)
    code, info, _ = await failure(front.inference.Step(request(session_id, 3, seq=5)))
    assert (code, info.reason) == (grpc.StatusCode.ABORTED, "SEQUENCE_MISMATCH")
    assert dict(info.metadata) == {"expectedSeq": "0"}


@pytest.mark.parametrize(
    ("fields", "code", "reason", "field"),
    [
        ({"model": "none"}, grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND", "model"),
        ({"version": 3}, grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND", "version"),
        ({"session_id": "none"}, grpc.StatusCode.NOT_FOUND, "SESSION_NOT_FOUND", None),
        ({"session_id": ""}, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT", "session_id"),
        ({"inputs": {}}, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT", "inputs[x]"),
        ({"inputs": {"x": Values(numbers=[float("nan")])}}, grpc.StatusCode.INVALID_ARGUMENT, "NON_FINITE_INPUT", None),
        ({"inputs": {"x": Values(numbers=[0.0] * 11)}}, grpc.StatusCode.RESOURCE_EXHAUSTED, "BLOCK_TOO_LARGE", "inputs"),
        ({"seq": 2**62}, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT", "seq"),
        ({"outputs": 17}, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT", "outputs"),
        ({"secret": b"guess"}, grpc.StatusCode.PERMISSION_DENIED, "SECRET_MISMATCH", None),
    ],
)
async def test_a_wrong_step_is_refused_by_name(
    fields: dict[str, Any], code: grpc.StatusCode, reason: str, field: str | None
) -> None:
    """Code, reason and field say what to mend, and the session stays as it was."""
    async with front_door(settings=DoorSettings(max_block_steps=10)) as front:
        session_id, _ = await opened(front)
        found_code, info, named = await failure(front.inference.Step(request(session_id, 1, **fields)))
        assert (found_code, info.reason) == (code, reason)
        assert field is None or named == [field]
        assert sums(await front.inference.Step(request(session_id, 1))) == [1]


async def test_a_step_never_takes_a_session_over(front: FrontDoor, stream: CountingStream) -> None:
    """Beside a stream it needs the secret, queues like any step, and the stream keeps the session."""
    (session,) = await stream.open("counter", [0])
    await stream.step([0], [0], [1])
    await stream.sums(1)
    code, info, _ = await failure(front.inference.Step(request(session.id, 1)))
    assert (code, info.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "SESSION_IN_USE")
    assert sums(await front.inference.Step(request(session.id, 10, secret=session.secret))) == [11]
    await stream.step([0], [2], [100])
    assert await stream.sums(1) == {(0, 2): 111}


async def test_a_step_given_up_is_not_applied(front: FrontDoor, stream: CountingStream) -> None:
    """A caller whose deadline passes while the step waits finds the session as it was."""
    gate = front.models["counter"].gate
    session_id, _ = await opened(front)
    await stream.open("counter", [0])
    gate.close()
    await stream.step([0], [0], [1])
    await wait_for(gate.reached)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await front.inference.Step(request(session_id, 1), timeout=0.05)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await front.ended.get()  # the opening
    await front.ended.get()  # the step that was given up
    gate.open()
    assert sums(await front.inference.Step(request(session_id, 7))) == [7]


async def test_a_step_without_a_deadline_has_the_servers() -> None:
    """It is dropped if it has not begun by then."""
    async with front_door(settings=DoorSettings(step_timeout_seconds=1e-9)) as front:
        session_id, _ = await opened(front)
        code, info, _ = await failure(front.inference.Step(request(session_id, 1)))
    assert (code, info.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED")


async def test_closing_fails_the_steps_that_wait(
    front: FrontDoor, stream: CountingStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step whose session is closed under it hears that."""
    gate = front.models["counter"].gate
    session_id, secret = await opened(front)
    await stream.open("counter", [0])
    gate.close()
    await stream.step([0], [0], [1])
    await wait_for(gate.reached)
    submitted = submissions(front.models["counter"].door, monkeypatch)
    outcome = asyncio.create_task(failure(front.inference.Step(request(session_id, 1))))
    await submitted.get()
    request_ = session_pb2.CloseSessionRequest(model="counter", id=session_id, secret=secret)
    closing = asyncio.ensure_future(front.sessions.CloseSession(request_))
    await submitted.get()
    gate.open()
    await closing
    code, info, _ = await outcome
    assert (code, info.reason) == (grpc.StatusCode.NOT_FOUND, "SESSION_CLOSED")


async def test_a_crash_is_told_to_every_waiting_step(front: FrontDoor) -> None:
    """INTERNAL with ENGINE_FAILED, and none of the crash's own words."""
    ids = [(await opened(front))[0] for _ in range(3)]
    front.models["counter"].backend.broken = True
    outcomes = await asyncio.gather(*(failure(front.inference.Step(request(each, 1))) for each in ids))
    assert {(code, info.reason) for code, info, _ in outcomes} == {(grpc.StatusCode.INTERNAL, "ENGINE_FAILED")}
