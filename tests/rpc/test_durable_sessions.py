"""Durable sessions over the wire, from one front door to the next, which finds in the store what the one before wrote."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import grpc
import numpy as np
import pytest

from stepstream._translation import from_rpc
from stepstream_proto.v1 import inference_pb2, session_pb2
from stepstream_proto.v1.inference_pb2 import AttachedSession, StepRequest, StepResponse, StreamRequest
from stepstream_server.config import StoreSettings
from support.front_door import CountingStream, FrontDoor, front_door
from support.stepped_store import Contents
from support.wire import u32

NEVER = StoreSettings(every_seconds=3600, every_steps=1 << 40)  # by itself: only where somebody waits for it
AT_ONCE = StoreSettings(every_seconds=1e-6)


async def open_durable(stream: CountingStream, ids: Sequence[str], handles: Sequence[int] = (0,)) -> list[AttachedSession]:
    """Opens durable sessions on a stream."""
    request = inference_pb2.OpenOnStream(model="counter", handles=u32(handles), ids=ids, durable=True)
    await stream.send(StreamRequest(open=request))
    return list((await stream.receive()).attached.sessions)


async def attach(stream: CountingStream, session: AttachedSession, **fields: Any) -> AttachedSession:
    """Attaches one under handle 0, and returns what is told of it."""
    one = inference_pb2.AttachSession(handle=0, id=session.id, secret=session.secret, **fields)
    await stream.send(StreamRequest(attach=inference_pb2.Attach(model="counter", sessions=[one])))
    while not (message := await stream.receive()).HasField("attached"):
        pass
    return message.attached.sessions[0]


async def step(front: FrontDoor, id: str, value: float, **fields: Any) -> StepResponse:
    """One step of a session by a call."""
    request = StepRequest(model="counter", session_id=id, **fields)
    request.inputs["x"].numbers.append(value)
    response: StepResponse = await front.inference.Step(request, timeout=60)
    return response


async def get(front: FrontDoor, id: str) -> session_pb2.Session:
    """Gives what is told of a session."""
    request = session_pb2.GetSessionRequest(model="counter", id=id)
    response: session_pb2.GetSessionResponse = await front.sessions.GetSession(request)
    return response.session


async def durable_count(stream: CountingStream, count: int) -> None:
    """Reads until the session of handle 0 has so many steps in the store."""
    while True:
        durable = (await stream.receive()).durable
        if (
            0 in (handles := np.frombuffer(durable.handles, "<u4"))
            and np.frombuffer(durable.counts, "<u8")[handles == 0] >= count
        ):
            return


async def test_a_step_that_was_answered_is_found_by_the_next_server() -> None:
    """A call waits for the store. Another server goes on where it stood, in a new epoch."""
    contents = Contents()
    async with front_door(contents=contents, keep=NEVER) as front:
        opened = await front.sessions.OpenSession(session_pb2.OpenSessionRequest(model="counter", id="a", durable=True))
        assert opened.session.durable
        first = await step(front, "a", 1.0)
        assert (first.next_seq, first.durable_seq, first.epoch) == (1, 1, 0)
    async with front_door(contents=contents, keep=NEVER) as front:
        second = await step(front, "a", 2.0, secret=opened.secret)
        assert (second.seq, list(second.outputs["sum"].numbers), second.durable_seq, second.epoch) == (1, [3.0], 2, 1)
        assert (await get(front, "a")).epoch == 1


async def test_a_numbered_step_may_be_answered_before_it_is_written() -> None:
    """Then its number alone tells the next server whether it was; without a number it may not."""
    contents = Contents()
    async with front_door(contents=contents, keep=NEVER) as front:
        await front.sessions.OpenSession(session_pb2.OpenSessionRequest(model="counter", id="a", durable=True))
        assert (await step(front, "a", 1.0, seq=0, written_behind=True)).durable_seq == 0
        with pytest.raises(grpc.aio.AioRpcError, match="written_behind: expected a seq") as refused:
            await step(front, "a", 1.0, written_behind=True)
        assert from_rpc(refused.value).reason == "INVALID_ARGUMENT"
    async with front_door(contents=contents, keep=NEVER) as front:
        assert list((await step(front, "a", 5.0, seq=0)).outputs["sum"].numbers) == [5.0]


async def test_a_stream_hears_what_is_in_the_store_and_attaches_it_again() -> None:
    """Counts come by themselves. What is not acknowledged is kept; numbers go on."""
    contents = Contents()
    async with front_door(contents=contents, keep=AT_ONCE) as front, CountingStream(front.channel) as stream:
        (session,) = await open_durable(stream, ["a"])
        assert (session.durable, session.durable_seq, session.epoch, session.bitwise) == (True, 0, 0, True)
        await stream.step([0], [0], [1.0, 2.0])
        await durable_count(stream, 2)
    async with front_door(contents=contents, keep=AT_ONCE) as front, CountingStream(front.channel) as stream:
        again = await attach(stream, session, acked=1, replay_from=2)
        assert (again.next_seq, again.acked, again.epoch, again.durable_seq, again.durable) == (2, 1, 1, 2, True)
        await stream.step([0], [2], [4.0])
        assert await stream.sums(2) == {(0, 1): 3.0, (0, 2): 7.0}


async def test_a_session_is_attached_only_where_its_client_has_the_inputs() -> None:
    """It was restored from before what the client has heard of: with the inputs it goes on, without them it is lost."""
    contents = Contents()
    async with front_door(contents=contents, keep=NEVER) as front, CountingStream(front.channel) as stream:
        (session,) = await open_durable(stream, ["a"])
        await stream.step([0], [0], [1.0, 2.0])
        await stream.sums(2)
    async with front_door(contents=contents, keep=NEVER) as front, CountingStream(front.channel) as stream:
        lost = await attach(stream, session, acked=2)
        assert (lost.error.reason, dict(lost.error.metadata)) == ("SESSION_LOST", {"since": "0"})
        too_late = await attach(stream, session, acked=2, replay_from=1)
        assert too_late.error.reason == "SESSION_LOST"
        kept = await attach(stream, session, acked=2, replay_from=0)
        assert (kept.error.reason, kept.next_seq, kept.epoch) == ("", 0, 1)


async def test_what_is_only_in_the_store_is_listed() -> None:
    """Behind what is in memory, page by page, each once; looking at a session restores it."""
    contents = Contents()
    async with front_door(contents=contents) as front:
        await front.sessions.OpenSessions(
            session_pb2.OpenSessionsRequest(model="counter", count=4, ids=["a", "b", "c", "d"], durable=True)
        )
    async with front_door(contents=contents) as front:
        await front.sessions.OpenSession(session_pb2.OpenSessionRequest(model="counter", id="here"))
        assert (await get(front, "c")).status == session_pb2.SESSION_STATUS_OPEN
        listed, token = dict[str, int](), ""
        while True:
            page = await front.sessions.ListSessions(session_pb2.ListSessionsRequest(page_size=2, page_token=token))
            assert not listed.keys() & {each.id for each in page.sessions}
            listed.update({each.id: each.status for each in page.sessions})
            if not (token := page.next_page_token):
                break
        stored = session_pb2.SESSION_STATUS_STORED
        opened = session_pb2.SESSION_STATUS_OPEN
        assert listed == {"here": opened, "c": opened, "a": stored, "b": stored, "d": stored}


async def test_a_session_that_was_closed_stays_so() -> None:
    """The next server knows why it is gone."""
    contents = Contents()
    async with front_door(contents=contents) as front:
        opened = await front.sessions.OpenSession(session_pb2.OpenSessionRequest(model="counter", id="a", durable=True))
        await front.sessions.CloseSession(session_pb2.CloseSessionRequest(model="counter", id="a", secret=opened.secret))
    async with front_door(contents=contents) as front:
        with pytest.raises(grpc.aio.AioRpcError) as gone:
            await get(front, "a")
        assert from_rpc(gone.value).reason == "SESSION_CLOSED"


async def test_an_import_may_be_durable() -> None:
    """Before it is answered."""
    async with front_door() as front:
        await front.sessions.OpenSession(session_pb2.OpenSessionRequest(model="counter", id="a"))
        await step(front, "a", 3.0)
        exported = await front.sessions.ExportSession(session_pb2.ExportSessionRequest(model="counter", id="a"))
    contents = Contents()
    async with front_door(contents=contents) as front:
        request = session_pb2.ImportSessionRequest(snapshot=exported.snapshot, durable=True)
        imported = await front.sessions.ImportSession(request)
        assert (imported.session.durable, imported.session.durable_seq) == (True, 1)
    async with front_door(contents=contents) as front:
        assert list((await step(front, "a", 1.0)).outputs["sum"].numbers) == [4.0]


async def test_all_sessions_may_be_durable() -> None:
    """Whoever opens them: the settings say so."""
    contents = Contents()
    always = StoreSettings(durable="always")
    async with front_door(contents=contents, keep=always) as front, CountingStream(front.channel) as stream:
        (session,) = await stream.open("counter", [0])
        assert session.durable
    async with front_door(contents=contents) as front:
        assert (await get(front, session.id)).durable
