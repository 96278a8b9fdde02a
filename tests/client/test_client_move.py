"""Sessions that go on at another server, while it stops or because somebody wants it, with all that is under way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest

from stepstream import (
    Client,
    ClientOptions,
    ConnectionLost,
    GroupError,
    InvalidArgument,
    SequencePassed,
    SessionClosed,
    SessionExists,
    SessionMoved,
    WindowFull,
    sync,
)
from support.background import Background, in_background
from support.events import until_kind
from support.servicer import QUICK, FakeServicer, error, rolling_models, serving

UNAVAILABLE = 14


@pytest.fixture
def options() -> ClientOptions:
    """Of a client that loses no time."""
    return QUICK


@pytest.fixture
async def successor() -> AsyncIterator[FakeServicer]:
    """The other server's side."""
    servicer = FakeServicer()
    yield servicer
    assert servicer.broken_rules == []


@pytest.fixture
async def other(successor: FakeServicer) -> AsyncIterator[Client]:
    """A client of the other server."""
    async with serving(successor) as address, Client(address, QUICK) as connected:
        yield connected


async def test_a_session_goes_on_elsewhere_under_its_id(
    client: Client, servicer: FakeServicer, other: Client, successor: FakeServicer
) -> None:
    """The object stays; it is gone here, and its secret is another one."""
    session, stays = await client.open_session("level", id="a"), await client.open_session("level", id="b")
    await session.chunk([1, 2])
    successor.new_session("x", successor.models["level"])  # so that handles and ids are others there
    await client.move([session], to=other)
    assert (await session.step(3))["total"][0] == 6
    assert (session.id, session.next_seq, session.bitwise) == ("a", 3, True)
    assert ("a" in servicer.sessions, successor.sessions["a"].next_seq) == (False, 3)
    assert (await stays.step(1))["count"][0] == 1
    await session.close()
    assert "a" not in successor.sessions


async def test_what_waits_while_a_server_drains_is_answered_by_the_other(
    client: Client, servicer: FakeServicer, other: Client, successor: FakeServicer
) -> None:
    """What the old one refused, what was not sent, and a fork in its place among them; each step once."""

    async def leave() -> None:
        await client.draining.wait()
        await client.move([session], to=other)

    left = asyncio.ensure_future(until_kind(client.events(), "left"))
    session = await client.open_session("level", id="a")
    leaving = asyncio.ensure_future(leave())
    servicer.failures["a", 1] = error(UNAVAILABLE, "SERVER_DRAINING")
    steps = [asyncio.ensure_future(session.step(1)) for _ in range(12)]  # more than the window of 8
    fork = asyncio.ensure_future(session.fork())
    steps.append(asyncio.ensure_future(session.step(1)))
    assert (await steps[0])["count"] == [1]
    servicer.announce_drain()
    await leaving
    assert [(await step)["count"][0] for step in steps] == list(range(1, 14))
    assert ((await fork).next_seq, successor.sessions["a"].next_seq) == (12, 13)
    await left  # nobody holds the old server's stream any more


async def test_a_stream_is_held_until_all_its_sessions_have_gone(
    client: Client, servicer: FakeServicer, other: Client, successor: FakeServicer
) -> None:
    """One by one, by whatever way: moved, exported with `close`, closed, detached."""
    left = asyncio.ensure_future(until_kind(client.events(), "left"))
    sessions = [await client.open_session("level") for _ in range(4)]
    draining = asyncio.ensure_future(client.draining.wait())
    await asyncio.sleep(0)
    servicer.announce_drain()
    await draining
    await client.move(sessions[:1], to=other)
    await other.import_session(await sessions[1].export(close=True))
    await sessions[2].close()
    assert len(servicer.streams) == 1
    await sessions[3].detach()
    await left
    assert len(successor.sessions) == 2


async def test_without_anybody_who_waits_a_stream_is_let_go_at_once(client: Client, servicer: FakeServicer) -> None:
    """Once nothing is under way; the next one attaches its sessions."""
    session = await client.open_session("level", id="a")
    servicer.paused = True
    step = asyncio.ensure_future(session.step(1))
    await servicer.until(lambda: len(servicer.seen("block")) == 1)
    servicer.announce_drain()
    servicer.release()
    await step
    await servicer.until(lambda: len(servicer.seen("attach")) == 1)


async def test_a_group_moves_as_a_whole_or_in_part(
    client: Client, servicer: FakeServicer, other: Client, successor: FakeServicer
) -> None:
    """Its calls reach each session wherever it is."""
    async with client.open_sessions("level", 3, ids=["a", "b", "c"]) as group:
        await client.move(group[:1], to=other)
        assert (await group.step([1, 2, 3]))["total"][:, 0].tolist() == [1, 2, 3]
        assert sorted(servicer.sessions) == ["b", "c"]
        await client.move(group[1:], to=other)
        blocks = len(successor.seen("block"))
        assert (await group.step([1, 2, 3]))["total"][:, 0].tolist() == [2, 4, 6]
        assert len(successor.seen("block")) == blocks + 1  # one message for all, as before
    assert (servicer.sessions, successor.sessions) == ({}, {})


async def test_what_cannot_be_moved_stays_and_goes_on(
    client: Client, servicer: FakeServicer, other: Client, successor: FakeServicer
) -> None:
    """The error tells which by place; the others are there."""
    sessions = [await client.open_session("level", id=id) for id in "abc"]
    successor.new_session("b", successor.models["level"])
    with pytest.raises(GroupError) as some:
        await client.move(sessions, to=other)
    assert (list(some.value.errors), some.value.ok.tolist()) == ([1], [True, False, True])
    assert isinstance(some.value.errors[1], SessionExists)
    assert [(await session.step(1))["count"][0] for session in sessions] == [1, 1, 1]
    assert (list(servicer.sessions), sorted(successor.sessions)) == (["b"], ["a", "b", "c"])


async def test_a_server_with_smaller_windows_is_refused(client: Client, servicer: FakeServicer) -> None:
    """Rows that wait would never fit there; the copy is closed again."""
    small = FakeServicer(window_steps=4)
    async with serving(small) as address, Client(address) as other:
        session = await client.open_session("level", id="a")
        with pytest.raises(GroupError) as refused:
            await client.move([session], to=other)
        assert isinstance(refused.value.errors[0], WindowFull)
        assert (await session.step(1))["count"] == [1]
        assert small.sessions == {}


async def test_a_rollout_that_commits_ends_before_its_session_moves(
    client: Client, servicer: FakeServicer, other: Client, successor: FakeServicer
) -> None:
    """What it has drawn goes with the session."""
    for each in (servicer, successor):
        each.models |= rolling_models()
    session = await client.open_session("digits", id="a")
    rollout = session.generate([1, 2, 3, 4], max_steps=6)
    first = await anext(rollout)
    moving = asyncio.ensure_future(client.move([session], to=other))
    rest = [piece async for piece in rollout]
    await moving
    assert sum(map(len, [first, *rest])) == 6
    assert (session.next_seq, successor.sessions["a"].next_seq) == (10, 10)


async def test_a_fork_that_a_draining_server_refuses_is_made_by_the_other(
    client: Client, servicer: FakeServicer, other: Client, successor: FakeServicer
) -> None:
    """It keeps its place behind the move, whichever comes first, and a step behind it waits."""
    session = await client.open_session("level", id="a")
    await session.step(1)

    async def leave() -> None:
        await client.draining.wait()
        await client.move([session], to=other)

    leaving = asyncio.ensure_future(leave())
    await asyncio.sleep(0)
    servicer.unary.draining = True
    fork, behind = asyncio.ensure_future(session.fork(ids=["b"])), asyncio.ensure_future(session.step(1))
    await leaving
    assert ((await fork).next_seq, (await behind)["count"][0]) == (1, 2)
    assert (servicer.sessions, sorted(successor.sessions)) == ({}, ["a", "b"])


async def test_an_export_behind_a_fork_that_waits_holds_nobody_up(client: Client, servicer: FakeServicer) -> None:
    """The stream is let go, and both are made on the next one."""
    session = await client.open_session("level", id="a")
    draining = asyncio.ensure_future(client.draining.wait())
    await asyncio.sleep(0)
    servicer.announce_drain()
    await draining
    fork, export = asyncio.ensure_future(session.fork()), asyncio.ensure_future(session.export())
    assert ((await fork).next_seq, bool(await export)) == (0, True)


async def test_every_stream_is_held_while_sessions_of_any_move(address: str, servicer: FakeServicer, other: Client) -> None:
    """Those of the last one wait for their turn."""
    options = ClientOptions(reconnect_first_seconds=0.001, max_sessions_per_stream=1)
    async with Client(address, options) as client:
        sessions = [await client.open_session("level", id=f"s{index}") for index in range(40)]  # more than move at once
        draining = asyncio.ensure_future(client.draining.wait())
        await asyncio.sleep(0)
        servicer.announce_drain()
        await draining
        await client.move(sessions, to=other)
        assert [(await session.step(1))["count"][0] for session in sessions] == [1] * 40
        assert servicer.seen("attach") == []


async def test_waiting_for_a_drain_again_and_again_lets_others_run(client: Client, servicer: FakeServicer, other: Client) -> None:
    """Also while there is nothing left to be moved."""
    session = await client.open_session("level")

    async def keep_moving() -> None:
        while True:
            await client.draining.wait()
            await client.move([session], to=other)

    left = asyncio.ensure_future(until_kind(client.events(), "left"))
    moving = asyncio.ensure_future(keep_moving())
    await asyncio.sleep(0)
    servicer.announce_drain()
    await left
    moving.cancel()
    assert (await session.step(1))["count"] == [1]


async def test_a_session_that_moved_on_while_it_was_copied_stays(
    client: Client, servicer: FakeServicer, other: Client, successor: FakeServicer
) -> None:
    """What was refused for want of room is sent again as its stream breaks: the copy is too old by then."""
    session = await client.open_session("level", id="a")
    servicer.failures["a", 0] = error(8, "QUEUE_FULL", retry_delay_ms=60_000)
    step = asyncio.ensure_future(session.step(1))
    await servicer.until(lambda: len(servicer.seen("block")) == 1)
    servicer.unary.answering.clear()
    moving = asyncio.ensure_future(client.move([session], to=other))
    await servicer.until(lambda: servicer.unary.copies == 1)
    servicer.cut_streams()
    assert (await step)["count"] == [1]
    servicer.unary.answering.set()
    with pytest.raises(GroupError) as stays:
        await moving
    assert isinstance(stays.value.errors[0], SequencePassed)
    assert ((await session.step(1))["count"][0], successor.sessions) == (2, {})


async def test_two_moves_of_one_session_follow_each_other(
    client: Client, servicer: FakeServicer, other: Client, successor: FakeServicer
) -> None:
    """It ends up where the second one wants it, once."""
    third = FakeServicer()
    async with serving(third) as address, Client(address, QUICK) as last:
        session = await client.open_session("level", id="a")
        await session.step(1)
        await asyncio.gather(client.move([session, session], to=other), client.move([session], to=last))
        assert (await session.step(1))["count"] == [2]
        assert third.sessions["a"].next_seq == 2


async def test_a_move_that_is_given_up_leaves_nothing_behind(
    client: Client, servicer: FakeServicer, other: Client, successor: FakeServicer
) -> None:
    """The copy is closed as soon as it is there, so that the session can be moved later."""
    session = await client.open_session("level", id="a")
    successor.unary.answering.clear()
    moving = asyncio.ensure_future(client.move([session], to=other))
    await successor.until(lambda: successor.unary.copies == 1)
    moving.cancel()
    await asyncio.wait([moving])
    successor.unary.answering.set()
    assert (await session.step(1))["count"] == [1]
    await successor.until(lambda: not successor.sessions)
    await client.move([session], to=other)
    assert (await session.step(1))["count"] == [2]


async def test_only_its_own_sessions_are_moved_by_a_client(client: Client, other: Client) -> None:
    """Those that are there already are left as they are."""
    session = await client.open_session("level", id="a")
    async with Client("127.0.0.1:1") as stranger:
        with pytest.raises(InvalidArgument, match=r"sessions\[0\]: expected one of this client"):
            await stranger.move([session], to=other)
    await client.move([session], to=other)
    await client.move([session], to=other)
    assert (await session.step(1))["count"] == [1]


async def test_calls_under_way_hear_that_their_client_was_closed(client: Client, servicer: FakeServicer, other: Client) -> None:
    """Rather than that somebody had cancelled them."""
    session = await client.open_session("level")
    servicer.unary.answering.clear()
    calls = [
        asyncio.ensure_future(session.export()),
        asyncio.ensure_future(client.export_session("level", session.id, secret=session.secret)),
    ]
    await servicer.until(lambda: servicer.unary.copies == 2)
    await client.close()
    servicer.unary.answering.set()
    assert {type(each) for each in await asyncio.gather(*calls, return_exceptions=True)} == {ConnectionLost}


# The blocking twin --------------------------------------------------------------------------------------------------


@contextmanager
def blocking(servicer: FakeServicer) -> Iterator[tuple[Background[str], sync.Client]]:
    """A server on a thread of its own, and a blocking client of it."""
    with in_background(serving(servicer)) as server, sync.Client(server.value, QUICK) as client:
        yield server, client


def test_a_blocking_session_goes_on_with_the_other_client() -> None:
    """On that one's thread, so that this one may be closed; groups too."""
    servicer, successor = FakeServicer(), FakeServicer()
    with blocking(servicer) as (_, client), blocking(successor) as (_, other):
        move_and_go_on(client, other)
        assert (servicer.sessions, len(successor.sessions)) == ({}, 3)


def move_and_go_on(client: sync.Client, other: sync.Client) -> None:
    """A session and a group."""
    session, group = client.open_session("level", id="a"), client.open_sessions("level", 2)
    session.step(1)
    group.step([1, 2])
    client.move([session], to=other)
    client.move(group, to=other)
    client.close()
    assert (session.step(2)["total"][0], session.next_seq) == (3, 2)
    assert group.step(np.ones(2))["total"][:, 0].tolist() == [2, 3]


def test_a_blocking_group_is_found_wherever_its_sessions_are() -> None:
    """Moved one by one, it goes on once all are there; in between it says what is missing, and can be closed."""
    servicer, successor = FakeServicer(), FakeServicer()
    with blocking(servicer) as (_, client), blocking(successor) as (_, other):
        with client.open_sessions("level", 2) as group, client.open_sessions("level", 2, ids=["x", "y"]) as parted:
            client.move(group[:1], to=other)
            with pytest.raises(RuntimeError, match="move the others as well"):
                group.step([1, 2])
            client.move(group[1:], to=other)
            assert group.step([1, 2])["total"][:, 0].tolist() == [1, 2]
            client.move(parted[:1], to=other)
        assert (servicer.sessions, successor.sessions) == ({}, {})


def test_a_blocking_session_that_is_closed_while_it_moves_leaves_no_copy() -> None:
    """The move says why it failed."""
    servicer, successor = FakeServicer(), FakeServicer()
    with blocking(servicer) as (_, client), blocking(successor) as (second, other), ThreadPoolExecutor(1) as threads:
        session = client.open_session("level", id="a")
        second.call(successor.unary.answering.clear)
        moving = threads.submit(client.move, [session], to=other)
        second.wait(successor.until(lambda: successor.unary.copies == 1))
        session.close()
        second.call(successor.unary.answering.set)
        with pytest.raises(GroupError) as refused:
            moving.result()
        assert isinstance(refused.value.errors[0], SessionClosed)
        assert (servicer.sessions, successor.sessions) == ({}, {})


def test_blocking_calls_without_an_answer_are_told_that_the_session_has_moved() -> None:
    """They were not applied; made again on the same object they are, there."""
    servicer, successor = FakeServicer(), FakeServicer()
    servicer.failures["a", 0] = error(UNAVAILABLE, "SERVER_DRAINING")
    with blocking(servicer) as (server, client), blocking(successor) as (_, other), ThreadPoolExecutor(2) as threads:
        assert client.draining.wait(timeout=0.001) is False
        session = client.open_session("level", id="a")
        step, draining = threads.submit(session.step, 1), threads.submit(client.draining.wait)
        server.wait(servicer.until(lambda: len(servicer.seen("block")) == 1))
        server.call(servicer.announce_drain)
        assert draining.result() is True
        assert client.draining
        client.move([session], to=other)
        with pytest.raises(SessionMoved):
            step.result()
        assert session.step(1)["count"] == [1]
        assert successor.sessions["a"].next_seq == 1
