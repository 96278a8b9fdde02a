"""Copies of sessions, single steps and the blocking client against the real server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from stepstream import (
    Client,
    GroupError,
    ModelMismatch,
    SequenceMismatch,
    SequencePassed,
    SessionCapacity,
    SessionExists,
    SessionInUse,
    SessionMoved,
    SnapshotCorrupt,
    sync,
)
from stepstream_server.bundles import write
from support.models import random_model
from support.server import serving

STEPS = 60
CAPACITY = 12
SETTINGS = {"engine": {"window_steps": 8, "capacity": CAPACITY}}


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """`numbers` takes x [3] and gives y [2]."""
    write(tmp_path / "numbers", *random_model("lstm", 3, 16, 1, 2, seed=3, name="numbers"))
    return tmp_path


@pytest.fixture
async def address(models: Path) -> AsyncIterator[str]:
    """A whole server."""
    async with serving(models, **SETTINGS) as bound:
        yield bound.listen


@pytest.fixture
async def client(address: str) -> AsyncIterator[Client]:
    """A client of it."""
    async with Client(address) as connected:
        yield connected


@pytest.fixture
def readings() -> NDArray[np.float32]:
    """[STEPS, 3]."""
    return np.random.default_rng(5).normal(size=(STEPS, 3)).astype(np.float32)


@pytest.fixture
async def expected(client: Client, readings: NDArray[np.float32]) -> NDArray[np.float32]:
    """What one session gives that is stepped through all readings, [STEPS, 2]."""
    async with client.open_session("numbers") as session:
        return np.asarray((await session.chunk(readings))["y"])


async def test_a_fork_taken_among_overlapping_calls_has_the_originals_bits(
    client: Client, readings: NDArray[np.float32], expected: NDArray[np.float32]
) -> None:
    """It begins where the calls around it say, whatever is in flight, and both go on as if alone."""
    async with client.open_session("numbers") as session:
        first, fork, rest = await asyncio.gather(session.chunk(readings[:30]), session.fork(), session.chunk(readings[30:]))
        assert fork.next_seq == 30
        branch = await fork.chunk(readings[30:])
        assert np.array_equal(np.concatenate([first["y"], rest["y"]]), expected)
        assert np.array_equal(branch["y"], expected[30:])
        await fork.close()


async def test_a_group_of_forks_is_made_wholly_or_not_at_all(client: Client, readings: NDArray[np.float32]) -> None:
    """Ids in use and a full server are told per fork, and nothing is left behind."""
    async with client.open_session("numbers", id="a") as session:
        with pytest.raises(GroupError) as refused:
            await session.fork(2, ids=["b", "a"])
        assert isinstance(refused.value.errors[1], SessionExists)
        with pytest.raises(GroupError) as refused:
            await session.fork(CAPACITY)
        assert {type(each) for each in refused.value.errors.values()} == {SessionCapacity}
        assert [each.id async for each in client.list_sessions("numbers", page_size=1)] == ["a"]
        async with await session.fork(CAPACITY - 1) as group:
            outputs = await group.step(np.repeat(readings[:1], CAPACITY - 1, 0))
            assert np.array_equal(outputs["y"], np.repeat((await session.step(readings[0]))["y"][np.newaxis], CAPACITY - 1, 0))
            assert len([each async for each in client.list_sessions(page_size=5)]) == CAPACITY


async def test_a_session_moves_to_another_server_with_its_bits(
    client: Client, models: Path, readings: NDArray[np.float32], expected: NDArray[np.float32]
) -> None:
    """It ends here, goes on there under its id, and its holder hears where it is."""
    async with serving(models, **SETTINGS) as elsewhere, Client(elsewhere.listen) as other:
        session = await client.open_session("numbers", id="a")
        before, snapshot = await asyncio.gather(session.chunk(readings[:20]), session.export(close=True))
        with pytest.raises(SessionMoved):
            await session.step(readings[0])
        async with other.import_session(snapshot) as moved:
            assert (moved.id, moved.next_seq, moved.bitwise) == ("a", 20, True)
            after = await moved.chunk(readings[20:])
            assert np.array_equal(np.concatenate([before["y"], after["y"]]), expected)
            with pytest.raises(SessionExists):
                await other.import_session(snapshot)
        with pytest.raises(SnapshotCorrupt):
            await other.import_session(snapshot[:-1])


async def test_other_weights_are_refused(client: Client, tmp_path: Path) -> None:
    """A snapshot is of one model, whatever the name."""
    write(tmp_path / "other" / "numbers", *random_model("lstm", 3, 16, 1, 2, seed=4, name="numbers"))
    async with client.open_session("numbers") as session:
        snapshot = await session.export()
    async with serving(tmp_path / "other") as elsewhere, Client(elsewhere.listen) as other:
        with pytest.raises(ModelMismatch):
            await other.import_session(snapshot)


async def test_single_steps_and_records_agree_with_a_held_session(
    client: Client, readings: NDArray[np.float32], expected: NDArray[np.float32]
) -> None:
    """The unary step gives the stream's bits, and what can be known of a session is true."""
    async with client.open_session("numbers", id="a", idle_ttl=30.0) as session:
        await session.chunk(readings[:2])
        with pytest.raises(SessionInUse):
            await client.step("numbers", "a", readings[2])
        stepped = await client.step("numbers", "a", readings[2], seq=2, secret=session.secret)
        again = await client.step("numbers", "a", readings[2], seq=2, secret=session.secret)
        assert np.array_equal(stepped["y"], expected[2])
        assert np.array_equal(again["y"], expected[2])
        info = await client.get_session("numbers", "a")
        assert (info.next_seq, info.attached, info.pending_steps, info.idle_ttl) == (3, True, 0, 30.0)
        assert 0 <= info.idle <= info.age
        with pytest.raises(SequencePassed):
            await client.fork_session("numbers", "a", secret=session.secret, at=2)
        with pytest.raises(SequenceMismatch):
            await client.export_session("numbers", "a", secret=session.secret, at=9)
        assert await client.close_session("numbers", "a", secret=session.secret) == 3
        assert await client.close_session("numbers", "a") == 0


async def test_the_blocking_client_gives_the_same_bits(
    address: str, readings: NDArray[np.float32], expected: NDArray[np.float32]
) -> None:
    """It is the same client underneath."""

    def work() -> None:
        with sync.Client(address) as client, client.open_session("numbers") as session:
            streamed = [outputs["y"] for outputs in session.stream(readings)]
            assert np.array_equal(streamed, expected)
            session.reset()
            assert np.array_equal([outputs["y"] for outputs in session.stream(iter(readings))], expected)
            with session.fork() as fork:
                assert fork.next_seq == 2 * STEPS + 1

    await asyncio.to_thread(work)
