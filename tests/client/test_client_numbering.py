"""Merging, windows, acknowledgements, going back after a failure, cancelling."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

import numpy as np
import pytest

from stepstream import Client, ClientOptions, NonFiniteState, Outputs, QueueFull, SequenceMismatch, SessionClosed
from support.servicer import FakeServicer, error

FAILED_PRECONDITION = 9


def column(message: Any, name: str) -> list[int]:
    """A column of a message."""
    values: list[int] = np.frombuffer(getattr(message, name), "<u4" if name in ("handles", "lengths") else "<u8").tolist()
    return values


def steps_seen(servicer: FakeServicer) -> int:
    """Steps received so far, of a model that takes one number."""
    return sum(len(block.inputs[0]) // 4 for block in servicer.seen("block"))


async def outcome(awaitable: Awaitable[Outputs]) -> Any:
    """The count that a step returns, or what it raises."""
    try:
        return float((await awaitable)["count"][0])
    except Exception as failure:
        return failure


async def test_concurrent_steps_of_many_sessions_share_a_message(client: Client, servicer: FakeServicer) -> None:
    """Steps of one turn of the event loop are one block."""
    sessions = [await client.open_session("level") for _ in range(20)]
    for turn in (1, 2):
        answers = await asyncio.gather(*(session.step(index) for index, session in enumerate(sessions)))
        assert [answer["total"][0] for answer in answers] == [turn * index for index in range(20)]
        assert len(servicer.seen("block")) == turn
    block = servicer.seen("block")[-1]
    assert column(block, "handles") == list(range(20))
    assert (column(block, "first_seqs"), column(block, "acked"), block.lengths) == ([1] * 20, [1] * 20, b"")


async def test_sessions_of_different_models_do_not_share_a_message(client: Client, servicer: FakeServicer) -> None:
    """A block is for one model."""
    level, pairs = await client.open_session("level"), await client.open_session("pairs")
    answers = await asyncio.gather(level.step(1), pairs.step([1, 2]), level.step(1))
    assert [answer["total"][0] for answer in answers] == [1, 3, 2]
    assert sorted(len(block.inputs[0]) for block in servicer.seen("block")) == [8, 8]


async def test_steps_sent_ahead_travel_as_one_row(client: Client, servicer: FakeServicer) -> None:
    """Steps that follow each other are a chunk to the server, and single steps to the caller."""
    session, other = await client.open_session("level"), await client.open_session("level")
    answers = await asyncio.gather(*(session.step(1) for _ in range(3)), other.step(5), session.step(1))
    assert [answer["total"][0] for answer in answers] == [1, 2, 3, 5, 4]
    first, second = servicer.seen("block")
    assert (column(first, "handles"), column(first, "lengths")) == ([0, 1], [3, 1])
    assert (column(second, "handles"), column(second, "first_seqs")) == ([0], [3])  # one row per session and message


async def test_what_a_session_sends_stays_in_order_across_messages(client: Client, servicer: FakeServicer) -> None:
    """Merging never moves a session's row before an earlier one, whatever kinds of calls are mixed."""
    first, second = await client.open_session("level"), await client.open_session("level")
    answers = await asyncio.gather(
        first.step(1),
        first.chunk([1, 1], outputs="last"),
        second.step(1),
        first.step(1),
        first.reset(),
        second.chunk([1, 1], outputs="last"),
        first.step(1),
    )
    counts = [float(answer["count"].ravel()[0]) for answer in answers if answer]
    assert counts == [1, 3, 1, 4, 3, 1]


async def test_a_full_window_makes_steps_wait(client: Client, servicer: FakeServicer) -> None:
    """No more than the window is on its way; the rest follows as answers come."""
    servicer.paused = True
    session = await client.open_session("level")
    steps = [asyncio.ensure_future(session.step(1)) for _ in range(20)]
    await servicer.until(lambda: steps_seen(servicer) == 8)
    assert session.next_seq == 8
    servicer.release()
    assert [(await step)["count"][0] for step in steps] == list(range(1, 21))


async def test_answers_are_acknowledged_with_the_next_inputs(client: Client, servicer: FakeServicer) -> None:
    """A session that goes on acknowledges without messages of their own."""
    async with client.open_session("level") as session:
        for _ in range(3):
            await session.step(1)
        assert [column(block, "acked") for block in servicer.seen("block")] == [[0], [1], [2]]
        assert servicer.seen("acknowledge") == []


async def test_half_a_window_of_answers_is_acknowledged_at_once(address: str, servicer: FakeServicer) -> None:
    """The server need not keep much for a session whose next input is not in sight."""
    async with Client(address, ClientOptions(acknowledge_after_seconds=3600)) as client:
        session = await client.open_session("level")
        await session.chunk(np.ones(3))
        await session.chunk(np.ones(4))
        await servicer.until(lambda: len(servicer.seen("acknowledge")) == 1)
        assert column(servicer.seen("acknowledge")[0], "counts") == [7]
        assert servicer.sessions[session.id].kept == {}


async def test_quiet_sessions_are_acknowledged_together(address: str, servicer: FakeServicer) -> None:
    """Some time after their last answers, sessions are acknowledged by one message for all."""
    async with Client(address, ClientOptions(acknowledge_after_seconds=0.01)) as client:
        sessions = [await client.open_session("level") for _ in range(3)]
        await asyncio.gather(*(session.step(1) for session in sessions))
        await servicer.until(lambda: len(servicer.seen("acknowledge")) == 1)
        assert sorted(column(servicer.seen("acknowledge")[0], "handles")) == [0, 1, 2]
        assert column(servicer.seen("acknowledge")[0], "counts") == [1, 1, 1]


async def test_resets_alone_do_not_overrun_the_window(client: Client) -> None:
    """Resets carry no acknowledgement, so one is sent before them."""
    session = await client.open_session("level")
    for _ in range(20):
        await session.reset()
    await asyncio.gather(*(session.reset() for _ in range(20)))
    assert session.next_seq == 40


async def test_a_failed_step_tells_its_caller_and_those_behind(client: Client, servicer: FakeServicer) -> None:
    """The first error goes to the step that failed, the others learn that they were not applied and why."""
    servicer.paused = True
    session = await client.open_session("level", id="a")
    servicer.failures["a", 2] = error(FAILED_PRECONDITION, "NON_FINITE_STATE")
    steps = [asyncio.ensure_future(outcome(session.step(1))) for _ in range(12)]
    await servicer.until(lambda: steps_seen(servicer) == 8)
    servicer.release()
    results = await asyncio.gather(*steps)
    assert results[:2] == [1, 2]
    assert isinstance(results[2], NonFiniteState)
    for behind in results[3:]:  # 5 were on their way, 4 waited for the window
        assert isinstance(behind, SequenceMismatch)
        assert isinstance(behind.__cause__, NonFiniteState)
        assert behind.metadata == {"expectedSeq": "2"}
    assert servicer.sessions["a"].next_seq == session.next_seq == 2
    assert (await session.step(1))["count"][0] == 3


async def test_a_session_goes_on_only_behind_the_last_outcome(frail: Client, servicer: FakeServicer) -> None:
    """A step begun while outcomes of a failed run are still to come waits for them."""
    session = await frail.open_session("level", id="a")
    servicer.failures["a", 0] = error(8, "QUEUE_FULL", retry_delay_ms=20)
    first, second = asyncio.ensure_future(session.step(1)), asyncio.ensure_future(outcome(session.step(1)))
    with pytest.raises(QueueFull) as full:
        await first
    assert full.value.retry_delay == 0.02
    assert (await session.step(1))["count"][0] == 1
    assert isinstance(await second, SequenceMismatch)


async def test_a_chunk_that_fails_halfway_leaves_the_session_where_it_failed(client: Client, servicer: FakeServicer) -> None:
    """The part before the failure has been applied and is in the error, the part behind is never sent."""
    session = await client.open_session("level", id="a")
    servicer.failures["a", 6] = error(FAILED_PRECONDITION, "NON_FINITE_STATE")
    with pytest.raises(NonFiniteState) as failed:
        await session.chunk(np.ones(30))
    assert failed.value.outputs is not None
    assert failed.value.outputs["count"].tolist() == [[1], [2], [3], [4], [5], [6]]
    assert session.next_seq == servicer.sessions["a"].next_seq == 6
    assert (await session.step(1))["count"][0] == 7


async def test_a_cancelled_step_that_was_sent_is_applied(client: Client, servicer: FakeServicer) -> None:
    """Nobody waits for its answer, and the session's numbering is right."""
    servicer.paused = True
    session = await client.open_session("level")
    step = asyncio.ensure_future(session.step(1))
    await servicer.until(lambda: steps_seen(servicer) == 1)
    step.cancel()
    with pytest.raises(asyncio.CancelledError):
        await step
    servicer.release()
    assert (await session.step(1))["count"][0] == 2


async def test_a_cancelled_step_that_was_not_sent_never_was(client: Client, servicer: FakeServicer) -> None:
    """A step that waited for the window leaves no gap."""
    servicer.paused = True
    session = await client.open_session("level")
    steps = [asyncio.ensure_future(session.step(1)) for _ in range(10)]
    await servicer.until(lambda: steps_seen(servicer) == 8)
    steps[8].cancel()
    servicer.release()
    assert (await steps[9])["count"][0] == 9
    assert steps[8].cancelled()
    assert session.next_seq == 9


async def test_closing_fails_the_calls_that_still_wait(client: Client, servicer: FakeServicer) -> None:
    """Neither steps on their way nor steps that wait for the window are left without an outcome."""
    servicer.paused = True
    session = await client.open_session("level")
    steps = [asyncio.ensure_future(outcome(session.step(1))) for _ in range(10)]
    await servicer.until(lambda: steps_seen(servicer) == 8)
    await session.close()
    assert {type(each) for each in await asyncio.gather(*steps)} == {SessionClosed}


@pytest.mark.parametrize("seed", range(5))
async def test_any_mix_of_calls_equals_the_same_calls_one_by_one(client: Client, servicer: FakeServicer, seed: int) -> None:
    """However calls overlap, are merged and are answered in pieces, each gets what the order of its session gives."""
    random = np.random.default_rng(seed)
    servicer.pieces = int(random.integers(0, 4))
    sessions = [await client.open_session("level") for _ in range(5)]
    totals = [0.0] * 5
    calls: list[Awaitable[Outputs | None]] = []
    expected: list[list[float] | None] = []
    for _ in range(200):
        index = int(random.integers(5))
        values = random.integers(0, 9, int(random.integers(1, 25))).astype(float)
        kind = random.choice(["step", "chunk", "last", "reset"])
        if kind == "reset":
            calls.append(sessions[index].reset())
            totals[index] = 0.0
            expected.append(None)
        elif kind == "step":
            calls.append(sessions[index].step(values[0]))
            totals[index] += values[0]
            expected.append([totals[index]])
        else:
            calls.append(sessions[index].chunk(values, outputs="last" if kind == "last" else "all"))
            sums = totals[index] + np.cumsum(values)
            totals[index] = float(sums[-1])
            expected.append(sums[-1:].tolist() if kind == "last" else sums.tolist())
    answers = await asyncio.gather(*calls)
    found = [None if answer is None else answer["total"].reshape(-1, 2)[:, 0].tolist() for answer in answers]
    assert found == expected
