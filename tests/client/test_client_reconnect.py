"""Streams that break under a client that reconnects: nobody notices but by the delay, and nothing is applied twice or lost."""

from __future__ import annotations

import asyncio

import grpc
import numpy as np
import pytest
from google.rpc import status_pb2

from stepstream import (
    AccessDenied,
    Client,
    ClientOptions,
    ConnectionLost,
    DeadlineExceeded,
    ModelNotReady,
    NonFiniteState,
    QueueFull,
    SequenceMismatch,
    SessionClosed,
    SessionDetached,
    SessionLost,
    SessionTaken,
    Unavailable,
)
from stepstream_proto.v1 import inference_pb2
from support.servicer import QUICK, FakeServicer, error
from support.status import failed_call

UNAVAILABLE = 14


@pytest.fixture
def options() -> ClientOptions:
    """Of a client that loses no time."""
    return QUICK


def attached(servicer: FakeServicer) -> int:
    """Sessions attached so far."""
    return sum(len(attach.sessions) for attach in servicer.seen("attach"))


async def cut_while_steps_wait(client: Client, servicer: FakeServicer, count: int) -> list[asyncio.Task[float]]:
    """Begins `count` steps of one session, `a`, of which the server has received a window and run none, and cuts the stream."""

    async def step() -> float:
        return float((await session.step(1))["count"][0])

    session = await client.open_session("level", id="a")
    servicer.paused = True
    steps = [asyncio.create_task(step()) for _ in range(count)]
    await servicer.until(lambda: sum(len(block.inputs[0]) // 4 for block in servicer.seen("block")) == min(count, 8))
    servicer.cut_streams()
    await servicer.until(lambda: attached(servicer) == 1)
    return steps


async def test_steps_in_flight_and_steps_that_wait_are_applied_once(client: Client, servicer: FakeServicer) -> None:
    """What the server had not applied is sent again under its old numbers, and what had not been sent follows."""
    steps = await cut_while_steps_wait(client, servicer, 20)
    servicer.release()
    assert await asyncio.gather(*steps) == list(range(1, 21))
    assert servicer.sessions["a"].next_seq == 20


async def test_answers_that_were_lost_come_without_being_asked_for(client: Client, servicer: FakeServicer) -> None:
    """Only what was not applied is sent again, so that a chunk may be cut in its middle."""
    session = await client.open_session("level", id="a")
    await session.chunk([1, 2, 3])
    servicer.losing = True
    chunk = asyncio.ensure_future(session.chunk([4, 5, 6], outputs="last"))
    await servicer.until(lambda: servicer.sessions["a"].next_seq == 6)
    servicer.paused = True
    step = asyncio.ensure_future(session.step(7))
    await servicer.until(lambda: len(servicer.seen("block")) == 3)
    servicer.cut_streams()
    servicer.losing = False
    await servicer.until(lambda: len(servicer.seen("block")) == 4)
    servicer.release()
    assert (await chunk)["total"].tolist() == [[21, -21]]
    assert (await step)["total"][0] == 28
    assert np.frombuffer(servicer.seen("block")[-1].first_seqs, "<u8").tolist() == [6]
    assert [attach.sessions[0].acked for attach in servicer.seen("attach")] == [3]


async def test_a_row_that_was_applied_in_part_is_sent_from_there_on(client: Client, servicer: FakeServicer) -> None:
    """A chunk's first steps are answered from what the server kept, the others are computed now."""
    session = await client.open_session("level", id="a")
    servicer.paused = True
    chunk = asyncio.ensure_future(session.chunk([1, 2, 3, 4, 5]))
    await servicer.until(lambda: len(servicer.seen("block")) == 1)
    applied = servicer.sessions["a"]
    servicer.cut_streams()
    for seq, total in enumerate([1.0, 3.0]):  # the old stream's chunk settles so far
        applied.kept[seq] = np.array([total, -total, seq + 1], np.float32)
    applied.next_seq, applied.total, applied.count = 2, 3.0, 2
    await servicer.until(lambda: len(servicer.seen("block")) == 2)
    servicer.release()
    assert (await chunk)["total"][:, 0].tolist() == [1, 3, 6, 10, 15]
    again = servicer.seen("block")[-1]
    assert (np.frombuffer(again.first_seqs, "<u8").tolist(), len(again.inputs[0])) == ([2], 12)


async def test_resets_in_flight_are_repeated_in_order(client: Client, servicer: FakeServicer) -> None:
    """A reset takes one number like a step, on whichever stream."""
    session = await client.open_session("level", id="a")
    servicer.paused = True
    calls = asyncio.gather(session.step(5), session.reset(), session.step(6))
    await servicer.until(lambda: len(servicer.seen("block")) == 2)
    servicer.cut_streams()
    await servicer.until(lambda: len(servicer.seen("block")) == 4)
    servicer.release()
    first, _, second = await calls
    assert (first["total"][0], second["total"][0], servicer.sessions["a"].next_seq) == (5, 6, 3)


async def test_a_group_goes_on(client: Client, servicer: FakeServicer) -> None:
    """All its sessions are attached by one message, whatever their number."""
    async with client.open_sessions("level", 30) as group:
        await group.step(np.ones(30))
        servicer.paused = True
        step = asyncio.ensure_future(group.step(np.ones(30)))
        await servicer.until(lambda: len(servicer.seen("block")) == 2)
        servicer.cut_streams()
        await servicer.until(lambda: len(servicer.seen("block")) == 3)
        servicer.release()
        assert (await step)["count"][:, 0].tolist() == [2] * 30
        assert [len(attach.sessions) for attach in servicer.seen("attach")] == [30]


async def test_an_opening_is_repeated_and_opens_once(client: Client, servicer: FakeServicer) -> None:
    """It carries a request id, by which the server finds what it had opened before its answer was lost."""
    servicer.mute = True
    opening = asyncio.ensure_future(asyncio.wait_for(client.open_session("level"), 30))
    await servicer.until(lambda: len(servicer.seen("open")) == 1)
    servicer.mute = False
    servicer.cut_streams()
    session = await opening
    assert (await session.step(1))["count"] == [1]
    first, second = servicer.seen("open")
    assert first.request_id == second.request_id
    assert list(servicer.sessions) == [session.id]


async def test_an_opening_that_nobody_waits_for_is_found_and_closed(client: Client, servicer: FakeServicer) -> None:
    """It may have been opened before the stream broke."""
    servicer.mute = True
    opening = asyncio.ensure_future(asyncio.wait_for(client.open_session("level", id="a"), 30))
    await servicer.until(lambda: len(servicer.seen("open")) == 1)
    opening.cancel()
    servicer.mute = False
    servicer.cut_streams()
    await servicer.until(lambda: len(servicer.seen("open")) == 2 and not servicer.sessions)


async def test_a_session_that_was_being_closed_is_closed(client: Client, servicer: FakeServicer) -> None:
    """Calls that wait are told so, whether the server had closed it or not."""
    session, other = await client.open_session("level", id="a"), await client.open_session("level", id="b")
    servicer.cut_streams()
    await asyncio.gather(session.close(), other.close())
    assert servicer.sessions == {}
    for each in (session, other):
        with pytest.raises(SessionClosed):
            await each.step(1)


async def test_a_session_may_be_closed_already(client: Client, servicer: FakeServicer) -> None:
    """The server had closed it, and its word was lost: closing succeeds."""
    session = await client.open_session("level", id="a")
    stream = servicer.streams[0]
    servicer.cut_streams()
    del servicer.sessions["a"], stream.sessions[0]
    await session.close()


async def test_a_session_is_detached_by_the_loss_itself(client: Client, servicer: FakeServicer) -> None:
    """There is nothing to ask the server for."""
    session = await client.open_session("level", id="a")
    servicer.refusal = status_pb2.Status(code=UNAVAILABLE, message="gone")
    servicer.cut_streams()
    await servicer.until(lambda: servicer.refused > 0)
    await session.detach()
    with pytest.raises(SessionDetached):
        await session.step(1)
    assert "a" in servicer.sessions


async def test_a_session_that_the_server_has_lost_ends_and_the_others_go_on(client: Client, servicer: FakeServicer) -> None:
    """As after a restart of a server that keeps nothing."""
    lost, kept = await client.open_session("level", id="a"), await client.open_session("level", id="b")
    await kept.step(1)
    servicer.paused = True
    steps = [asyncio.ensure_future(lost.step(1)) for _ in range(10)]
    await servicer.until(lambda: len(servicer.seen("block")) == 2)
    del servicer.sessions["a"]
    servicer.cut_streams()
    outcomes = await asyncio.gather(*steps, return_exceptions=True)
    assert {type(each) for each in outcomes} == {SessionLost}
    assert {each.since for each in outcomes if isinstance(each, SessionLost)} == {0}
    with pytest.raises(SessionLost):
        await lost.step(1)
    servicer.release()
    assert (await kept.step(1))["count"] == [2]
    await lost.close()


async def test_a_session_that_was_taken_is_not_taken_back(client: Client, servicer: FakeServicer) -> None:
    """Neither at once nor on the next stream."""
    taken, kept = await client.open_session("level", id="a"), await client.open_session("level", id="b")
    servicer.end_session("a", inference_pb2.DETACH_REASON_SESSION_TAKEN)
    servicer.cut_streams()
    assert (await kept.step(1))["count"] == [1]
    with pytest.raises(SessionTaken):
        await taken.step(1)
    assert [each.id for attach in servicer.seen("attach") for each in attach.sessions] == ["b"]


async def test_what_has_failed_before_the_break_stays_failed(client: Client, servicer: FakeServicer) -> None:
    """Inputs behind a failure are not sent again, though the word of their own refusal was lost."""
    session = await client.open_session("level", id="a")
    servicer.paused = True
    steps = [asyncio.ensure_future(session.step(1)) for _ in range(3)]
    await servicer.until(lambda: len(servicer.seen("block")) == 1)
    servicer._say_error(servicer.streams[0], 0, 0, 1, error(9, "NON_FINITE_STATE"), 0)
    with pytest.raises(NonFiniteState):
        await steps[0]
    servicer.cut_streams()
    outcomes = await asyncio.gather(*steps[1:], return_exceptions=True)
    assert {type(each) for each in outcomes} == {SequenceMismatch}
    await servicer.until(lambda: attached(servicer) == 1)
    servicer.release()
    assert (await session.step(1))["count"] == [1]


async def test_cancelling_while_there_is_no_stream_harms_nobody(client: Client, servicer: FakeServicer) -> None:
    """What was sent is applied, what was not never was."""
    steps = await cut_while_steps_wait(client, servicer, 10)
    steps[3].cancel()
    steps[9].cancel()
    servicer.release()
    await asyncio.gather(*steps, return_exceptions=True)
    assert [step.result() for step in steps if not step.cancelled()] == [1, 2, 3, 5, 6, 7, 8, 9]
    assert servicer.sessions["a"].next_seq == 9


async def test_a_server_without_room_is_asked_again(client: Client, servicer: FakeServicer) -> None:
    """From the refused step on, in order; the caller never hears of it."""
    session = await client.open_session("level", id="a")
    for _ in range(3):
        servicer.failures["a", 2] = error(8, "QUEUE_FULL", retry_delay_ms=1)
        answers = await asyncio.gather(*(session.step(1) for _ in range(20)))
        await session.reset()
        assert [answer["count"][0] for answer in answers] == list(range(1, 21))
        assert "a" in servicer.sessions


async def test_a_server_that_never_has_room_is_given_up(address: str, servicer: FakeServicer) -> None:
    """When patience is over, the refusal is the outcome."""
    async with Client(address, ClientOptions(reconnect_seconds=0.05, reconnect_first_seconds=0.001)) as client:
        session = await client.open_session("level", id="a")
        servicer.always_full = True
        with pytest.raises(QueueFull):
            await session.step(1)


async def test_a_draining_server_is_left_for_the_next_one(client: Client, servicer: FakeServicer) -> None:
    """What is under way is answered, what comes later waits for the next stream, and the old one ends in peace."""
    session = await client.open_session("level", id="a")
    servicer.paused = True
    under_way = asyncio.ensure_future(session.step(1))
    await servicer.until(lambda: len(servicer.seen("block")) == 1)
    servicer.announce_drain()
    await client.draining.wait()
    later, opening = asyncio.ensure_future(session.step(1)), asyncio.ensure_future(open_level(client))
    servicer.release()
    assert (await under_way)["count"] == [1]
    assert (await later)["count"] == [2]
    assert await opening == 1
    assert not client.draining.is_set()
    assert attached(servicer) == 1


async def open_level(client: Client) -> float:
    """The count of a new session's first step."""
    async with client.open_session("level") as session:
        return float((await session.step(1))["count"][0])


async def test_steps_that_a_draining_server_refuses_wait_for_the_next_one(client: Client, servicer: FakeServicer) -> None:
    """They were on their way when it began to drain."""
    session = await client.open_session("level", id="a")
    servicer.failures["a", 1] = error(UNAVAILABLE, "SERVER_DRAINING")
    steps = [asyncio.ensure_future(session.step(1)) for _ in range(3)]
    assert (await steps[0])["count"] == [1]
    servicer.announce_drain()
    answers = await asyncio.gather(*steps[1:])
    assert [answer["count"][0] for answer in answers] == [2, 3]


async def test_openings_wait_until_the_model_is_ready(client: Client, servicer: FakeServicer) -> None:
    """A server listens before its models are warm."""
    servicer.not_ready = 3
    assert await open_level(client) == 1
    session = await client.open_session("level")
    servicer.not_ready = 2
    servicer.cut_streams()
    assert (await session.step(1))["count"] == [1]


async def test_patience_has_an_end(address: str, servicer: FakeServicer) -> None:
    """Then everybody who waits is told the last reason; the client can be used on."""
    async with Client(address, ClientOptions(reconnect_seconds=0.05, reconnect_first_seconds=0.001)) as client:
        session = await client.open_session("level", id="a")
        servicer.refusal = failed_call(grpc.StatusCode.UNAVAILABLE, "", "not now")
        servicer.cut_streams()
        with pytest.raises(ConnectionLost, match="not now"):
            await asyncio.gather(session.step(1), session.reset())
        with pytest.raises(ConnectionLost):
            await session.step(1)
        with pytest.raises(Unavailable, match="not now"):
            await client.models()
        servicer.refusal = None
        assert await open_level(client) == 1


async def test_a_lasting_refusal_is_not_tried_again(client: Client, servicer: FakeServicer) -> None:
    """Who is not let in will not be let in later."""
    session = await client.open_session("level")
    servicer.refusal = failed_call(grpc.StatusCode.UNAUTHENTICATED, "", "who are you")
    servicer.cut_streams()
    with pytest.raises(AccessDenied, match="who are you"):
        await session.step(1)


@pytest.mark.parametrize(
    "refusal",
    [
        failed_call(grpc.StatusCode.UNAVAILABLE, "MODEL_NOT_READY", "warming up"),
        failed_call(grpc.StatusCode.CANCELLED, "", "cancelled by a server that ends while the call waits"),
    ],
    ids=["unavailable", "cancelled"],
)
async def test_calls_of_their_own_are_tried_again(client: Client, servicer: FakeServicer, refusal: status_pb2.Status) -> None:
    """Within the time of a call."""
    servicer.refusals = [refusal] * 3
    assert [each.name for each in await client.models()] == ["pairs", "level", "mixed"]
    assert servicer.refusals == []


async def test_without_patience_nothing_is_tried_again(frail: Client, servicer: FakeServicer) -> None:
    """`reconnect_seconds=0`: every failure is told at once."""
    servicer.refusals = [failed_call(grpc.StatusCode.UNAVAILABLE, "MODEL_NOT_READY", "warming up")]
    with pytest.raises(ModelNotReady):
        await frail.models()
    session = await frail.open_session("level", id="a")
    servicer.failures["a", 0] = error(8, "QUEUE_FULL", retry_delay_ms=1)
    with pytest.raises(QueueFull):
        await session.step(1)


async def test_a_call_out_of_time_is_told_so_even_without_a_stream(client: Client, servicer: FakeServicer) -> None:
    """Its step keeps its number: whether it was applied shows when the server is back, and steps behind it go on."""
    session = await client.open_session("level", id="a")
    servicer.paused = True
    step = asyncio.ensure_future(session.step(1, timeout=0.05))
    await servicer.until(lambda: len(servicer.seen("block")) == 1)
    servicer.refusal = failed_call(grpc.StatusCode.UNAVAILABLE, "", "not now")
    servicer.cut_streams()
    await servicer.until(lambda: servicer.refused > 0)
    never_sent = asyncio.ensure_future(session.step(1, timeout=0.05))
    behind = asyncio.ensure_future(session.step(1))
    for call in (step, never_sent):
        with pytest.raises(DeadlineExceeded, match=r"within 0\.05 s"):
            await call
    servicer.refusal = None
    servicer.release()
    assert (await behind)["count"] == [2]


async def test_streams_of_a_client_are_numbered(client: Client, servicer: FakeServicer) -> None:
    """So that a server can tell which of them is the newest."""
    await client.open_session("level")
    servicer.cut_streams()
    await open_level(client)
    places = [dict(each) for each in servicer.metadata]
    assert [each["stepstream-stream"] for each in places] == ["1", "2"]
    assert len({each["stepstream-client"] for each in places}) == 1


async def test_a_client_without_sessions_leaves_the_server_alone(address: str, servicer: FakeServicer) -> None:
    """It makes another stream when there is a use for one, and has all its patience then."""
    async with Client(address, ClientOptions(reconnect_seconds=10, reconnect_first_seconds=0.001)) as client:
        await open_level(client)
        servicer.cut_streams()
        for _ in range(20):
            await client.models()  # time enough to reconnect
        assert (servicer.streams, len(servicer.metadata)) == ([], 1)
        assert await open_level(client) == 1
        assert len(servicer.metadata) == 2
