"""Calls with a time limit: what the server is told, what the caller hears, and what becomes of the session."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from stepstream import Client, DeadlineExceeded, GroupError, InvalidArgument, NonFiniteState, SequenceMismatch
from support.servicer import FakeServicer, error


async def test_the_server_is_told_what_is_left(client: Client, servicer: FakeServicer) -> None:
    """Rows share a message only if they have the same time left."""
    session, other = await client.open_session("level"), await client.open_session("level")
    await asyncio.gather(
        session.step(1, timeout=50), other.chunk([1, 2], timeout=70), session.step(1), other.chunk([1, 2], "last", timeout=50)
    )
    limits = [block.timeout.ToMilliseconds() for block in servicer.seen("block")]
    assert sorted(-(-each // 1000) for each in limits) == [0, 50, 50, 70]
    assert [block.HasField("timeout") for block in servicer.seen("block")].count(False) == 1


async def test_a_call_ends_in_time(client: Client, servicer: FakeServicer) -> None:
    """Whether its step waits for its answer or for the window; what was sent is applied, what was not never was."""
    servicer.paused = True
    session = await client.open_session("level")
    steps = [asyncio.ensure_future(session.step(1, timeout=0.05)) for _ in range(10)]
    outcomes = await asyncio.gather(*steps, return_exceptions=True)
    assert {type(each) for each in outcomes} == {DeadlineExceeded}
    servicer.release()
    assert (await session.step(1))["count"] == [9]
    assert session.next_seq == 9


async def test_a_chunk_out_of_time_gives_what_was_answered(client: Client, servicer: FakeServicer) -> None:
    """These steps have been applied, and nobody else has their outputs."""
    session = await client.open_session("level", id="a")
    servicer.pause_at["a"] = 8
    with pytest.raises(DeadlineExceeded) as late:
        await session.chunk(np.ones(20), timeout=0.05)
    assert late.value.outputs is not None
    assert late.value.outputs["count"][:, 0].tolist() == list(range(1, 9))
    servicer.release()


async def test_a_step_that_the_server_drops_takes_those_behind_it_along(client: Client, servicer: FakeServicer) -> None:
    """It was not applied, so nothing sent behind it is."""
    session = await client.open_session("level", id="a")
    servicer.failures["a", 0] = error(4, "DEADLINE_EXCEEDED")
    late, behind = asyncio.ensure_future(session.step(1, timeout=50)), asyncio.ensure_future(session.step(1))
    with pytest.raises(DeadlineExceeded):
        await late
    with pytest.raises(SequenceMismatch):
        await behind
    assert (await session.step(1))["count"] == [1]


async def test_a_step_awaited_after_one_out_of_time_waits_for_its_outcome(client: Client, servicer: FakeServicer) -> None:
    """Its caller has heard of the failure, so it must not fail behind it: it gets the number that the dropped step had."""
    session = await client.open_session("level", id="a")
    servicer.pause_at["a"] = 0
    servicer.failures["a", 0] = error(4, "DEADLINE_EXCEEDED")
    with pytest.raises(DeadlineExceeded):
        await session.step(1, timeout=0.05)
    after, fork = asyncio.ensure_future(session.step(1)), asyncio.ensure_future(session.fork())
    await asyncio.sleep(0)
    assert len(servicer.seen("block")) == 1
    servicer.release()
    assert (await after)["count"] == [1]
    assert ((await fork).next_seq, session.next_seq) == (1, 1)


async def test_what_was_begun_before_the_time_was_over_fails_behind_it(client: Client, servicer: FakeServicer) -> None:
    """In flight or waiting for the window: its caller did not know of the failure."""
    session = await client.open_session("level", id="a")
    servicer.pause_at["a"] = 0
    servicer.failures["a", 0] = error(4, "DEADLINE_EXCEEDED")
    late = asyncio.ensure_future(session.step(1, timeout=0.05))
    before = [asyncio.ensure_future(session.step(1)) for _ in range(10)]  # more than the window holds
    with pytest.raises(DeadlineExceeded):
        await late
    after = asyncio.ensure_future(session.step(1))
    await asyncio.sleep(0)
    servicer.release()
    outcomes = await asyncio.gather(*before, return_exceptions=True)
    assert {type(each) for each in outcomes} == {SequenceMismatch}
    assert (await after)["count"] == [1]


async def test_who_knows_of_one_failure_does_not_know_of_the_next(client: Client, servicer: FakeServicer) -> None:
    """Of two steps that wait for the outcome of one out of time the first fails by itself: the second fails behind it."""
    session = await client.open_session("level", id="a")
    servicer.pause_at["a"] = 0
    servicer.failures["a", 0] = error(4, "DEADLINE_EXCEEDED")
    with pytest.raises(DeadlineExceeded):
        await session.step(1, timeout=0.05)
    after = [asyncio.ensure_future(session.step(1)) for _ in range(2)]
    await asyncio.sleep(0)
    servicer.release()
    servicer.failures["a", 0] = error(9, "NON_FINITE_STATE")  # the step that is numbered 0 next
    outcomes = await asyncio.gather(*after, return_exceptions=True)
    assert [type(each) for each in outcomes] == [NonFiniteState, SequenceMismatch]
    assert servicer.sessions["a"].next_seq == 0


async def test_a_failure_that_has_nothing_to_do_with_the_time_takes_all_along(client: Client, servicer: FakeServicer) -> None:
    """The step out of time is applied, another one in flight fails: whoever began meanwhile did not know."""
    session = await client.open_session("level", id="a")
    servicer.pause_at["a"] = 0
    servicer.failures["a", 1] = error(9, "NON_FINITE_STATE")
    late, other = asyncio.ensure_future(session.step(1, timeout=0.05)), asyncio.ensure_future(session.step(1))
    with pytest.raises(DeadlineExceeded):
        await late
    after = asyncio.ensure_future(session.step(1))
    await asyncio.sleep(0)
    servicer.release()
    outcomes = await asyncio.gather(other, after, return_exceptions=True)
    assert [type(each) for each in outcomes] == [NonFiniteState, SequenceMismatch]


async def test_numbers_that_went_back_are_in_nobodys_way(client: Client, servicer: FakeServicer) -> None:
    """Steps out of time are settled; what comes later is pipelined and fails as ever."""
    session = await client.open_session("level", id="a")
    servicer.pause_at["a"] = 0
    servicer.failures["a", 0] = error(4, "DEADLINE_EXCEEDED")
    late = [asyncio.ensure_future(session.step(1, timeout=0.05)) for _ in range(7)]
    await asyncio.gather(*late, return_exceptions=True)
    servicer.release()
    await session.reset()
    servicer.failures["a", 1] = error(9, "NON_FINITE_STATE")
    outcomes = await asyncio.gather(session.step(1), session.step(1), return_exceptions=True)
    assert [type(each) for each in outcomes] == [NonFiniteState, SequenceMismatch]


async def test_a_copy_that_is_given_up_holds_nobody_up(client: Client, servicer: FakeServicer) -> None:
    """Steps behind it are sent at once, though those before have no outcome yet."""
    session = await client.open_session("level", id="a")
    servicer.pause_at["a"] = 0
    first, fork = asyncio.ensure_future(session.step(1)), asyncio.ensure_future(session.fork())
    behind = asyncio.ensure_future(session.step(1))
    await servicer.until(lambda: len(servicer.seen("block")) == 1)
    fork.cancel()
    await servicer.until(lambda: len(servicer.seen("block")) == 2)
    servicer.release()
    assert [(await each)["count"][0] for each in (first, behind)] == [1, 2]


async def test_a_step_after_one_that_was_applied_late_follows_it(client: Client, servicer: FakeServicer) -> None:
    """Nobody heard of the answer, but the step counts."""
    session = await client.open_session("level", id="a")
    servicer.paused = True
    with pytest.raises(DeadlineExceeded):
        await session.step(1, timeout=0.05)
    after = asyncio.ensure_future(session.step(1))
    await asyncio.sleep(0)
    servicer.release()
    assert (await after)["count"] == [2]


async def test_a_group_goes_on_after_one_of_its_sessions_ran_out_of_time(client: Client, servicer: FakeServicer) -> None:
    """All wait for the one whose outcome is not known."""
    async with client.open_sessions("level", 2, ids=["a", "b"]) as group:
        servicer.pause_at["b"] = 0
        servicer.failures["b", 0] = error(4, "DEADLINE_EXCEEDED")
        with pytest.raises(GroupError):
            await group.step(np.ones(2), timeout=0.05)
        after = asyncio.ensure_future(group.step(np.ones(2)))
        await asyncio.sleep(0)
        servicer.release()
        assert (await after)["count"][:, 0].tolist() == [2, 1]


async def test_a_group_tells_whose_time_is_over(client: Client, servicer: FakeServicer) -> None:
    """The others' outputs are there, and stay as they are when late answers come."""
    async with client.open_sessions("level", 3, ids=["a", "b", "c"]) as group:
        servicer.pause_at["b"] = 0
        with pytest.raises(GroupError) as late:
            await group.step(np.ones(3), timeout=0.05)
        assert late.value.ok.tolist() == [True, False, True]
        assert {index: type(each) for index, each in late.value.errors.items()} == {1: DeadlineExceeded}
        assert late.value.outputs is not None
        servicer.release()
        assert (await group.step(np.ones(3)))["count"][:, 0].tolist() == [2, 2, 2]
        assert np.isnan(late.value.outputs["count"]).ravel().tolist() == [False, True, False]


@pytest.mark.parametrize("timeout", [0, -1.0, float("nan")])
async def test_a_limit_is_positive(client: Client, timeout: float) -> None:
    """And nothing is sent otherwise."""
    async with client.open_session("level") as session:
        with pytest.raises(InvalidArgument, match="timeout: expected a positive number"):
            await session.step(1, timeout=timeout)
        assert session.next_seq == 0
