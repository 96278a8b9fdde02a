"""Sessions outside a stream, and the models that are served."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import RetryInfo
from grpc_status import rpc_status

from stepstream_proto.v1 import common_pb2, model_pb2, session_pb2
from stepstream_proto.v1.session_pb2 import (
    CloseSessionRequest,
    GetSessionRequest,
    OpenSessionRequest,
    OpenSessionsRequest,
)
from support.front_door import CountingStream, FrontDoor, front_door


async def code_of(call: grpc.aio.UnaryUnaryCall[object, object]) -> grpc.StatusCode:
    """The code that a call fails with."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code()


async def test_an_opened_session_is_described(front: FrontDoor) -> None:
    """Everything that can be known about it, and a secret that is shown only now."""
    response = await front.sessions.OpenSession(OpenSessionRequest(model="counter", id="mine", idle_ttl=Duration(seconds=5)))
    session = response.session
    assert (session.model, session.version, session.id) == ("counter", 1, "mine")
    assert session.status == session_pb2.SESSION_STATUS_OPEN
    assert (session.next_seq, session.pending_steps, session.attached) == (0, 0, False)
    assert session.idle_ttl.seconds == 5
    assert response.secret
    found = (await front.sessions.GetSession(GetSessionRequest(model="counter", id="mine"))).session
    assert (found.id, found.slot) == ("mine", session.slot)


async def test_the_servers_idle_ttl_is_the_maximum(front: FrontDoor) -> None:
    """A longer one is cut down, none means the server's."""
    for idle_ttl in (Duration(seconds=10**9), None):
        response = await front.sessions.OpenSession(OpenSessionRequest(model="counter", idle_ttl=idle_ttl))
        assert response.session.idle_ttl.seconds == 3600


async def test_a_session_tells_who_holds_it_and_how_far_it_is(front: FrontDoor, stream: CountingStream) -> None:
    """Counts and attachment follow the stream; a poisoned session is quarantined."""
    (opened,) = await stream.open("counter", [0])
    await stream.step([0], [0], [1])
    await stream.sums(1)
    front.models["counter"].backend.states[:] = np.nan
    await stream.step([0], [1], [1])
    assert await stream.errors(1) == [(0, 1, 1, "NON_FINITE_STATE", 1)]
    session = (await front.sessions.GetSession(GetSessionRequest(model="counter", id=opened.id))).session
    assert (session.next_seq, session.attached) == (1, True)
    assert session.status == session_pb2.SESSION_STATUS_QUARANTINED


async def test_many_are_opened_at_once(front: FrontDoor) -> None:
    """Each succeeds or fails by itself, in the order asked for."""
    await front.sessions.OpenSession(OpenSessionRequest(model="counter", id="b"))
    response = await front.sessions.OpenSessions(OpenSessionsRequest(model="counter", count=3, ids=["a", "b", "c"]))
    assert [(each.id, each.error.reason) for each in response.sessions] == [("a", ""), ("", "SESSION_EXISTS"), ("c", "")]
    made = await front.sessions.OpenSessions(OpenSessionsRequest(model="counter", count=4))
    assert len({each.id for each in made.sessions}) == 4


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"count": 10_001}, grpc.StatusCode.RESOURCE_EXHAUSTED),
        ({"count": 2**32 - 1}, grpc.StatusCode.RESOURCE_EXHAUSTED),
        ({"count": 2, "ids": ["a"]}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"count": 1, "ids": ["a b"]}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"count": 1, "ids": ["x" * 129]}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"count": 1, "model": "none"}, grpc.StatusCode.NOT_FOUND),
        ({"count": 1, "durable": True}, grpc.StatusCode.FAILED_PRECONDITION),
    ],
)
async def test_a_wrong_opening_is_refused(front: FrontDoor, fields: dict[str, Any], code: grpc.StatusCode) -> None:
    """Nothing is opened by a request that cannot be understood."""
    assert await code_of(front.sessions.OpenSessions(OpenSessionsRequest(**{"model": "counter", **fields}))) is code
    assert len(front.models["counter"].backend.free) == 64


async def test_a_full_server_says_when_to_come_back(front: FrontDoor) -> None:
    """RESOURCE_EXHAUSTED with a delay, as a call and as one session of many."""
    many = await front.sessions.OpenSessions(OpenSessionsRequest(model="counter", count=65))
    assert [each.error.reason for each in many.sessions[-2:]] == ["", "SESSION_CAPACITY"]
    assert many.sessions[-1].error.retry_delay_ms == 1000
    call = front.sessions.OpenSession(OpenSessionRequest(model="counter"))
    assert await code_of(call) is grpc.StatusCode.RESOURCE_EXHAUSTED
    status = await rpc_status.aio.from_call(call)
    assert status is not None
    retry = RetryInfo()
    assert any(detail.Unpack(retry) for detail in status.details)
    assert retry.retry_delay.ToMilliseconds() == 1000


async def test_closing_twice_succeeds(front: FrontDoor) -> None:
    """The first answer has the count, the second 0; afterwards the session is closed, not unknown."""
    opened = await front.sessions.OpenSession(OpenSessionRequest(model="counter"))
    close = CloseSessionRequest(model="counter", id=opened.session.id, secret=opened.secret)
    assert [(await front.sessions.CloseSession(close)).next_seq for _ in range(2)] == [0, 0]
    call = front.sessions.GetSession(GetSessionRequest(model="counter", id=opened.session.id))
    assert await code_of(call) is grpc.StatusCode.NOT_FOUND
    assert "closed" in (await call.details() or "")


async def test_models_are_listed_as_declared() -> None:
    """By name, with tensors, states, window and fingerprint."""
    async with front_door("two", "one", window_steps=7) as front:
        models = (await front.catalogue.ListModels(model_pb2.ListModelsRequest())).models
        assert [model.name for model in models] == ["one", "two"]
        model = (await front.catalogue.GetModel(model_pb2.GetModelRequest(name="one"))).model
        assert model == models[0]
        assert [(each.name, each.data_type, list(each.shape)) for each in model.inputs] == [
            ("x", common_pb2.DATA_TYPE_FLOAT32, [1])
        ]
        assert [each.name for each in model.outputs] == ["sum", "count"]
        assert [each.name for each in model.states] == ["last.sum", "count"]
        assert (model.window.steps, model.fingerprint, model.HasField("time_step")) == (7, "0" * 64, False)
        missing = front.catalogue.GetModel(model_pb2.GetModelRequest(name="three"))
        assert await code_of(missing) is grpc.StatusCode.NOT_FOUND
        assert "one, two" in (await missing.details() or "")


async def test_a_server_that_warms_up_asks_for_patience() -> None:
    """Before the models are there, every call is UNAVAILABLE, and a stream stays usable."""
    async with front_door(publish=False) as front, CountingStream(front.channel) as stream:
        calls = [
            front.catalogue.ListModels(model_pb2.ListModelsRequest()),
            front.sessions.OpenSession(OpenSessionRequest(model="counter")),
        ]
        assert await asyncio.gather(*map(code_of, calls)) == [grpc.StatusCode.UNAVAILABLE] * 2
        await stream.send_open("counter", [0])
        attached = (await stream.receive()).attached
        assert [each.error.reason for each in attached.sessions] == ["MODEL_NOT_READY"]
        assert attached.sessions[0].error.retry_delay_ms > 0
