"""Groups: one call, one block, errors by session."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from stepstream import (
    Client,
    ClientOptions,
    GroupError,
    InvalidInput,
    NonFiniteState,
    SessionCapacity,
    SessionExists,
    SessionExpired,
    SessionQuarantined,
)
from stepstream_proto.v1 import inference_pb2
from support.servicer import FakeServicer, error

FAILED_PRECONDITION = 9


async def test_a_group_is_stepped_by_one_message(client: Client, servicer: FakeServicer) -> None:
    """All sessions' inputs and all their answers travel together."""
    async with client.open_sessions("pairs", 100) as group:
        values = np.arange(200, dtype=np.float32).reshape(100, 2)
        for turn in (1, 2):
            outputs = await group.step(values)
            assert (outputs["total"].shape, outputs["count"].shape) == ((100, 2), (100, 1))
            assert np.array_equal(outputs["total"][:, 0], turn * values.sum(1))
            assert len(servicer.seen("block")) == turn
    assert servicer.sessions == {}
    assert len(servicer.seen("detach")) == 1


@pytest.mark.parametrize("pieces", [0, 2])
@pytest.mark.parametrize("steps", [1, 5, 21])
@pytest.mark.parametrize("outputs", ["all", "last", "none"])
async def test_a_group_takes_chunks(client: Client, servicer: FakeServicer, pieces: int, steps: int, outputs: str) -> None:
    """Chunks of all lengths come back as [sessions, steps kept, ...], in one piece or cut."""
    servicer.pieces = pieces
    async with client.open_sessions("level", 3) as group:
        values = np.random.default_rng(0).integers(0, 9, (3, steps, 1)).astype(float)
        result = (await group.chunk(values, outputs=outputs))["total"][..., 0]  # type: ignore[arg-type]
        sums = np.cumsum(values[..., 0], 1)
        expected = {"all": sums, "last": sums[:, -1:], "none": sums[:, :0]}[outputs]
        assert np.array_equal(result, expected)


async def test_a_group_larger_than_a_message_travels_in_several(address: str, servicer: FakeServicer) -> None:
    """The limit of steps per message holds for groups too."""
    async with Client(address, ClientOptions(max_block_steps=4)) as client, client.open_sessions("level", 10) as group:
        assert (await group.step(np.arange(10)))["total"][:, 0].tolist() == list(range(10))
        assert [len(block.handles) // 4 for block in servicer.seen("block")] == [4, 4, 2]


async def test_a_groups_steps_overlap_up_to_the_window(client: Client, servicer: FakeServicer) -> None:
    """More calls than the window holds wait and are answered in order."""
    async with client.open_sessions("level", 4) as group:
        calls = await asyncio.gather(*(group.step(np.ones(4)) for _ in range(20)))
        assert [call["count"][:, 0].tolist() for call in calls] == [[count] * 4 for count in range(1, 21)]


async def test_members_are_sessions(client: Client) -> None:
    """A member can be stepped alone, in order with the group's steps."""
    async with client.open_sessions("level", 3, ids=["a", "b", "c"]) as group:
        together, alone, again = await asyncio.gather(group.step([1, 1, 1]), group[1].step(5), group.step([1, 1, 1]))
        assert alone["total"][0] == 6
        assert again["total"][:, 0].tolist() == [2, 7, 2]
        assert together["total"][:, 0].tolist() == [1, 1, 1]
        assert [session.id for session in group] == ["a", "b", "c"]
        assert len(group) == 3


async def test_a_group_can_be_reset(client: Client, servicer: FakeServicer) -> None:
    """All states start over, by one message."""
    async with client.open_sessions("level", 3) as group:
        await group.step([1, 2, 3])
        await group.reset()
        assert (await group.step([1, 2, 3]))["total"][:, 0].tolist() == [1, 2, 3]
        assert len(servicer.seen("reset")) == 1


async def test_failures_are_told_by_session_with_the_others_outputs(client: Client, servicer: FakeServicer) -> None:
    """One session's failure takes nothing from the others: their states move on and their outputs are in the error."""
    async with client.open_sessions("level", 3, ids=["a", "b", "c"]) as group:
        servicer.failures["b", 0] = error(FAILED_PRECONDITION, "NON_FINITE_STATE", "state of b")
        with pytest.raises(GroupError, match="1 of 3 sessions failed; first, at index 1: state of b") as failed:
            await group.step([1, 2, 3])
        assert {index: type(each) for index, each in failed.value.errors.items()} == {1: NonFiniteState}
        assert failed.value.ok.tolist() == [True, False, True]
        assert failed.value.outputs is not None
        np.testing.assert_array_equal(failed.value.outputs["total"][:, 0], [1, np.nan, 3])
        assert [session.next_seq for session in group] == [1, 0, 1]
        assert (await group.step([1, 2, 3]))["total"][:, 0].tolist() == [2, 2, 6]


async def test_a_chunks_failure_keeps_what_was_answered_before_it(client: Client, servicer: FakeServicer) -> None:
    """The steps before a failure have outputs, those from it on are not a number."""
    async with client.open_sessions("level", 2, ids=["a", "b"]) as group:
        servicer.failures["b", 2] = error(FAILED_PRECONDITION, "NON_FINITE_STATE")
        with pytest.raises(GroupError) as failed:
            await group.chunk(np.ones((2, 4)))
        assert failed.value.outputs is not None
        np.testing.assert_array_equal(failed.value.outputs["count"][..., 0], [[1, 2, 3, 4], [1, 2, np.nan, np.nan]])


async def test_failures_can_be_picked_by_class(client: Client, servicer: FakeServicer) -> None:
    """`except*` sees the members' own errors, and each part knows its indices."""
    async with client.open_sessions("level", 3, ids=["a", "b", "c"]) as group:
        servicer.failures["c", 0] = error(FAILED_PRECONDITION, "SESSION_QUARANTINED")
        servicer.end_session("a", inference_pb2.DETACH_REASON_SESSION_EXPIRED)
        picked: dict[type[Exception], list[int]] = {}
        try:
            await group.step([1, 2, 3])
        except* SessionExpired as expired:
            assert isinstance(expired, GroupError)
            picked[SessionExpired] = list(expired.errors)
        except* SessionQuarantined as quarantined:
            assert isinstance(quarantined, GroupError)
            picked[SessionQuarantined] = list(quarantined.errors)
        assert picked == {SessionExpired: [0], SessionQuarantined: [2]}
        with pytest.raises(GroupError) as again:
            await group.step([1, 2, 3])
        assert again.value.ok.tolist() == [False, True, True]


async def test_opening_a_group_is_all_or_nothing(client: Client, servicer: FakeServicer) -> None:
    """If some sessions are refused, the others are closed again and the error says which were refused."""
    await client.open_session("level", id="b")
    with pytest.raises(GroupError) as refused:
        await client.open_sessions("level", 3, ids=["a", "b", "c"])
    assert {index: type(each) for index, each in refused.value.errors.items()} == {1: SessionExists}
    assert set(servicer.sessions) == {"b"}
    servicer.capacity = 2
    with pytest.raises(GroupError) as full:
        await client.open_sessions("level", 3)
    assert {type(each) for each in full.value.errors.values()} == {SessionCapacity}
    with pytest.raises(ValueError, match="at least 1"):
        client.open_sessions("level", 0)
    with pytest.raises(ValueError, match="expected 2, got 1"):
        client.open_sessions("level", 2, ids=["a"])


async def test_inputs_of_a_group_need_a_row_per_session(client: Client, servicer: FakeServicer) -> None:
    """Another number of rows is refused before anything is sent."""
    async with client.open_sessions("pairs", 3) as group:
        with pytest.raises(InvalidInput, match=r"'x': expected float32 \[3, 2\], got float64 \[2, 2\]"):
            await group.step(np.ones((2, 2)))
        with pytest.raises(InvalidInput, match=r"expected float32 \[3, steps, 2\], got float64 \[3, 2\]"):
            await group.chunk(np.ones((3, 2)))
        assert servicer.seen("block") == []


async def test_a_cancelled_group_call_leaves_the_group_usable(client: Client, servicer: FakeServicer) -> None:
    """What was sent is applied."""
    servicer.paused = True
    async with client.open_sessions("level", 3) as group:
        call = asyncio.ensure_future(group.step(np.ones(3)))
        await servicer.until(lambda: len(servicer.seen("block")) == 1)
        call.cancel()
        servicer.release()
        assert (await group.step(np.ones(3)))["count"][:, 0].tolist() == [2, 2, 2]
