"""Opening, stepping, cutting into chunks, streaming, resetting, closing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import numpy as np
import pytest

from stepstream import (
    Client,
    ClientOptions,
    DeadlineExceeded,
    ModelNotFound,
    SessionCapacity,
    SessionClosed,
    SessionDetached,
    SessionExists,
    WindowFull,
)
from stepstream_proto.v1 import inference_pb2
from support.servicer import FakeServicer


async def test_a_step_returns_arrays_by_output_name(client: Client) -> None:
    """A step gives one array per declared output in the shape of one step, and they belong to the caller."""
    async with client.open_session("pairs") as session:
        outputs = await session.step([1.0, 2.0])
        assert {name: array.tolist() for name, array in outputs.items()} == {"total": [3, -3], "count": [1]}
        outputs["total"][0] = 7


async def test_a_session_remembers(client: Client) -> None:
    """Steps of one session build on one another, those of another session do not."""
    first, second = await client.open_session("level"), await client.open_session("level")
    await first.step(1.0)
    assert (await first.step(2.0))["total"][0] == 3
    assert (await second.step(5.0))["total"][0] == 5
    assert (first.next_seq, second.next_seq) == (2, 1)


async def test_a_model_with_several_inputs_takes_them_by_name(client: Client) -> None:
    """Inputs travel in the model's order, whatever the order of the mapping."""
    async with client.open_session("mixed") as session:
        assert (await session.step({"token": 7, "a": [0.5]}))["total"][0] == 7.5
        chunk = await session.chunk({"token": [1, 2], "a": [[0.25], [0.5]]})
        assert chunk["total"][:, 0].tolist() == [8.75, 11.25]


async def test_leaving_the_context_closes_the_session_at_the_server(client: Client, servicer: FakeServicer) -> None:
    """A session is open inside its context only, and using it afterwards says so."""
    async with client.open_session("pairs", id="a") as session:
        assert "a" in servicer.sessions
    assert "a" not in servicer.sessions
    with pytest.raises(SessionClosed, match="'a'"):
        await session.step([0, 0])
    await session.close()


async def test_an_error_in_the_context_is_not_replaced_by_one_of_closing(client: Client, servicer: FakeServicer) -> None:
    """What went wrong first is what the caller hears of, even if closing fails too."""
    with pytest.raises(KeyError):
        async with client.open_session("pairs"):
            servicer.cut_streams()
            raise KeyError


async def test_a_chunk_keeps_the_outputs_that_were_asked_for(client: Client) -> None:
    """The time axis holds every step, the last one or none."""
    async with client.open_session("level") as session:
        everything = await session.chunk(np.ones(3))
        assert everything["total"].shape == (3, 2)
        assert everything["count"].tolist() == [[1], [2], [3]]
        last = await session.chunk(np.ones(3), outputs="last")
        assert (last["total"].shape, last["count"].tolist()) == ((1, 2), [[6]])
        nothing = await session.chunk(np.ones(3), outputs="none")
        assert (nothing["total"].shape, nothing["count"].shape) == ((0, 2), (0, 1))
        assert session.next_seq == 9
        with pytest.raises(ValueError, match="'first'"):
            await session.chunk(np.ones(3), outputs="first")  # type: ignore[arg-type]


@pytest.mark.parametrize("pieces", [0, 1, 3])
@pytest.mark.parametrize("outputs", ["all", "last", "none"])
async def test_a_chunk_longer_than_the_window_is_cut(client: Client, servicer: FakeServicer, pieces: int, outputs: str) -> None:
    """A chunk of any length is one call with one result, however the server cuts its answers."""
    servicer.pieces = pieces
    async with client.open_session("level") as session:
        result = await session.chunk(np.ones((30, 1)), outputs=outputs)  # type: ignore[arg-type]
        expected = {"all": list(range(1, 31)), "last": [30], "none": []}[outputs]
        assert result["count"][:, 0].tolist() == expected
        assert session.next_seq == servicer.sessions[session.id].next_seq == 30


async def test_a_chunk_is_cut_by_bytes_of_outputs_and_of_messages(servicer: FakeServicer, address: str) -> None:
    """Rows fit the window's bytes and the message limit as well as the window's steps."""
    servicer.window.bytes = 12 * 3  # 3 steps of 12 bytes
    async with Client(address) as client, client.open_session("level") as session:
        assert (await session.chunk(np.ones(10)))["count"][-1] == 10
        servicer.received.clear()
        await session.chunk(np.ones(8), outputs="last")
        assert [len(block.inputs[0]) for block in servicer.seen("block")] == [32]
    servicer.received.clear()
    async with Client(address, ClientOptions(max_block_steps=2)) as client, client.open_session("level") as session:
        assert (await session.chunk(np.ones(4), outputs="last"))["count"].tolist() == [[4]]
        assert [len(block.inputs[0]) for block in servicer.seen("block")] == [8, 8]


async def test_a_step_that_can_never_fit_is_refused_here(servicer: FakeServicer, client: Client) -> None:
    """Outputs of one step beyond the window are an error, and nothing is sent."""
    servicer.window.bytes = 8
    async with client.open_session("level") as session:
        with pytest.raises(WindowFull, match="8 bytes, got 12"):
            await session.step(1.0)
        assert servicer.seen("block") == []


async def test_a_stream_yields_each_answer_in_order(client: Client) -> None:
    """Readings may come from any iterable, of more of them than the window holds."""
    async with client.open_session("level") as session:
        counts = [outputs["count"][0] async for outputs in session.stream(np.ones(50))]
        assert counts == list(range(1, 51))


async def test_a_stream_answers_a_live_reading_before_the_next_one_is_there(client: Client) -> None:
    """A reading's answer does not wait for another reading."""
    answered = asyncio.Event()

    async def readings() -> AsyncIterator[float]:
        for _ in range(5):
            yield 1.0
            await answered.wait()
            answered.clear()

    async with client.open_session("level") as session:
        totals = []
        async for outputs in session.stream(readings()):
            totals.append(outputs["total"][0])
            answered.set()
        assert totals == [1, 2, 3, 4, 5]


async def test_a_stream_takes_no_more_readings_than_the_window_holds(client: Client, servicer: FakeServicer) -> None:
    """While answers are missing, readings stay where they are."""
    taken = 0

    def readings() -> list[float]:
        nonlocal taken
        taken += 1
        return [1.0]

    servicer.paused = True
    async with client.open_session("level") as session:
        answers = session.stream(iter(readings, None))
        first = asyncio.ensure_future(anext(answers))
        await servicer.until(lambda: sum(len(block.inputs[0]) // 4 for block in servicer.seen("block")) == 8)
        assert taken <= 10
        servicer.release()
        assert (await first)["count"] == [1]
        await answers.aclose()


async def test_a_stream_ends_with_the_error_of_a_reading_after_the_answers_before(client: Client) -> None:
    """An iterable that fails, fails the iteration, once the answers before it are delivered."""

    def readings() -> Iterator[float]:
        yield 1.0
        yield 2.0
        raise KeyError("sensor")

    async with client.open_session("level") as session:
        totals = []
        with pytest.raises(KeyError, match="sensor"):
            async for outputs in session.stream(readings()):
                totals.append(outputs["total"][0])
        assert totals == [1, 3]
        assert (await session.step(1.0))["total"][0] == 4


async def test_leaving_a_stream_early_leaves_the_session_usable(client: Client) -> None:
    """Readings that were sent are applied, their answers are dropped, numbering goes on."""
    async with client.open_session("level") as session:
        answers = session.stream(np.ones(100))
        await anext(answers)
        await answers.aclose()
        sent = session.next_seq
        assert (await session.step(1.0))["count"][0] == sent + 1


async def test_leaving_a_stream_takes_back_what_was_not_sent(client: Client, servicer: FakeServicer) -> None:
    """Readings that were taken and wait for the window are not applied, the last one taken included."""
    servicer.paused = True
    async with client.open_session("level", id="a") as session:
        first = asyncio.ensure_future(anext(session.stream(np.ones(100))))
        await servicer.until(lambda: servicer.sessions["a"].pending == 8)
        first.cancel()
        await asyncio.wait([first])
        servicer.release()
        assert (await session.step(1.0))["count"][0] == session.next_seq == 9


async def test_reset_starts_over(client: Client) -> None:
    """After a reset the session is as new, in order with the steps around it; numbers go on."""
    async with client.open_session("level") as session:
        first, _, second = await asyncio.gather(session.step(3.0), session.reset(), session.step(4.0))
        assert (first["total"][0], second["total"][0], second["count"][0]) == (3, 4, 1)
        assert session.next_seq == 3


async def test_detaching_leaves_the_session_open_to_be_attached_again(client: Client, servicer: FakeServicer) -> None:
    """A detached session goes on where it was for whoever has its secret."""
    session = await client.open_session("level")
    await session.step(1.0)
    await session.detach()
    with pytest.raises(SessionDetached):
        await session.step(1.0)
    async with client.attach_session("level", session.id, session.secret) as again:
        assert again.next_seq == 1
        assert (await again.step(1.0))["count"][0] == 2


async def test_opening_names_what_is_wrong(client: Client, servicer: FakeServicer) -> None:
    """Unknown models, ids in use and a full server are errors of their own."""
    with pytest.raises(ModelNotFound):
        await client.open_session("none")
    await client.open_session("pairs", id="a", idle_ttl=2.5)
    assert servicer.seen("open")[-1].idle_ttl.nanos == 500_000_000
    with pytest.raises(SessionExists):
        await client.open_session("pairs", id="a")
    servicer.capacity = 1
    with pytest.raises(SessionCapacity) as full:
        await client.open_session("pairs")
    assert full.value.retry_delay == 1.5


async def test_a_session_that_was_opened_too_late_is_closed_again(address: str, servicer: FakeServicer) -> None:
    """If nobody waits for the opening any more, the session is not left behind at the server."""
    servicer.mute = True
    async with Client(address, ClientOptions(call_timeout_seconds=0.05)) as client:
        with pytest.raises(DeadlineExceeded):
            await client.open_session("pairs", id="late")
        assert "late" in servicer.sessions
        servicer.speak()
        await servicer.until(lambda: len(servicer.seen("detach")) == 1)
        assert servicer.seen("detach")[0].close


async def test_handles_are_used_again_only_when_their_detach_is_confirmed(client: Client, servicer: FakeServicer) -> None:
    """A server that ends a session by itself while the client closes it confirms twice; the next session does not suffer."""
    first = await client.open_session("pairs", id="a")
    servicer.end_session("a", inference_pb2.DETACH_REASON_SESSION_EXPIRED)
    await first.close()
    async with client.open_session("pairs") as second:
        assert [np.frombuffer(each.handles, "<u4").tolist() for each in servicer.seen("open")] == [[0], [0]]
        assert (await second.step([1, 1]))["count"][0] == 1
