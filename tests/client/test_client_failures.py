"""Streams that break, servers that drain, sessions that end by themselves, calls that are refused."""

from __future__ import annotations

import asyncio
import socket

import grpc
import numpy as np
import pytest
from google.rpc import status_pb2

from stepstream import (
    AccessDenied,
    AnswerDiscarded,
    BlockTooLarge,
    Client,
    ClientOptions,
    ConnectionLost,
    EngineFailed,
    ModelNotFound,
    ProtocolError,
    QueueFull,
    SecretMismatch,
    SessionClosed,
    SessionEnded,
    SessionEvicted,
    SessionExpired,
    SessionMoved,
    SessionNotFound,
    SessionTaken,
    StepStreamError,
    Unavailable,
)
from stepstream_proto.v1 import inference_pb2
from support.events import until_kind
from support.servicer import FakeServicer, error
from support.status import failed_call


async def test_a_broken_stream_tells_everyone_who_waits(frail: Client, servicer: FakeServicer) -> None:
    """Steps on their way, steps that wait for the window and later steps all fail; the session says where it was."""
    session = await frail.open_session("level")
    await session.step(1)
    servicer.paused = True
    steps = [asyncio.ensure_future(session.step(1)) for _ in range(12)]
    await servicer.until(lambda: len(servicer.seen("block")) == 2)
    servicer.cut_streams()
    outcomes = await asyncio.gather(*steps, return_exceptions=True)
    assert {type(each) for each in outcomes} == {ConnectionLost}
    with pytest.raises(ConnectionLost, match="cut"):
        await session.step(1)
    assert (session.acked, session.next_seq) == (1, 9)


async def test_repeated_inputs_after_a_break_move_the_state_once(frail: Client, servicer: FakeServicer) -> None:
    """Attached again with what was received, the same inputs give the same answers."""
    session = await frail.open_session("level")
    await session.chunk([1, 2, 3, 4])
    servicer.losing = True
    lost = asyncio.ensure_future(session.chunk([5, 6, 7]))
    await servicer.until(lambda: servicer.sessions[session.id].next_seq == 7)
    servicer.cut_streams()
    with pytest.raises(ConnectionLost):
        await lost
    servicer.losing = False
    async with frail.attach_session("level", session.id, session.secret, acked=session.acked) as again:
        assert (session.acked, again.next_seq) == (4, 4)
        assert (await again.chunk([5, 6, 7, 8]))["total"][:, 0].tolist() == [15, 21, 28, 36]
        assert servicer.sessions[session.id].count == 8


async def test_answers_that_are_sent_again_serve_the_repeat(client: Client, servicer: FakeServicer) -> None:
    """Kept answers may come before or after the repeated inputs; each step has one outcome and numbering stays right."""
    session = await client.open_session("level")
    await session.chunk([1, 2, 3])
    again = await client.attach_session("level", session.id, session.secret, acked=0)
    answers = await asyncio.gather(*(again.step(value) for value in (1, 2, 3, 4)))
    assert [answer["total"][0] for answer in answers] == [1, 3, 6, 10]
    assert again.next_seq == servicer.sessions[session.id].next_seq == 4


async def test_a_break_before_the_repeat_leaves_its_numbers(client: Client, servicer: FakeServicer) -> None:
    """Who attached to hear answers again hears them, though the stream broke in between: nothing is applied twice."""
    session = await client.open_session("level")
    await session.chunk([1, 2, 3])
    again = await client.attach_session("level", session.id, session.secret, acked=0)
    events = client.events()
    servicer.cut_streams()
    await until_kind(events, "replayed")
    answers = await asyncio.gather(*(again.step(value) for value in (1, 2, 3, 4)))
    assert [answer["total"][0] for answer in answers] == [1, 3, 6, 10]
    assert again.next_seq == servicer.sessions[session.id].next_seq == 4


async def test_attaching_without_a_count_goes_on_behind_what_was_applied(client: Client, servicer: FakeServicer) -> None:
    """A client that has lost its inputs resumes at the next step, and nothing old is sent to it."""
    session = await client.open_session("level")
    await session.chunk([1, 2, 3])
    async with client.attach_session("level", session.id, session.secret) as again:
        assert again.next_seq == 3
        assert servicer.sessions[session.id].kept == {}
        assert (await again.step(4))["total"][0] == 10


async def test_discarded_answers_are_an_error_for_just_those_steps(client: Client, servicer: FakeServicer) -> None:
    """Repeating what was acknowledged fails, and the session stays in step."""
    session = await client.open_session("level")
    await session.step(1)
    await session.step(2)  # acknowledges the first
    again = await client.attach_session("level", session.id, session.secret, acked=0)
    with pytest.raises(AnswerDiscarded):
        await again.step(1)
    assert (await again.step(2))["total"][0] == 3
    assert (await again.step(3))["total"][0] == 6


async def test_a_new_session_after_a_break_opens_a_new_stream(frail: Client, servicer: FakeServicer) -> None:
    """The client itself outlives its streams."""
    session = await frail.open_session("level", id="a")
    servicer.paused = True
    step = asyncio.ensure_future(session.step(1))
    await servicer.until(lambda: len(servicer.seen("block")) == 1)
    servicer.cut_streams()
    with pytest.raises(ConnectionLost):
        await step
    servicer.release()
    async with frail.open_session("level", id="b") as fresh:
        assert (await fresh.step(1))["count"] == [1]


@pytest.mark.parametrize("code", [grpc.StatusCode.ABORTED, grpc.StatusCode.CANCELLED, grpc.StatusCode.INTERNAL])
async def test_the_true_status_is_told_even_to_who_writes_to_an_ended_stream(
    frail: Client, servicer: FakeServicer, code: grpc.StatusCode
) -> None:
    """A write that fails because the server had ended the stream does not hide why it did."""
    sessions = [await frail.open_session("level") for _ in range(3)]
    servicer.cut_streams(status_pb2.Status(code=code.value[0], message="the reason"))
    outcomes = await asyncio.gather(*(each.chunk(np.ones(100)) for each in sessions), return_exceptions=True)
    for outcome in outcomes:
        assert isinstance(outcome, ConnectionLost)
        assert (outcome.code, outcome.message) == (code, "the stream to the server has ended: the reason")


async def test_the_engines_end_is_the_reason_of_the_lost_connection(frail: Client, servicer: FakeServicer) -> None:
    """A stream that ends with details passes them on."""
    session = await frail.open_session("level")
    servicer.cut_streams(failed_call(grpc.StatusCode.INTERNAL, "ENGINE_FAILED", "the engine has stopped"))
    with pytest.raises(ConnectionLost) as lost:
        await session.step(1)
    assert lost.value.reason == "ENGINE_FAILED"
    assert isinstance(lost.value.__cause__, EngineFailed)


async def test_a_server_that_cannot_be_reached_is_unavailable() -> None:
    """Neither a unary call nor a stream shows an error of gRPC."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        async with Client(address, ClientOptions(reconnect_seconds=0)) as client:
            with pytest.raises(Unavailable):
                await client.models()
            with pytest.raises(ConnectionLost):
                await client.open_session("level")


async def test_a_refused_stream_is_not_a_lost_connection(client: Client, servicer: FakeServicer) -> None:
    """What the server says before it takes anything is the error itself."""
    servicer.refusal = status_pb2.Status(code=grpc.StatusCode.UNAUTHENTICATED.value[0], message="who are you")
    with pytest.raises(AccessDenied, match="who are you"):
        await client.open_session("level")


async def test_details_of_a_failed_call_reach_the_caller(client: Client, servicer: FakeServicer) -> None:
    """Code, reason, message, retry delay and metadata come from the status' details."""
    servicer.refusal = failed_call(
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "QUEUE_FULL",
        "too much",
        retry_seconds=2,
        field_name="name",
        metadata={"limitSteps": "7"},
    )
    with pytest.raises(QueueFull, match="too much") as full:
        await client.models()
    assert (full.value.code, full.value.reason, full.value.retry_delay) == (
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "QUEUE_FULL",
        2.0,
    )
    assert full.value.metadata == {"limitSteps": "7", "field": "name"}


async def test_models_are_records(client: Client) -> None:
    """What the server declares arrives as plain values."""
    info = await client.model("mixed")
    assert [(each.name, each.dtype.name, each.shape, each.limit) for each in info.inputs] == [
        ("a", "float32", (1,), 0),
        ("token", "int64", (), 10),
    ]
    assert (info.version, info.cell, info.window_steps) == (1, "rnn", 8)
    assert info.time_step_seconds == pytest.approx(1 / 90)
    assert [each.name for each in await client.models()] == ["pairs", "level", "mixed"]
    with pytest.raises(ModelNotFound, match="expected one of"):
        await client.model("none")


async def test_a_model_that_vanishes_while_a_session_opens_closes_it(client: Client, servicer: FakeServicer) -> None:
    """No session stays behind that the caller never got."""
    servicer.mute = True
    opening = asyncio.ensure_future(asyncio.wait_for(client.open_session("level", id="a"), 30))
    await servicer.until(lambda: len(servicer.seen("open")) == 1)
    servicer.refusal = failed_call(grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND", "gone")
    servicer.speak()
    with pytest.raises(ModelNotFound):
        await opening
    await servicer.until(lambda: servicer.sessions == {})


async def test_a_draining_server_is_used_to_its_end_by_who_does_not_reconnect(frail: Client, servicer: FakeServicer) -> None:
    """The client is told, and after the stream has ended it may try again."""
    session = await frail.open_session("level", id="a")
    servicer.announce_drain()
    await frail.draining.wait()
    assert (await session.step(1))["count"] == [1]
    servicer.cut_streams()
    with pytest.raises(ConnectionLost):
        await asyncio.gather(*(session.step(1) for _ in range(9)))
    await frail.open_session("level", id="b")
    assert not frail.draining.is_set()


@pytest.mark.parametrize(
    ("ending", "kind"),
    [
        (inference_pb2.DETACH_REASON_SESSION_TAKEN, SessionTaken),
        (inference_pb2.DETACH_REASON_SESSION_CLOSED, SessionClosed),
        (inference_pb2.DETACH_REASON_SESSION_EXPIRED, SessionExpired),
        (inference_pb2.DETACH_REASON_SESSION_EVICTED, SessionEvicted),
        (inference_pb2.DETACH_REASON_SESSION_MOVED, SessionMoved),
    ],
)
async def test_a_session_that_ends_by_itself_says_why(
    client: Client, servicer: FakeServicer, ending: inference_pb2.DetachReason, kind: type[SessionEnded]
) -> None:
    """Who waits and who calls later hears the same; other sessions of the stream go on."""
    session, neighbour = await client.open_session("level", id="a"), await client.open_session("level", id="b")
    servicer.paused = True
    step = asyncio.ensure_future(session.step(1))
    await servicer.until(lambda: len(servicer.seen("block")) == 1)
    servicer.end_session("a", ending)
    with pytest.raises(kind, match="'a'") as told:
        await step
    assert inference_pb2.DetachReason.Name(ending) == f"DETACH_REASON_{told.value.reason}"
    with pytest.raises(kind):
        await session.step(1)
    servicer.release()
    assert (await neighbour.step(1))["count"] == [1]


async def test_who_loses_a_session_does_not_close_it(address: str, client: Client, servicer: FakeServicer) -> None:
    """Another client takes over at once; the former one leaves its context without harm."""
    async with Client(address) as other:
        async with client.open_session("level") as session:
            await session.step(1)
            taken = await other.attach_session("level", session.id, session.secret)
            with pytest.raises(SessionTaken):
                await session.step(1)
        assert (await taken.step(1))["count"] == [2]


async def test_attaching_needs_the_session_and_its_secret(client: Client) -> None:
    """A wrong secret and an unknown session are errors of their own."""
    session = await client.open_session("level")
    with pytest.raises(SecretMismatch):
        await client.attach_session("level", session.id, b"wrong")
    with pytest.raises(SessionNotFound):
        await client.attach_session("level", "none", b"")


async def test_closing_the_client_ends_what_is_under_way(address: str, servicer: FakeServicer) -> None:
    """Calls still waiting fail, and the client says that it is closed."""
    servicer.paused = True
    async with Client(address) as client:
        session = await client.open_session("level")
        step = asyncio.ensure_future(session.step(1))
        await servicer.until(lambda: len(servicer.seen("block")) == 1)
    with pytest.raises(ConnectionLost, match="client was closed"):
        await step
    with pytest.raises(StepStreamError):
        await session.step(1)
    with pytest.raises(RuntimeError, match="async with"):
        await client.models()


async def test_a_server_that_ends_the_stream_in_peace_is_a_lost_connection(frail: Client, servicer: FakeServicer) -> None:
    """An end without an error is an end all the same."""
    session = await frail.open_session("level")
    servicer.streams[0].out.put_nowait(None)
    with pytest.raises(ConnectionLost, match="the server has ended it"):
        await session.step(1)


async def test_a_message_that_the_server_cannot_read_ends_the_sessions_in_it(client: Client, servicer: FakeServicer) -> None:
    """An error without a length names no step: nobody may be left waiting."""
    servicer.paused = True
    session = await client.open_session("level")
    step = asyncio.ensure_future(session.step(1))
    await servicer.until(lambda: len(servicer.seen("block")) == 1)
    servicer.streams[0].out.put_nowait(
        inference_pb2.StreamResponse(
            answers=inference_pb2.Answers(errors=[inference_pb2.RowError(handle=0, error=error(8, "BLOCK_TOO_LARGE"))])
        )
    )
    with pytest.raises(BlockTooLarge):
        await step


async def test_an_answer_out_of_order_ends_the_stream_with_an_error(client: Client, servicer: FakeServicer) -> None:
    """A server that breaks the contract is found out, and nobody waits for ever."""
    servicer.paused = True
    session = await client.open_session("level")
    steps = [asyncio.ensure_future(session.step(1)) for _ in range(2)]
    await servicer.until(lambda: len(servicer.seen("block")) == 1)
    servicer._say_answers(servicer.streams[0], [(0, 1, [np.zeros(3, np.float32)])])
    with pytest.raises(ConnectionLost, match="expected step 0, got 1") as lost:
        await asyncio.gather(*steps)
    assert isinstance(lost.value.__cause__, ProtocolError)
    await asyncio.gather(*steps, return_exceptions=True)
