"""Streams of one client that follow each other: what an older one says late does no harm."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from stepstream_proto.v1 import inference_pb2
from support.front_door import FrontDoor
from support.wire import u32

Call = Any  # of gRPC's stub, whose types know less


def stream_of(front: FrontDoor, client: str, number: str) -> Call:
    """A client's stream of this number."""
    return front.inference.Stream(metadata=(("stepstream-client", client), ("stepstream-stream", number)))


async def attach(call: Call, session: inference_pb2.AttachedSession) -> inference_pb2.AttachedSession:
    """Takes a session over."""
    wish = inference_pb2.AttachSession(handle=0, id=session.id, secret=session.secret)
    await call.write(inference_pb2.StreamRequest(attach=inference_pb2.Attach(model="counter", sessions=[wish])))
    attached: inference_pb2.AttachedSession = (await call.read()).attached.sessions[0]
    return attached


async def open_one(call: Call) -> inference_pb2.AttachedSession:
    """Opens a session under handle 0."""
    await call.write(inference_pb2.StreamRequest(open=inference_pb2.OpenOnStream(model="counter", handles=u32([0]))))
    opened: inference_pb2.AttachedSession = (await call.read()).attached.sessions[0]
    return opened


async def test_a_newer_stream_ends_the_older_one(front: FrontDoor) -> None:
    """Nothing that the older one says from then on counts; streams of other clients and of nobody are left alone."""
    first, other, nobody = stream_of(front, "a", "1"), stream_of(front, "b", "1"), front.inference.Stream()
    session = await open_one(first)
    await open_one(other)
    await open_one(nobody)
    second = stream_of(front, "a", "2")
    assert not (await attach(second, session)).HasField("error")
    assert await first.code() is grpc.StatusCode.ABORTED
    assert "stream 2 has taken this one's place" in await first.details()
    for call in (second, other, nobody):
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
        assert await call.code() is grpc.StatusCode.OK


async def test_an_older_stream_that_comes_late_is_refused(front: FrontDoor) -> None:
    """The newer one keeps its sessions until one that is newer still attaches them."""
    newer = stream_of(front, "a", "7")
    session = await open_one(newer)
    late = stream_of(front, "a", "6")
    assert await late.code() is grpc.StatusCode.ABORTED
    assert "expected more than 7, got 6" in await late.details()
    assert not (await attach(stream_of(front, "a", "8"), session)).HasField("error")


@pytest.mark.parametrize("number", ["", "-1", "one", "9" * 30])
async def test_a_number_that_is_none_is_refused(front: FrontDoor, number: str) -> None:
    """The field is named."""
    call = stream_of(front, "a", number)
    assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "stepstream-stream" in await call.details()
