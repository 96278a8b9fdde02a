"""Listing, forking, exporting and importing sessions, and requests that are sent twice, over real gRPC."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import hashlib
import json
from collections.abc import Awaitable, Iterable
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo
from grpc_status import rpc_status

from stepstream_proto.v1 import inference_pb2
from stepstream_proto.v1.inference_pb2 import OpenOnStream, StreamRequest
from stepstream_proto.v1.session_pb2 import (
    CloseSessionRequest,
    ExportSessionRequest,
    ExportSessionResponse,
    ForkSessionRequest,
    GetSessionRequest,
    ImportSessionRequest,
    ListSessionsRequest,
    OpenedSession,
    OpenSessionRequest,
    OpenSessionsRequest,
    Session,
)
from stepstream_server import snapshots
from stepstream_server.config import DoorSettings
from support.backend import FakeBackend
from support.front_door import CountingStream, FrontDoor, front_door, wait_for
from support.submissions import submissions
from support.wire import u32


async def refusal(call: Any) -> tuple[grpc.StatusCode, str, str]:
    """How a call fails: code, reason, and the field that is to blame."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    status = await rpc_status.aio.from_call(call)
    assert status is not None
    info, fields = ErrorInfo(), BadRequest()
    for detail in status.details:
        detail.Unpack(info) or detail.Unpack(fields)
    return caught.value.code(), info.reason, "".join(each.field for each in fields.field_violations)


async def get(front: FrontDoor, id: str, model: str = "counter") -> Session:
    """A session as it is told of."""
    response = await front.sessions.GetSession(GetSessionRequest(model=model, id=id))
    session: Session = response.session
    return session


async def stepped(stream: CountingStream, *values: float) -> inference_pb2.AttachedSession:
    """A session under handle 0 with these steps applied and none acknowledged."""
    (session,) = await stream.open("counter", [0])
    await stream.step([0], [0], values)
    await stream.sums(len(values))
    return session


def ids(opened: Iterable[OpenedSession | Session]) -> list[str]:
    """Of sessions."""
    return [each.id for each in opened]


# Listing -------------------------------------------------------------------------------------------------------------


async def pages(front: FrontDoor, **request: Any) -> list[list[tuple[str, str]]]:
    """Every page of a listing: model and id of each session."""
    found, token = [], ""
    while True:
        page = await front.sessions.ListSessions(ListSessionsRequest(page_token=token, **request))
        found.append([(each.model, each.id) for each in page.sessions])
        token = page.next_page_token
        if not token:
            return found


async def open_named(front: FrontDoor, model: str, names: list[str]) -> None:
    """Opens sessions of these ids."""
    await front.sessions.OpenSessions(OpenSessionsRequest(model=model, count=len(names), ids=names))


@pytest.mark.parametrize("size", [1, 2, 3, 5, 6, 100, 5000])
async def test_every_session_is_listed_once_whatever_the_pages(size: int) -> None:
    """Pages of any size go through all models; only the last says that there is no more."""
    async with front_door("b", "a", "empty") as front:
        await open_named(front, "a", ["a1", "a2", "a3"])
        await open_named(front, "b", ["b1", "b2"])
        found = await pages(front, page_size=size)
        assert sorted(each for page in found for each in page) == [
            ("a", "a1"),
            ("a", "a2"),
            ("a", "a3"),
            ("b", "b1"),
            ("b", "b2"),
        ]
        assert all(len(page) <= size for page in found)


async def test_a_listing_is_filtered_by_model_and_version() -> None:
    """Only that model's; a version that it does not have is not served, and one that no model has lists nothing."""
    async with front_door("a", "b") as front:
        await open_named(front, "a", ["a1"])
        await open_named(front, "b", ["b1", "b2"])
        assert await pages(front, model="b", page_size=1) == [[("b", "b1")], [("b", "b2")]]
        assert await pages(front, model="b", version=1) == [[("b", "b1"), ("b", "b2")]]
        assert await pages(front, version=9) == [[]]
        assert await refusal(front.sessions.ListSessions(ListSessionsRequest(model="c"))) == (
            grpc.StatusCode.NOT_FOUND,
            "MODEL_NOT_FOUND",
            "model",
        )
        assert (await refusal(front.sessions.ListSessions(ListSessionsRequest(model="a", version=9))))[2] == "version"


async def test_a_listed_session_is_described_as_by_get(front: FrontDoor, stream: CountingStream) -> None:
    """The same facts, of the same session."""
    session = await stepped(stream, 1, 2)
    listed = (await front.sessions.ListSessions(ListSessionsRequest())).sessions[0]
    found = await get(front, session.id)
    for each in (listed, found):
        each.ClearField("age")
        each.ClearField("idle")
    assert listed == found
    assert (listed.next_seq, listed.attached) == (2, True)


async def test_a_page_has_a_hundred_sessions_unless_told() -> None:
    """And a thousand at most."""
    async with front_door(capacity=1100, backend=lambda: FakeBackend(slots=1100)) as front:
        await front.sessions.OpenSessions(OpenSessionsRequest(model="counter", count=1100))
        assert [len(page) for page in await pages(front)] == [100] * 11
        assert [len(page) for page in await pages(front, page_size=2**31 - 1)] == [1000, 100]


@pytest.mark.parametrize(
    "token",
    [
        "?",
        "x",
        "é",
        base64.urlsafe_b64encode(b"counter/1").decode(),
        base64.urlsafe_b64encode(b"counter/1/-1").decode(),
        base64.urlsafe_b64encode(b"counter/1/ 1").decode(),
        base64.urlsafe_b64encode(b"counter/one/1").decode(),
        base64.urlsafe_b64encode(b"counter/1/" + b"9" * 5000).decode(),
        base64.urlsafe_b64encode(b"counter/1/" + str(2**62).encode()).decode(),
        base64.urlsafe_b64encode(b"other/1/0").decode(),
        base64.urlsafe_b64encode(b"\xff/1/0").decode(),
        "A" * 100_000,
    ],
)
async def test_a_token_of_no_page_is_refused(front: FrontDoor, token: str) -> None:
    """Whatever is not what the page before gave, the field is named."""
    refused = await refusal(front.sessions.ListSessions(ListSessionsRequest(page_token=token)))
    assert refused == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT", "page_token")


async def test_a_page_of_less_than_nothing_is_refused(front: FrontDoor) -> None:
    """By the name of the field."""
    assert (await refusal(front.sessions.ListSessions(ListSessionsRequest(page_size=-1))))[2] == "page_size"


# Forking -------------------------------------------------------------------------------------------------------------


async def test_forks_go_on_where_the_original_stands(front: FrontDoor, stream: CountingStream) -> None:
    """Ids as asked for, secrets of their own, the same count and state, nothing kept; the original goes on."""
    session = await stepped(stream, 1, 2)
    request = ForkSessionRequest(model="counter", id=session.id, secret=session.secret, fork_ids=["f", "g"], count=2)
    forked = await front.sessions.ForkSession(request)
    assert (forked.next_seq, ids(forked.sessions)) == (2, ["f", "g"])
    assert len({each.secret for each in [session, *forked.sessions]}) == 3
    (found,) = (await stream.attach("counter", 1, "f", forked.sessions[0].secret)).sessions
    assert (found.next_seq, found.acked) == (2, 2)
    await stream.step([0, 1], [2, 2], [10], [100])
    assert await stream.sums(2) == {(0, 2): 13, (1, 2): 103}


async def test_a_fork_waits_for_its_step(front: FrontDoor, stream: CountingStream, monkeypatch: pytest.MonkeyPatch) -> None:
    """With steps pending it begins after the one asked for, or after all that are admitted."""
    gate = front.models["counter"].gate
    (session,) = await stream.open("counter", [0])
    gate.close()
    await stream.step([0], [0], [1])
    await wait_for(gate.reached)
    await stream.step([0], [1], [2, 3])
    await stream.all_read()
    submitted = submissions(front.models["counter"].door, monkeypatch)
    calls = []
    for at_seq in (None, 2):
        request = ForkSessionRequest(model="counter", id=session.id, secret=session.secret, at_seq=at_seq)
        calls.append(asyncio.ensure_future(front.sessions.ForkSession(request)))
        await submitted.get()
    gate.open()
    assert [(await call).next_seq for call in calls] == [3, 2]


async def test_each_fork_succeeds_or_fails_by_itself(front: FrontDoor) -> None:
    """An id that exists, and more than there is room for."""
    await open_named(front, "counter", ["a", "b"])
    forked = await front.sessions.ForkSession(ForkSessionRequest(model="counter", id="a", fork_ids=["b", "c"], count=2))
    assert [(each.id, each.error.reason) for each in forked.sessions] == [("", "SESSION_EXISTS"), ("c", "")]
    many = await front.sessions.ForkSession(ForkSessionRequest(model="counter", id="a", count=64))
    assert [each.error.reason for each in many.sessions].count("SESSION_CAPACITY") == 3


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"model": "none"}, (grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND", "model")),
        ({"id": "none"}, (grpc.StatusCode.NOT_FOUND, "SESSION_NOT_FOUND", "id")),
        ({"id": "a b"}, (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT", "id")),
        ({"secret": b""}, (grpc.StatusCode.FAILED_PRECONDITION, "SESSION_IN_USE", "secret")),
        ({"secret": b"guess"}, (grpc.StatusCode.PERMISSION_DENIED, "SECRET_MISMATCH", "secret")),
        ({"at_seq": 1}, (grpc.StatusCode.FAILED_PRECONDITION, "SEQUENCE_PASSED", "at_seq")),
        ({"at_seq": 3}, (grpc.StatusCode.ABORTED, "SEQUENCE_MISMATCH", "at_seq")),
        ({"at_seq": 2**62}, (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT", "at_seq")),
        ({"request_id": "a b"}, (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT", "request_id")),
        ({"request_id": "x" * 129}, (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT", "request_id")),
    ],
)
async def test_a_wrong_copy_is_refused(
    front: FrontDoor, stream: CountingStream, fields: dict[str, Any], expected: tuple[grpc.StatusCode, str, str]
) -> None:
    """Fork and export alike; the session, which a stream holds, is not disturbed."""
    session = await stepped(stream, 1, 2)
    given = {"model": "counter", "id": session.id, "secret": session.secret, **fields}
    fork = await refusal(front.sessions.ForkSession(ForkSessionRequest(**given)))
    export = await refusal(front.sessions.ExportSession(ExportSessionRequest(**given)))
    assert fork[:2] == export[:2] == expected[:2]
    assert {fork[2], export[2]} <= {expected[2], ""}
    await stream.step([0], [2], [3])
    assert await stream.sums(1) == {(0, 2): 6}


@pytest.mark.parametrize(
    ("fields", "reason", "field"),
    [
        ({"count": 10_001}, "BLOCK_TOO_LARGE", "sessions"),
        ({"count": 2**32 - 1}, "BLOCK_TOO_LARGE", "sessions"),
        ({"count": 2, "fork_ids": ["b"]}, "INVALID_ARGUMENT", "fork_ids"),
        ({"fork_ids": ["a b"]}, "INVALID_ARGUMENT", "fork_ids[0]"),
    ],
)
async def test_wrong_forks_are_refused(front: FrontDoor, fields: dict[str, Any], reason: str, field: str) -> None:
    """By count and by id, before anything is forked."""
    await open_named(front, "counter", ["a"])
    call = front.sessions.ForkSession(ForkSessionRequest(model="counter", id="a", **fields))
    assert (await refusal(call))[1:] == (reason, field)
    assert len(front.models["counter"].backend.free) == 63


async def test_a_quarantined_session_is_not_copied(front: FrontDoor, stream: CountingStream) -> None:
    """Its state is that of before the fault, but nobody should go on from there unknowingly."""
    session = await stepped(stream, 1)
    front.models["counter"].backend.states[:] = np.nan
    await stream.step([0], [1], [1])
    await stream.errors(1)
    given: dict[str, Any] = {"model": "counter", "id": session.id, "secret": session.secret}
    expected = (grpc.StatusCode.FAILED_PRECONDITION, "SESSION_QUARANTINED")
    assert (await refusal(front.sessions.ForkSession(ForkSessionRequest(**given))))[:2] == expected
    assert (await refusal(front.sessions.ExportSession(ExportSessionRequest(**given))))[:2] == expected


# Exporting and importing ---------------------------------------------------------------------------------------------


async def export(front: FrontDoor, session: inference_pb2.AttachedSession, **fields: Any) -> ExportSessionResponse:
    """A session's snapshot."""
    request = ExportSessionRequest(model="counter", id=session.id, secret=session.secret, **fields)
    response: ExportSessionResponse = await front.sessions.ExportSession(request)
    return response


async def test_a_session_moves_to_another_server(front: FrontDoor, stream: CountingStream) -> None:
    """Its state, count and unacknowledged answers go along under the same id; here it has moved, and its stream is told."""
    session = await stepped(stream, 1, 2, 3)
    exported = await export(front, session, close=True)
    assert exported.next_seq == 3
    assert session.secret not in exported.snapshot
    detached = (await stream.receive()).detached
    assert (detached.handles, detached.reason) == (u32([0]), inference_pb2.DETACH_REASON_SESSION_MOVED)
    call = front.sessions.GetSession(GetSessionRequest(model="counter", id=session.id))
    assert (await refusal(call))[:2] == (grpc.StatusCode.NOT_FOUND, "SESSION_MOVED")
    async with front_door() as other, CountingStream(other.channel) as there:
        imported = await other.sessions.ImportSession(ImportSessionRequest(snapshot=exported.snapshot))
        assert (imported.session.id, imported.session.next_seq, imported.session.acked) == (session.id, 3, 0)
        assert imported.bitwise
        assert imported.secret not in (b"", session.secret)
        await there.attach("counter", 5, session.id, imported.secret, acked=1)
        assert await there.sums(2) == {(5, 1): 3, (5, 2): 6}
        await there.step([5], [3], [4])
        assert await there.sums(1) == {(5, 3): 10}


async def test_an_export_leaves_the_session_alone(front: FrontDoor, stream: CountingStream) -> None:
    """Without `close` both go on; a second one needs an id of its own."""
    session = await stepped(stream, 1)
    exported = await export(front, session, at_seq=1)
    taken = front.sessions.ImportSession(ImportSessionRequest(snapshot=exported.snapshot))
    assert (await refusal(taken))[:2] == (grpc.StatusCode.ALREADY_EXISTS, "SESSION_EXISTS")
    imported = await front.sessions.ImportSession(ImportSessionRequest(snapshot=exported.snapshot, id="second"))
    await stream.attach("counter", 1, "second", imported.secret, acked=1)
    await stream.step([0, 1], [1, 1], [10], [100])
    assert await stream.sums(2) == {(0, 1): 11, (1, 1): 101}


async def test_a_session_that_moved_may_come_back(front: FrontDoor, stream: CountingStream) -> None:
    """Under the id that it had."""
    session = await stepped(stream, 1)
    exported = await export(front, session, close=True)
    imported = await front.sessions.ImportSession(ImportSessionRequest(snapshot=exported.snapshot))
    assert (imported.session.id, imported.session.next_seq) == (session.id, 1)


async def test_what_is_not_a_snapshot_is_refused(front: FrontDoor, stream: CountingStream) -> None:
    """Nothing, anything, and every single damaged byte: DATA_LOSS, and no session is opened."""
    good = (await export(front, await stepped(stream, 1, 2))).snapshot
    free = len(front.models["counter"].backend.free)
    wrong = [b"", b"x" * 100, good[:-1], good + b"x"]
    wrong += [good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :] for place in range(0, len(good), 7)]
    for snapshot in wrong:
        call = front.sessions.ImportSession(ImportSessionRequest(snapshot=snapshot, id="new"))
        assert await refusal(call) == (grpc.StatusCode.DATA_LOSS, "SNAPSHOT_CORRUPT", "snapshot")
    assert len(front.models["counter"].backend.free) == free


def sealed(good: bytes, session: str) -> bytes:
    """A snapshot with other fields, whose checksum is right."""
    prefix = len(good) - len(good.partition(b"\n")[2])
    payload = good[prefix + 32 :]
    length = int.from_bytes(payload[:8], "little")
    header = json.loads(payload[8 : 8 + length])
    header["__metadata__"]["session"] = session
    changed = json.dumps(header).encode()
    payload = len(changed).to_bytes(8, "little") + changed + payload[8 + length :]
    return good[:prefix] + hashlib.sha256(payload).digest() + payload


@pytest.mark.parametrize(
    "fields",
    ["", "null", "[]", "[" * 100_000, json.dumps({"model": list(range(100_000))}), "9" * 10_000],
    ids=["nothing", "null", "list", "deep", "long", "large"],
)
async def test_a_checksum_makes_no_snapshot(front: FrontDoor, stream: CountingStream, fields: str) -> None:
    """Anybody can make one that is right: what it seals is looked at all the same, and is told of in short."""
    good = (await export(front, await stepped(stream, 1))).snapshot
    call = front.sessions.ImportSession(ImportSessionRequest(snapshot=sealed(good, fields), id="new"))
    assert await refusal(call) == (grpc.StatusCode.DATA_LOSS, "SNAPSHOT_CORRUPT", "snapshot")


async def test_a_snapshot_is_for_its_model(front: FrontDoor, stream: CountingStream) -> None:
    """One that is not served is not found, and other weights of the same name and version do not match."""
    snapshot = snapshots.decode((await export(front, await stepped(stream, 1))).snapshot)
    wrong: list[tuple[dict[str, Any], tuple[grpc.StatusCode, str]]] = [
        ({"model": "none"}, (grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND")),
        ({"version": 9}, (grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND")),
        ({"fingerprint": "1" * 64}, (grpc.StatusCode.FAILED_PRECONDITION, "MODEL_MISMATCH")),
        ({"states": {}}, (grpc.StatusCode.DATA_LOSS, "SNAPSHOT_CORRUPT")),
        ({"id": "a b"}, (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT")),
    ]
    for changed, expected in wrong:
        data = snapshots.encode(dataclasses.replace(snapshot, **changed))
        assert (await refusal(front.sessions.ImportSession(ImportSessionRequest(snapshot=data))))[:2] == expected


@pytest.mark.parametrize(
    "changed",
    [
        {"states": {"last.sum": np.zeros(1, np.float16), "count": np.zeros(1, np.float32)}},
        {"numerics": "\ud800"},
        {"id": "\ud800"},
    ],
    ids=["dtype", "text", "id"],
)
async def test_a_snapshot_of_odd_tensors_or_texts_is_none(
    front: FrontDoor, stream: CountingStream, changed: dict[str, Any]
) -> None:
    """Of what no server has ever written nothing goes further than the door."""
    snapshot = snapshots.decode((await export(front, await stepped(stream, 1))).snapshot)
    data = snapshots.encode(dataclasses.replace(snapshot, **changed))
    call = front.sessions.ImportSession(ImportSessionRequest(snapshot=data, id="new"))
    assert await refusal(call) == (grpc.StatusCode.DATA_LOSS, "SNAPSHOT_CORRUPT", "snapshot")


async def test_other_numerics_are_told(front: FrontDoor, stream: CountingStream) -> None:
    """The session goes on, and the caller knows that its bits may differ."""
    snapshot = snapshots.decode((await export(front, await stepped(stream, 1))).snapshot)
    data = snapshots.encode(dataclasses.replace(snapshot, numerics="by another hand", id="new"))
    assert not (await front.sessions.ImportSession(ImportSessionRequest(snapshot=data))).bitwise


async def test_a_snapshot_too_large_for_a_message_is_not_taken() -> None:
    """The session goes on, and once its answers are acknowledged it fits; the largest that is taken can be sent."""
    settings = DoorSettings(max_message_bytes=16 << 10)
    async with front_door(settings=settings, window_steps=4096) as front, CountingStream(front.channel) as stream:
        (session,) = await stream.open("counter", [0])
        for first in range(0, 4000, 500):
            await stream.step([0], [first], [1.0] * 500)
            await stream.sums(500)
        call = front.sessions.ExportSession(
            ExportSessionRequest(model="counter", id=session.id, secret=session.secret, close=True)
        )
        assert (await refusal(call))[:2] == (grpc.StatusCode.RESOURCE_EXHAUSTED, "BLOCK_TOO_LARGE")
        await stream.step([0], [4000], [1.0], acked=np.array([3000], "<u8").tobytes())
        await stream.sums(1)
        exported = await export(front, session, close=True)
        assert len(exported.snapshot) < 16 << 10
        assert exported.next_seq == 4001


# Requests sent twice -------------------------------------------------------------------------------------------------


async def twice(call: Any, request: Any) -> list[Any]:
    """The answers to the same request sent two times."""
    return [await call(request), await call(request)]


async def test_opening_twice_opens_once(front: FrontDoor) -> None:
    """One and many: the same sessions with the same secrets, as they stand when asked again."""
    one = await twice(front.sessions.OpenSession, OpenSessionRequest(model="counter", request_id="one"))
    assert one[0].session.id == one[1].session.id
    assert one[0].secret == one[1].secret
    many = await twice(front.sessions.OpenSessions, OpenSessionsRequest(model="counter", count=3, request_id="many"))
    assert many[0] == many[1]
    assert len(front.models["counter"].backend.free) == 60


async def test_a_session_closed_meanwhile_is_not_opened_again(front: FrontDoor) -> None:
    """The repeat hears what has become of it."""
    request = OpenSessionRequest(model="counter", request_id="r")
    opened = await front.sessions.OpenSession(request)
    await front.sessions.CloseSession(CloseSessionRequest(model="counter", id=opened.session.id))
    assert (await refusal(front.sessions.OpenSession(request)))[1] == "SESSION_CLOSED"


async def test_copies_asked_for_twice_are_made_once(front: FrontDoor, stream: CountingStream) -> None:
    """Forks, imports and the snapshot of a session that was closed by its export."""
    session = await stepped(stream, 1, 2)
    given: dict[str, Any] = {"model": "counter", "id": session.id, "secret": session.secret}
    forks = await twice(front.sessions.ForkSession, ForkSessionRequest(**given, count=2, request_id="fork"))
    assert forks[0] == forks[1]
    exports = await twice(front.sessions.ExportSession, ExportSessionRequest(**given, close=True, request_id="export"))
    assert exports[0] == exports[1]
    imports = await twice(front.sessions.ImportSession, ImportSessionRequest(snapshot=exports[0].snapshot, request_id="import"))
    assert (imports[0].session.id, imports[0].secret) == (imports[1].session.id, imports[1].secret)
    assert len(front.models["counter"].backend.free) == 61


async def test_a_request_id_is_for_one_request(front: FrontDoor) -> None:
    """Another kind or count under the same id is refused, on a stream for each session, and the stream goes on."""
    await front.sessions.OpenSessions(OpenSessionsRequest(model="counter", count=2, request_id="r"))
    wrong: list[Awaitable[Any]] = [
        front.sessions.OpenSession(OpenSessionRequest(model="counter", request_id="r")),
        front.sessions.ForkSession(ForkSessionRequest(model="counter", id="x", request_id="r")),
    ]
    for call in wrong:
        assert await refusal(call) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT", "request_id")
    async with CountingStream(front.channel) as stream:
        assert await open_again(stream, [0, 1, 2], "r") == [("", b"", "INVALID_ARGUMENT")] * 3
        assert len(await stream.open("counter", [0, 1, 2])) == 3


async def open_again(stream: CountingStream, handles: list[int], request_id: str) -> list[tuple[str, bytes, str]]:
    """Opens on a stream under a request id: id, secret and error of each."""
    request = OpenOnStream(model="counter", handles=u32(handles), request_id=request_id)
    await stream.send(StreamRequest(open=request))
    while not (message := await stream.receive()).HasField("attached"):
        pass
    return [(each.id, each.secret, each.error.reason) for each in message.attached.sessions]


async def test_a_repeat_on_another_stream_takes_the_sessions_there(front: FrontDoor, stream: CountingStream) -> None:
    """As after a lost connection: the same sessions and secrets under new handles; the former stream hears SESSION_TAKEN."""
    opened = await open_again(stream, [0, 1], "r")
    await stream.step([0], [0], [1])
    await stream.sums(1)
    async with CountingStream(front.channel) as other:
        assert await open_again(other, [7, 8], "r") == opened
        assert (await stream.receive()).detached.reason == inference_pb2.DETACH_REASON_SESSION_TAKEN
        await other.step([7], [1], [1])
        while (answers := (await other.receive()).answers).first_seqs[:1] != b"\x01":
            pass
        assert answers.handles == u32([7])


async def test_with_a_request_id_handles_are_had_together_or_not_at_all(stream: CountingStream) -> None:
    """Else a repeat would ask for other sessions than the first: all are refused, and their handles stay free."""
    await stream.open("counter", [0])
    assert [reason for *_, reason in await open_again(stream, [0, 1], "r")] == ["HANDLE_IN_USE"] * 2
    assert [reason for *_, reason in await open_again(stream, [1, 2], "r")] == ["", ""]


@pytest.mark.parametrize("request_id", ["a b", "x" * 129, "x" * 1_000_000, "\x00", "é"])
async def test_a_request_id_is_made_like_an_id(front: FrontDoor, stream: CountingStream, request_id: str) -> None:
    """Wherever it is given; nothing is opened."""
    calls = [
        front.sessions.OpenSession(OpenSessionRequest(model="counter", request_id=request_id)),
        front.sessions.OpenSessions(OpenSessionsRequest(model="counter", count=2, request_id=request_id)),
    ]
    expected = (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT", "request_id")
    assert await asyncio.gather(*map(refusal, calls)) == [expected] * 2
    assert [reason for *_, reason in await open_again(stream, [0], request_id)] == ["INVALID_ARGUMENT"]
    assert len(front.models["counter"].backend.free) == 64


async def test_an_idle_ttl_is_inherited(front: FrontDoor) -> None:
    """By forks and through snapshots."""
    await front.sessions.OpenSession(OpenSessionRequest(model="counter", id="a", idle_ttl=Duration(seconds=7)))
    await front.sessions.ForkSession(ForkSessionRequest(model="counter", id="a", fork_ids=["b"]))
    snapshot = (await front.sessions.ExportSession(ExportSessionRequest(model="counter", id="a"))).snapshot
    await front.sessions.ImportSession(ImportSessionRequest(snapshot=snapshot, id="c"))
    assert [(await get(front, id)).idle_ttl.seconds for id in "abc"] == [7, 7, 7]
