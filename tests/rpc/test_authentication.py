"""Who may call, and until when: tokens that are shown, tokens that are taken away, and what a tenant may have."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import grpc
import pytest
import pytest_asyncio

from benchmarks.http2 import DATA, END_HEADERS, HEADERS, SETTINGS, frame, prefixed
from stepstream_proto.v1 import inference_pb2, session_pb2
from stepstream_server.access import Access
from stepstream_server.engine.ports import Block, Call, LimitTenants, List
from support.echo import ring_backend, ring_spec
from support.front_door import CountingStream, FrontDoor, front_door
from support.generating import FOREVER, Refusal, check_nothing_rolls, floats, refusal, request, small_window
from support.hostile.frames import headers, hello
from support.hostile.methods import Method, offered
from support.oip.wire import InferCall, infer, infer_request, sums_of
from support.tenants import Tenants, bearer, showing
from support.wire import StreamRequest, u32, u64
from support.workers import PATIENCE

STREAM = "/stepstream.v1.InferenceService/Stream"
HEALTH, REFLECTION = "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"
REFUSED = ("UNAUTHENTICATED", "UNAUTHENTICATED", "authorization")
OVER = "authorization: the token or certificate of this call is no longer valid"


@pytest.fixture
def tenants() -> Tenants:
    """Two of them, of whom nothing is bounded."""
    return Tenants(a={}, b={})


@pytest_asyncio.fixture
async def front(tenants: Tenants) -> AsyncIterator[FrontDoor]:
    """A front door of theirs."""
    async with front_door(access=tenants.access) as front:
        yield front


async def told(call: Any) -> Refusal:
    """How a call with one answer was refused."""
    call.read = lambda: call  # awaited, it has its answer
    return await refusal(call)


async def how(call: Any) -> tuple[str, str, str]:
    """The code, the reason and the field of it."""
    refused = await told(call)
    return refused.code, refused.reason, refused.field


def begun(channel: grpc.aio.Channel, method: Method) -> Any:
    """A call of any kind, to which nothing has been said."""
    make: Any = channel.stream_stream if method.client_streams else channel.unary_stream
    return make(method.path)() if method.client_streams else make(method.path)(b"")


def get(front: FrontDoor, id: str) -> Any:
    """Looks a session up."""
    return front.sessions.GetSession(session_pb2.GetSessionRequest(model="counter", id=id))


def open_session(front: FrontDoor, id: str = "", **fields: Any) -> Any:
    """Opens a session."""
    return front.sessions.OpenSession(session_pb2.OpenSessionRequest(model="counter", id=id, **fields))


def step(front: FrontDoor, id: str, *values: float) -> Any:
    """Steps a session that no stream holds."""
    request = inference_pb2.StepRequest(model="counter", session_id=id)
    request.inputs["x"].numbers.extend(values)
    return front.inference.Step(request)


def rolled(front: FrontDoor, id: str) -> Any:
    """A rollout without end, whose numbers stay finite."""
    wanted = inference_pb2.GenerateRequest(model="counter", session_id=id, prompt=[floats(0)], max_steps=FOREVER)
    return front.inference.Generate(wanted)


# Tokens ------------------------------------------------------------------------------------------------------------------------


async def test_whoever_shows_no_token_is_refused(front: FrontDoor) -> None:
    """All calls but those of the health, of whatever kind, and before anything is read of them."""
    for method in offered():
        if method.service != HEALTH:
            refused = await refusal(begun(front.channel, method))
            assert (refused.code, refused.reason, refused.field) == REFUSED, method.path
            assert refused.message.endswith("with a token of this server, or a known certificate, got none"), method.path


async def test_health_is_for_everybody(front: FrontDoor) -> None:
    """A probe has no token."""
    check: Any = front.channel.unary_unary(f"/{HEALTH}/Check")
    assert await check(b"") == b"\x08\x01"  # status: SERVING


async def test_reflection_is_for_callers(front: FrontDoor, tenants: Tenants) -> None:
    """Whoever has a token may look the contract up."""
    call: Any = front.of(tenants.token("a")).channel.stream_stream(f"/{REFLECTION}/ServerReflectionInfo")()
    await call.write(b"\x3a\x00")  # list_services
    assert b"stepstream.v1.SessionService" in await call.read()
    call.cancel()


@pytest.mark.parametrize(
    ("header", "shown"),
    [
        ("Basic dXNlcjpzZWNyZXQ=", "none"),
        ("{token}", "none"),
        ("Bearer", "none"),
        ("Bearer  ", "none"),
        ("Bearer {token}x", "one that is not known here"),
        ("Bearer x{token}", "one that is not known here"),
        ("Bearer {token} {token}", "one that is not known here"),
        ("Bearer {TOKEN}", "one that is not known here"),
    ],
)
async def test_what_is_no_token_is_refused(front: FrontDoor, tenants: Tenants, header: str, shown: str) -> None:
    """Another scheme, no scheme, and what is only like a token; the answer repeats nothing of it."""
    token = tenants.token("a")
    value = header.format(token=token, TOKEN=token.swapcase())
    refused = await told(get(front.of("", ("authorization", value)), "x"))
    assert (refused.code, refused.reason, refused.field) == REFUSED
    expected = f"expected `Bearer TOKEN` with a token of this server, or a known certificate, got {shown}"
    assert refused.message == f"authorization: {expected}"


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
async def test_schemes_are_of_any_case(front: FrontDoor, tenants: Tenants, scheme: str) -> None:
    """HTTP has it so (RFC 9110, 11.1)."""
    mine = front.of("", ("authorization", f"{scheme} {tenants.token('a')} "))
    assert (await open_session(mine, "x")).session.id == "x"


async def test_the_first_bearer_counts(front: FrontDoor, tenants: Tenants) -> None:
    """Of several headers: others are not looked at, so that none can lend its rights to a first one that is wrong."""
    token_a, token_b = (bearer(tenants.token(name)) for name in "ab")
    basic, wrong = ("authorization", "Basic eDp5"), ("authorization", "Bearer nobody's")
    await open_session(front.of("", basic, *token_a, *token_b), "x")
    assert (await get(front.of(tenants.token("a")), "x")).session.id == "x"
    assert (await how(get(front.of("", wrong, *token_a), "x"))) == REFUSED


# Tokens that are taken away ----------------------------------------------------------------------------------------------------


async def test_a_token_that_is_taken_away_is_refused_at_once(front: FrontDoor, tenants: Tenants) -> None:
    """Those of others go on."""
    mine, others = front.of(tenants.token("a")), front.of(tenants.token("b"))
    await open_session(mine, "x")
    await open_session(others, "x")
    front.rpc.take_access(tenants.without(tenants.token("a")))
    assert await how(get(mine, "x")) == REFUSED
    assert (await get(others, "x")).session.id == "x"
    assert (await get(front.of(tenants.token("a", "admin")), "x")).session.id == "x"
    front.rpc.take_access(tenants.access)
    assert (await get(mine, "x")).session.id == "x"


async def test_a_request_that_comes_late_shows_what_is_taken_away(front: FrontDoor, tenants: Tenants) -> None:
    """A call may begin before its token is taken away, and bring its request after."""
    mine = front.of(tenants.token("a"))
    call: Any = mine.channel.stream_unary("/stepstream.v1.SessionService/OpenSession")()
    await open_session(mine, "before")  # on the same connection, which takes calls up in their order
    front.rpc.take_access(tenants.without(tenants.token("a")))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.write(session_pb2.OpenSessionRequest(model="counter", id="late").SerializeToString())
        await call.done_writing()
        await call
    assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.UNAUTHENTICATED, OVER)
    assert (await how(get(front.of(tenants.token("a", "admin")), "late")))[1] == "SESSION_NOT_FOUND"


async def test_calls_that_last_end_with_their_token(front: FrontDoor, tenants: Tenants) -> None:
    """Streams of both protocols, rollouts, reflection; those of others go on, and sessions live."""
    token = tenants.token("a")
    mine, admin, others = front.of(token), front.of(tenants.token("a", "admin")), front.of(tenants.token("b"))
    await open_session(mine, "rolled")
    async with CountingStream(mine.channel) as stream, CountingStream(others.channel) as theirs:
        (held,) = await stream.open("counter", [0])
        await theirs.open("counter", [0])
        await stream.step([0], [0], [1.0])
        assert await stream.sums(1) == {(0, 0): 1.0}
        inferring = InferCall(mine.channel)
        await inferring.send(infer_request("counter", [1.0], "s", start=True))
        await inferring.receive()
        rollout = rolled(mine, "rolled")
        await rollout.read()
        looking: Any = mine.channel.stream_stream(f"/{REFLECTION}/ServerReflectionInfo")()
        await looking.write(b"\x3a\x00")
        await looking.read()
        front.rpc.take_access(tenants.without(token))
        front.rpc.take_access(tenants.without(token))  # as it may be told twice before they have ended
        for call in (stream._call, inferring.call, rollout, looking):
            ended = await refusal(call)
            assert (ended.code, ended.reason or REFUSED[1], ended.message.removeprefix("UNAUTHENTICATED: ")) == (
                *REFUSED[:2],
                OVER,
            )
        await theirs.step([0], [0], [2.0])
        assert await theirs.sums(1) == {(0, 0): 2.0}
        async with CountingStream(admin.channel) as again:
            await again.attach("counter", 3, held.id, held.secret, acked=1)
            await again.step([3], [1], [4.0])
            assert await again.sums(1) == {(3, 1): 5.0}
    assert (await get(admin, "rolled")).session.id == "rolled"


async def test_a_call_that_nobody_reads_ends_too(tenants: Tenants) -> None:
    """While the server waits for room to write: the engine rolls out no further, and what it holds is let go."""
    token = tenants.token("a")
    async with (
        front_door("ring", spec=ring_spec, backend=ring_backend, access=tenants.access) as front,
        small_window(front.address) as channel,
    ):
        mine = replace(front, channel=showing(channel, token=token))
        rollout = mine.inference.Generate(request(max_steps=FOREVER))
        await rollout.read()
        engine, door = front.models["ring"].engine, front.models["ring"].door
        while engine._rollouts.busy:
            await door.ask(lambda number: List(number, 0, 1))
        front.rpc.take_access(tenants.without(token))
        assert await front.ended.get() == ("stepstream.v1.InferenceService", "Generate", "UNAUTHENTICATED")
        admin = front.of(tenants.token("a", "admin"))
        await check_nothing_rolls(admin)
        rollout.cancel()


@pytest.mark.parametrize("changed", ["role", "shared"])
async def test_a_principal_that_is_not_the_same_ends_too(front: FrontDoor, tenants: Tenants, changed: str) -> None:
    """Its calls were let in as somebody who it is not any more; it may call again as who it is."""
    other = tenants.without(a={"shared": True}).model_dump()
    if changed == "role":
        other = tenants.access.model_dump()
        for each in other["tenants"]["a"]["tokens"]:
            each["role"] = "admin"
    mine = front.of(tenants.token("a"))
    async with CountingStream(mine.channel) as stream:
        (held,) = await stream.open("counter", [0])
        front.rpc.take_access(Access.model_validate(other))
        assert (await refusal(stream._call)).message == OVER
    async with CountingStream(mine.channel) as stream:
        assert not (await stream.attach("counter", 0, held.id, held.secret)).sessions[0].HasField("error")


async def test_sessions_are_let_go_though_the_client_takes_no_status(front: FrontDoor, tenants: Tenants) -> None:
    """Whoever reads nothing keeps the call, and not what it held: the session is there for others of the tenant."""
    host, _, port = front.address.rpartition(":")
    _, writer = await asyncio.open_connection(host, int(port))
    shown = ("authorization", f"Bearer {tenants.token('a')}")
    opening = inference_pb2.StreamRequest(open=inference_pb2.OpenOnStream(model="counter", handles=u32([0]), ids=["held"]))
    no_window = frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 0))
    begin = frame(HEADERS, END_HEADERS, 1, headers(STREAM, shown)) + frame(DATA, 0, 1, prefixed(opening.SerializeToString()))
    writer.write(hello(no_window, begin))
    admins = front.of(tenants.token("a", "admin"))
    async with asyncio.timeout(PATIENCE):
        while [each.attached for each in (await admins.sessions.ListSessions(session_pb2.ListSessionsRequest())).sessions] != [
            True
        ]:
            pass
        front.rpc.take_access(tenants.without(tenants.token("a")))
        while (await get(admins, "held")).session.attached:
            pass
    assert len(front.rpc.streams) == 1
    writer.transport.abort()


async def test_calls_go_on_where_others_come_and_go(front: FrontDoor, tenants: Tenants) -> None:
    """A stream outlives whatever does not concern its principal."""
    async with CountingStream(front.of(tenants.token("a")).channel) as stream:
        await stream.open("counter", [0])
        front.rpc.take_access(tenants.without(tenants.token("b"), a={"streams": 1, "sessions": 0}))
        await stream.step([0], [0], [1.0])
        assert await stream.sums(1) == {(0, 0): 1.0}


# What principals may do --------------------------------------------------------------------------------------------------------


async def test_statistics_are_for_admins(front: FrontDoor, tenants: Tenants) -> None:
    """They are of all callers; whoever may not have them is not told whether there is such a model, either."""
    method: Any = "/inference.GRPCInferenceService/ModelStatistics"
    for message in (b"", b"\x0a\x07counter", b"\x0a\x07nothing"):
        asked: Any = front.of(tenants.token("a")).channel.unary_unary(method)
        refused = await told(asked(message))
        assert refused.code == "PERMISSION_DENIED"
        assert refused.message == "NOT_PERMITTED: statistics are of all callers together: expected the role admin"
    served: Any = front.of(tenants.token("a", "admin")).channel.unary_unary(method)
    assert b"counter" in await served(b"")


async def slots_of(front: FrontDoor) -> list[int]:
    """Slots of states, as a listing tells, and as one session and one that is opened do."""
    listed = await front.sessions.ListSessions(session_pb2.ListSessionsRequest())
    opened = (await open_session(front)).session
    return [*(each.slot for each in listed.sessions), (await get(front, "second")).session.slot, opened.slot]


async def test_only_admins_see_where_states_lie(tenants: Tenants) -> None:
    """So does everybody, where nobody has to prove anything."""
    async with front_door() as front:
        await open_session(front, "first")
        await open_session(front, "second")
        assert await slots_of(front) == [0, 1, 1, 2]
    async with front_door(access=tenants.access) as front:
        await open_session(front.of(tenants.token("b")))  # has the first slot
        mine = front.of(tenants.token("a"))
        await open_session(mine, "first")
        await open_session(mine, "second")
        assert await slots_of(mine) == [0, 0, 0, 0]
        assert await slots_of(front.of(tenants.token("a", "admin"))) == [1, 2, 3, 2, 4]


@pytest.mark.parametrize(("shared", "expected"), [(None, ""), (True, ""), (False, "SECRET_MISMATCH")])
async def test_copies_need_the_secret(shared: bool | None, expected: str) -> None:
    """Of a session that no stream holds: of a tenant's, unless what is one's is all's there; not where there are no tenants."""
    tenants = Tenants(a={"shared": bool(shared)})
    async with front_door(access=None if shared is None else tenants.access) as bare:
        front = bare.of(tenants.token("a"))
        secret = (await open_session(front, "x")).secret
        for wrong in (b"", b"guess") if expected else (b"",):
            fork = session_pb2.ForkSessionRequest(model="counter", id="x", secret=wrong)
            export = session_pb2.ExportSessionRequest(model="counter", id="x", secret=wrong)
            if expected:
                assert (await told(front.sessions.ForkSession(fork))).reason == expected
                assert (await told(front.sessions.ExportSession(export))).reason == expected
            else:
                assert (await front.sessions.ForkSession(fork)).sessions[0].id
                assert (await front.sessions.ExportSession(export)).snapshot
        mine = session_pb2.ForkSessionRequest(model="counter", id="x", secret=secret)
        assert (await front.sessions.ForkSession(mine)).sessions[0].id


# What tenants may have ---------------------------------------------------------------------------------------------------------


async def test_streams_of_a_tenant_are_bounded() -> None:
    """Of both protocols together; those that have ended count no more, and those of others never did."""
    tenants = Tenants(a={"streams": 2}, b={})
    async with front_door(access=tenants.access) as bare:
        mine, others = bare.of(tenants.token("a")), bare.of(tenants.token("b"))
        inferring, first = InferCall(mine.channel), CountingStream(mine.channel)
        await inferring.opened()
        await first.open_stream()
        for method in (STREAM, "/inference.GRPCInferenceService/ModelStreamInfer"):
            call: Any = bare.of(tenants.token("a", "admin")).channel.stream_stream(method)()
            refused = await refusal(call)
            assert (refused.code, refused.retry_ms) == ("RESOURCE_EXHAUSTED", 20)
            assert refused.message.removeprefix("QUEUE_FULL: ") == "all 2 streams of the tenant are in use"
        async with CountingStream(others.channel) as theirs:
            await theirs.open_stream()
        await inferring.end()
        async with CountingStream(mine.channel) as again:
            await again.open("counter", [0])
        first.cut()


async def test_unary_steps_of_a_tenant_are_bounded() -> None:
    """Beyond its rate it is told how long to wait, over either protocol; others are not."""
    tenants = Tenants(a={"steps_per_second": 0.001}, b={})
    async with front_door(access=tenants.access) as bare:
        mine, others = bare.of(tenants.token("a")), bare.of(tenants.token("b"))
        await open_session(mine, "x")
        await open_session(others, "x")
        await step(mine, "x", 1.0, 2.0)  # more than there is may be asked for at once
        inferring: Any = mine.channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        for call in (step(mine, "x", 1.0), inferring(infer_request("counter", [1.0], "x").SerializeToString())):
            refused = await told(call)
            assert refused.code == "RESOURCE_EXHAUSTED"
            assert refused.message.removeprefix("QUEUE_FULL: ") == "all 0.001 steps per second of the tenant are used"
            assert refused.retry_ms is not None
            assert 1_900_000 < refused.retry_ms < 2_000_000  # two steps were taken, of which 1/1000 was there
        assert (await get(mine, "x")).session.next_seq == 2
        await step(others, "x", 1.0)


@pytest.mark.parametrize("changed", [{"steps_per_second": None}, {"steps_per_second": 1e6}])
async def test_streams_beyond_the_rate_are_not_read(changed: dict[str, Any]) -> None:
    """Of either protocol: what was read is answered, what comes then waits in the connection. They go on as soon as they may."""
    tenants, heard = Tenants(a={"steps_per_second": 0.001}, b={}), list[object]()
    async with front_door(access=tenants.access, tap=heard.append) as bare:
        mine = bare.of(tenants.token("a"))
        inferring = InferCall(mine.channel)
        async with CountingStream(mine.channel) as stream:
            await stream.open("counter", [0])
            await stream.step([0], [0], [1.0])
            await stream.step([0], [1], [2.0])
            assert await stream.sums(1) == {(0, 0): 1.0}
            await inferring.send(infer_request("counter", [1.0], "s", start=True))  # opens nothing before its turn
            await inferring.receive()
            await inferring.send(infer_request("counter", [2.0], "s"))
            async with CountingStream(bare.of(tenants.token("b")).channel) as theirs:
                await theirs.open("counter", [0])
                await theirs.step([0], [0], [3.0])
                assert await theirs.sums(1) == {(0, 0): 3.0}
            assert sum(isinstance(each, Block | Call) for each in heard) == 3
            bare.rpc.take_access(tenants.without(a=changed))
            assert await stream.sums(1) == {(0, 1): 3.0}
            (answer,) = await inferring.receive()
            assert sums_of(answer.infer_response) == [3.0]


async def test_only_steps_count_as_steps() -> None:
    """Sessions are opened and detached, and rows that cannot be taken are refused, whatever the rate."""
    tenants = Tenants(a={"steps_per_second": 0.001})
    async with front_door(access=tenants.access) as bare, CountingStream(bare.of(tenants.token("a")).channel) as stream:
        await stream.open("counter", range(4))
        await stream.send(StreamRequest(detach=inference_pb2.Detach(handles=u32([0, 1]))))
        await stream.receive()
        await stream.step([2, 3], [0, 0], [1.0], [1.0], outputs=9)  # which is none
        assert [reason for *_, reason, _ in await stream.errors(2)] == ["INVALID_ARGUMENT"] * 2
        await stream.step([2, 3], [0, 0], [1.0], [1.0])
        assert len(await stream.sums(2)) == 2


async def test_a_reset_counts_as_a_step() -> None:
    """It takes a number, like one."""
    tenants, heard = Tenants(a={"steps_per_second": 0.001}), list[object]()
    async with (
        front_door(access=tenants.access, tap=heard.append) as bare,
        CountingStream(bare.of(tenants.token("a")).channel) as stream,
    ):
        await stream.open("counter", [0])
        await stream.send(StreamRequest(reset=inference_pb2.Reset(handles=u32([0]), seqs=u64([0]))))
        await stream.step([0], [1], [1.0])
        await stream.receive()
        bare.rpc.take_access(tenants.without(a={"steps_per_second": None}))
        assert await stream.sums(1) == {(0, 1): 1.0}
        assert isinstance(heard[-1], Block)


async def test_rollouts_draw_no_faster_than_the_rate() -> None:
    """Their prompts count with the call, and their draws as they are told; then the next one waits."""
    tenants = Tenants(a={"steps_per_second": 0.001})
    async with front_door(access=tenants.access) as bare:
        mine = bare.of(tenants.token("a"))
        await open_session(mine, "x")
        rollout = rolled(mine, "x")
        await rollout.read()
        refused = await refusal(rolled(mine, "x"))
        assert (refused.reason, refused.message) == ("QUEUE_FULL", "all 0.001 steps per second of the tenant are used")
        bare.rpc.take_access(tenants.without(a={"steps_per_second": None}))
        for _ in range(5):
            await rollout.read()


async def test_sessions_of_a_tenant_are_bounded_exactly() -> None:
    """However they come to be: opened one by one and many at once, on a stream, forked, imported, and started as sequences. Those
    of others do not count, and those that have ended count no more."""
    tenants = Tenants(a={"sessions": 3, "shared": True}, b={})
    async with front_door(access=tenants.access) as bare, CountingStream(bare.of(tenants.token("a")).channel) as stream:
        mine, others = bare.of(tenants.token("a")), bare.of(tenants.token("b"))
        many = session_pb2.OpenSessionsRequest(model="counter", count=5)
        assert [each.error.reason for each in (await others.sessions.OpenSessions(many)).sessions] == [""] * 5
        opened = (await mine.sessions.OpenSessions(many)).sessions
        assert [each.error.reason for each in opened] == [""] * 3 + ["SESSION_CAPACITY"] * 2
        assert opened[3].error.message == "all 3 sessions of the tenant are in use"
        snapshot = (
            await mine.sessions.ExportSession(session_pb2.ExportSessionRequest(model="counter", id=opened[0].id))
        ).snapshot
        importing = session_pb2.ImportSessionRequest(snapshot=snapshot, id="imported")
        forking = session_pb2.ForkSessionRequest(model="counter", id=opened[0].id, count=2)
        assert [each.error.reason for each in (await mine.sessions.ForkSession(forking)).sessions] == ["SESSION_CAPACITY"] * 2
        assert (await told(mine.sessions.ImportSession(importing))).reason == "SESSION_CAPACITY"
        assert [each.error.reason for each in await stream.open("counter", [0, 1])] == ["SESSION_CAPACITY"] * 2
        with pytest.raises(grpc.aio.AioRpcError, match="SESSION_CAPACITY: all 3 sessions of the tenant are in use"):
            await infer(mine.channel, infer_request("counter", [1.0], "s", start=True))
        await mine.sessions.CloseSession(session_pb2.CloseSessionRequest(model="counter", id=opened[1].id))
        await infer(mine.channel, infer_request("counter", [1.0], "s", start=True))
        assert (await told(open_session(mine))).reason == "SESSION_CAPACITY"
        await infer(mine.channel, infer_request("counter", [1.0], "s", start=True))  # in the place of the former one
        await infer(mine.channel, infer_request("counter", [1.0], "s", end=True))
        assert [each.error.reason for each in (await mine.sessions.ForkSession(forking)).sessions] == ["", "SESSION_CAPACITY"]
        await open_session(others)


async def test_a_limit_that_falls_ends_nothing() -> None:
    """All that a tenant has goes on; it gets no more."""
    tenants = Tenants(a={"sessions": 3})
    async with front_door(access=tenants.access) as bare:
        mine = bare.of(tenants.token("a"))
        await open_session(mine, "x")
        await open_session(mine, "y")
        bare.models["counter"].door.submit(LimitTenants({"a": 1}, {}))
        assert (await told(open_session(mine))).message == "all 1 sessions of the tenant are in use"
        await step(mine, "x", 1.0)
        await mine.sessions.CloseSession(session_pb2.CloseSessionRequest(model="counter", id="y"))
        assert (await told(open_session(mine))).reason == "SESSION_CAPACITY"
        bare.models["counter"].door.submit(LimitTenants({}, {}))
        await open_session(mine)
