"""Sessions on a stream: opened, attached, taken over, detached; handles from first use to free again."""

from __future__ import annotations

from typing import Any

from google.protobuf.duration_pb2 import Duration

from stepstream_proto.v1 import inference_pb2, session_pb2
from stepstream_proto.v1.inference_pb2 import AttachSession, Detach, OpenOnStream, StreamRequest
from stepstream_server.config import DoorSettings
from support.front_door import CountingStream, FrontDoor, front_door, wait_for
from support.wire import u32


def reasons(attached: inference_pb2.Attached) -> list[str]:
    """Each session's error, empty where it has none."""
    return [each.error.reason for each in attached.sessions]


async def send_open(stream: CountingStream, handles: list[int], **fields: Any) -> inference_pb2.Attached:
    """Opens, and reads the answer."""
    request = OpenOnStream(**{"model": "counter", "handles": u32(handles), **fields})
    await stream.send(StreamRequest(open=request))
    return (await stream.receive()).attached


async def detach(stream: CountingStream, handles: list[int], *, close: bool = False) -> inference_pb2.Detached:
    """Detaches, and reads the answer."""
    await stream.send(StreamRequest(detach=Detach(handles=u32(handles), close=close)))
    return (await stream.receive()).detached


async def test_opening_tells_what_a_client_needs(stream: CountingStream) -> None:
    """Ids, secrets and counts per session, in the order asked for; version and window for all."""
    attached = await send_open(stream, [3, 1], ids=["a", "b"])
    assert (attached.model, attached.version) == ("counter", 1)
    assert (attached.window.steps, attached.window.bytes) == (1024, 1 << 20)
    assert [(each.handle, each.id, each.next_seq) for each in attached.sessions] == [(3, "a", 0), (1, "b", 0)]
    secrets = [each.secret for each in attached.sessions]
    assert all(secrets)
    assert len(set(secrets)) == 2


async def test_each_session_of_an_open_succeeds_or_fails_alone(stream: CountingStream) -> None:
    """A handle twice, one in use, one too large and an id that exists: the others are opened."""
    await send_open(stream, [0], ids=["taken"])
    attached = await send_open(stream, [1, 1, 0, 1 << 20, 2, 3], ids=["a", "b", "c", "d", "taken", "e"])
    assert reasons(attached) == ["", "HANDLE_IN_USE", "HANDLE_IN_USE", "INVALID_ARGUMENT", "SESSION_EXISTS", ""]
    assert [(each.handle, each.id) for each in attached.sessions[1:5]] == [(1, "b"), (0, "c"), (1 << 20, "d"), (2, "taken")]
    again = await send_open(stream, [2])
    assert reasons(again) == [""]


async def test_a_wrong_open_fails_for_every_session(stream: CountingStream) -> None:
    """What concerns the whole message is said of each of its sessions, and their handles stay free."""
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"model": "none"}, "MODEL_NOT_FOUND"),
        ({"version": 7}, "MODEL_NOT_FOUND"),
        ({"ids": ["a"]}, "INVALID_ARGUMENT"),
        ({"ids": ["a", "ä"]}, "INVALID_ARGUMENT"),
        ({"durable": True}, "NO_STORE"),
        ({"idle_ttl": Duration()}, "INVALID_ARGUMENT"),
    ]
    for fields, reason in wrong:
        assert reasons(await send_open(stream, [0, 1], **fields)) == [reason, reason]
    assert reasons(await send_open(stream, [0, 1])) == ["", ""]


async def test_too_many_sessions_in_one_message_are_refused() -> None:
    """An answer to so many would not fit a message: each is refused, in several messages."""
    async with front_door() as front, CountingStream(front.channel) as stream:
        refused = await send_open(stream, list(range(10_001)))
        rest = (await stream.receive()).attached
        assert set(reasons(refused) + reasons(rest)) == {"BLOCK_TOO_LARGE"}
        assert [each.handle for each in (*refused.sessions, *rest.sessions)] == list(range(10_001))


async def test_steps_before_the_answer_to_open_are_refused(front: FrontDoor, stream: CountingStream) -> None:
    """A handle stands for nothing until Attached has said so."""
    front.models["counter"].gate.close()
    async with CountingStream(front.channel) as other:
        await other.open("counter", [0])
        await other.step([0], [0], [1])
        await wait_for(front.models["counter"].gate.reached)
        await stream.send(StreamRequest(open=OpenOnStream(model="counter", handles=u32([0]))))
        await stream.step([0], [0], [1])
        assert await stream.errors(1) == [(0, 0, 1, "HANDLE_UNKNOWN", 0)]
        front.models["counter"].gate.open()
        assert reasons((await stream.receive()).attached) == [""]


async def test_the_secret_takes_a_session_over(front: FrontDoor, stream: CountingStream) -> None:
    """The new stream gets kept answers again from its count on; the former hears SESSION_TAKEN and may use the handle again."""
    (opened,) = await stream.open("counter", [0])
    await stream.step([0], [0], [1, 2, 3])
    await stream.sums(3)
    async with CountingStream(front.channel) as other:
        attached = await other.attach("counter", 9, opened.id, opened.secret, acked=1)
        (session,) = attached.sessions
        assert (session.handle, session.next_seq, session.acked, session.secret) == (9, 3, 1, b"")
        assert await other.sums(2) == {(9, 1): 3, (9, 2): 6}
        detached = (await stream.receive()).detached
        assert (detached.handles, detached.reason) == (u32([0]), inference_pb2.DETACH_REASON_SESSION_TAKEN)
        await stream.step([0], [3], [4])
        assert await stream.errors(1) == [(0, 3, 1, "HANDLE_UNKNOWN", 0)]
        assert reasons(await send_open(stream, [0])) == [""]


async def test_attaching_needs_the_secret(front: FrontDoor, stream: CountingStream) -> None:
    """A wrong secret and an unknown session are refused one by one, and leave the holder alone."""
    (opened,) = await stream.open("counter", [0])
    wanted = [AttachSession(handle=0, id=opened.id, secret=b"guess"), AttachSession(handle=1, id="none")]
    async with CountingStream(front.channel) as other:
        await other.send(StreamRequest(attach=inference_pb2.Attach(model="counter", sessions=wanted)))
        attached = (await other.receive()).attached
    assert reasons(attached) == ["SECRET_MISMATCH", "SESSION_NOT_FOUND"]
    assert [each.id for each in attached.sessions] == [opened.id, "none"]
    await stream.step([0], [0], [1])
    assert await stream.sums(1) == {(0, 0): 1}


async def test_detaching_frees_the_handle_and_keeps_the_session(front: FrontDoor, stream: CountingStream) -> None:
    """The session lives on, attached to nobody."""
    (opened,) = await stream.open("counter", [0])
    detached = await detach(stream, [0])
    assert (detached.handles, detached.reason) == (u32([0]), inference_pb2.DETACH_REASON_REQUESTED)
    request = session_pb2.GetSessionRequest(model="counter", id=opened.id)
    assert not (await front.sessions.GetSession(request)).session.attached
    assert reasons(await send_open(stream, [0])) == [""]


async def test_detaching_may_close(front: FrontDoor, stream: CountingStream) -> None:
    """Closed handles come back together, with their reason."""
    await stream.open("counter", [0, 1, 2])
    detached = await detach(stream, [0, 1, 2], close=True)
    assert (detached.handles, detached.reason) == (u32([0, 1, 2]), inference_pb2.DETACH_REASON_SESSION_CLOSED)
    assert len(front.models["counter"].backend.free) == 64


async def test_detaching_what_is_not_attached_is_said(stream: CountingStream) -> None:
    """Unknown handles are named with an error, known ones are detached."""
    await stream.open("counter", [0])
    unknown = await detach(stream, [0, 5])
    assert (unknown.handles, unknown.error.reason) == (u32([5]), "HANDLE_UNKNOWN")
    detached = (await stream.receive()).detached
    assert (detached.handles, detached.error.reason) == (u32([0]), "")


async def test_a_handle_waits_for_its_detach(front: FrontDoor, stream: CountingStream) -> None:
    """Until the detach is confirmed the handle is neither free nor good for steps."""
    gate = front.models["counter"].gate
    await stream.open("counter", [0, 1])
    gate.close()
    await stream.step([1], [0], [1])
    await wait_for(gate.reached)
    await stream.send(StreamRequest(detach=Detach(handles=u32([0]))))
    assert reasons(await send_open(stream, [0])) == ["HANDLE_IN_USE"]
    await stream.step([0], [0], [1])
    assert await stream.errors(1) == [(0, 0, 1, "HANDLE_UNKNOWN", 0)]
    gate.open()
    assert await stream.sums(1) == {(1, 0): 1}
    assert (await stream.receive()).detached.handles == u32([0])


async def test_a_session_closed_by_another_is_detached(front: FrontDoor, stream: CountingStream) -> None:
    """The stream that holds it hears SESSION_CLOSED without having asked."""
    (opened,) = await stream.open("counter", [4])
    await front.sessions.CloseSession(session_pb2.CloseSessionRequest(model="counter", id=opened.id, secret=opened.secret))
    detached = (await stream.receive()).detached
    assert (detached.handles, detached.reason) == (u32([4]), inference_pb2.DETACH_REASON_SESSION_CLOSED)


async def test_a_vanished_client_leaves_its_sessions_free(front: FrontDoor) -> None:
    """A cut stream detaches its sessions and drops what they had queued, though their secret is not at hand."""
    gate = front.models["counter"].gate
    async with CountingStream(front.channel) as stream:
        opened = await stream.open("counter", [0, 1])
        gate.close()
        await stream.step([0], [0], [1])
        await wait_for(gate.reached)
        await stream.step([1], [0], [1])
        await stream.half_close()
        stream.cut()
    assert await front.ended.get() == ("stepstream.v1.InferenceService", "Stream", "CANCELLED")
    gate.open()
    infos = [
        (await front.sessions.GetSession(session_pb2.GetSessionRequest(model="counter", id=each.id))).session for each in opened
    ]
    assert [(info.next_seq, info.pending_steps, info.attached) for info in infos] == [(1, 0, False), (0, 0, False)]


async def test_counts_beyond_int64_are_taken_for_all(front: FrontDoor, stream: CountingStream) -> None:
    """An acknowledged count above anything is clamped to next_seq."""
    (opened,) = await stream.open("counter", [0])
    await stream.step([0], [0], [1, 2])
    await stream.sums(2)
    async with CountingStream(front.channel) as other:
        attached = await other.attach("counter", 0, opened.id, opened.secret, acked=2**64 - 1)
    assert attached.sessions[0].acked == 2
    assert attached.sessions[0].next_seq == 2


async def test_handles_per_stream_are_bounded() -> None:
    """A handle number at the limit is refused."""
    async with front_door(settings=DoorSettings(max_handles_per_stream=2)) as front, CountingStream(front.channel) as stream:
        assert reasons(await send_open(stream, [0, 1, 2])) == ["", "", "INVALID_ARGUMENT"]
