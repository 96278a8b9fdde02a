"""Sessions as things: looked at, stepped one by one, copied, moved and closed by calls of their own."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from stepstream import (
    Client,
    ClientOptions,
    GroupError,
    InvalidArgument,
    SecretMismatch,
    SequenceMismatch,
    SequencePassed,
    SessionDetached,
    SessionExists,
    SessionInUse,
    SessionMoved,
    SessionNotFound,
    SnapshotCorrupt,
    Unavailable,
)
from stepstream_proto.v1 import session_pb2
from support.servicer import FakeServicer, error


async def test_a_session_can_be_looked_at_without_being_held(client: Client, servicer: FakeServicer) -> None:
    """The record has every field of the contract, times in seconds."""
    session = await client.open_session("level", id="a")
    await session.step(1.0)
    info = await client.get_session("level", "a")
    assert (info.model, info.version, info.id, info.quarantined, info.next_seq, info.acked) == ("level", 1, "a", False, 1, 0)
    assert (info.age, info.idle, info.idle_ttl, info.attached, info.slot, info.pending_steps) == (2.5, 1.0, 600.0, True, 3, 0)
    with pytest.raises(SessionNotFound):
        await client.get_session("level", "b")


async def test_listing_asks_for_the_next_page_when_one_is_used_up(client: Client, servicer: FakeServicer) -> None:
    """However small the pages, each session comes once; nothing is asked for before it is wanted."""
    await client.open_sessions("level", 5, ids=list("abcde"))
    await client.open_session("pairs", id="f")
    pages = client.list_sessions("level", page_size=2)
    assert (await anext(aiter(pages))).id == "a"
    assert len(servicer.unary.calls) == 1
    assert [each.id async for each in pages] == list("bcde")
    assert [each.page_token for each in servicer.unary.calls if isinstance(each, session_pb2.ListSessionsRequest)] == [
        "",
        "2",
        "4",
    ]
    assert [each.id async for each in client.list_sessions()] == list("abcdef")


async def test_a_session_is_closed_by_id(client: Client, servicer: FakeServicer) -> None:
    """Whoever has the secret, or anybody while no stream holds it."""
    session = await client.open_session("level", id="a")
    await session.step(1.0)
    with pytest.raises(SessionInUse):
        await client.close_session("level", "a")
    with pytest.raises(SecretMismatch):
        await client.close_session("level", "a", secret=b"wrong")
    await session.detach()
    assert await client.close_session("level", "a") == 1
    assert not servicer.sessions


async def test_single_steps_need_no_session_object(client: Client, servicer: FakeServicer) -> None:
    """Values and outputs are those of a session's step, and a repeated number does not move the state."""
    session = await client.open_session("mixed", id="a")
    await session.detach()
    outputs = await client.step("mixed", "a", {"a": [0.5], "token": 3}, seq=0)
    assert {name: array.tolist() for name, array in outputs.items()} == {"total": [3.5, -3.5], "count": [1]}
    assert outputs["total"].dtype == "float32"
    again = await client.step("mixed", "a", {"a": [0.5], "token": 3}, seq=0)
    assert again["count"] == [1]
    assert (await client.step("mixed", "a", {"a": 1, "token": 0}, version=1))["count"] == [2]
    with pytest.raises(SequenceMismatch):
        await client.step("mixed", "a", {"a": 1, "token": 0}, seq=7)


# Forks ---------------------------------------------------------------------------------------------------------------


async def test_a_fork_goes_on_from_where_its_original_stands(client: Client, servicer: FakeServicer) -> None:
    """Afterwards neither knows of the other; the fork is the client's own."""
    session = await client.open_session("level")
    await session.step(5.0)
    async with await session.fork(ids=["twin"]) as fork:
        assert (fork.id, fork.next_seq, fork.secret) == ("twin", 1, b"secret of twin")
        assert (await fork.step(2.0))["total"][0] == 7
        assert (await session.step(1.0))["total"][0] == 6
    assert "twin" not in servicer.sessions


async def test_a_fork_begins_between_the_calls_around_it(client: Client, servicer: FakeServicer) -> None:
    """Of calls that overlap, those begun before the fork are part of it, more than a window of them, and those after are not."""
    session = await client.open_session("level")
    chunk, fork, step = await asyncio.gather(session.chunk([1.0] * 20), session.fork(), session.step(100.0))
    assert (chunk["count"][-1], step["total"][0]) == ([20], 120)
    assert fork.next_seq == 20
    assert (await fork.step(1.0))["total"][0] == 21


async def test_a_fork_behind_a_failure_is_not_made(client: Client, servicer: FakeServicer) -> None:
    """Like a step behind a failed one, it fails, and the session can be used on."""
    session = await client.open_session("level", id="a")
    servicer.failures["a", 0] = error(9, "NON_FINITE_INPUT")
    step, fork = asyncio.ensure_future(session.step(1.0)), asyncio.ensure_future(session.fork())
    with pytest.raises(SequenceMismatch):
        await fork
    assert step.exception() is not None
    assert list(servicer.sessions) == ["a"]
    assert (await (await session.fork()).step(1.0))["count"] == [1]


async def test_a_cancelled_fork_lets_the_session_go_on(client: Client, servicer: FakeServicer) -> None:
    """Whether it waits for steps or for the server, what is behind it is sent once nobody waits for it."""
    session = await client.open_session("level")
    servicer.paused = True
    first = asyncio.ensure_future(session.step(1.0))
    fork = asyncio.ensure_future(session.fork())
    second = asyncio.ensure_future(session.step(1.0))
    await servicer.until(lambda: len(servicer.seen("block")) == 1)
    fork.cancel()
    servicer.release()
    assert [(await first)["count"][0], (await second)["count"][0]] == [1, 2]
    assert len(servicer.sessions) == 1


async def test_a_session_forks_into_a_group(client: Client, servicer: FakeServicer) -> None:
    """All or none are made."""
    session = await client.open_session("level", id="a")
    await session.step(1.0)
    async with await session.fork(3, ids=["x", "y", "z"]) as group:
        assert [each.id for each in group] == ["x", "y", "z"]
        assert (await group.step([1.0, 2.0, 3.0]))["total"][:, 0].tolist() == [2, 3, 4]
        with pytest.raises(GroupError) as refused:
            await session.fork(2, ids=["new", "x"])
        assert isinstance(refused.value.errors[1], SessionExists)
        with pytest.raises(SessionExists):
            await session.fork(ids=["x"])
        assert sorted(servicer.sessions) == ["a", "x", "y", "z"]
    assert list(servicer.sessions) == ["a"]


async def test_a_fork_can_insist_on_where_it_begins(client: Client) -> None:
    """`at` names a count of steps: behind it and before it are errors of their own."""
    session = await client.open_session("level")
    await session.chunk([1.0, 1.0])
    assert (await session.fork(at=2)).next_seq == 2
    with pytest.raises(SequencePassed):
        await session.fork(at=1)
    with pytest.raises(SequenceMismatch):
        await session.fork(at=3)


async def test_sessions_of_others_are_forked_by_id(client: Client, servicer: FakeServicer) -> None:
    """Without the secret while no stream holds them, with it always; pending steps are waited for."""
    session = await client.open_session("level", id="a")
    with pytest.raises(SessionInUse):
        await client.fork_session("level", "a")
    servicer.paused = True
    step = asyncio.ensure_future(session.step(4.0))
    await servicer.until(lambda: servicer.sessions["a"].pending == 1)
    fork = asyncio.ensure_future(client.fork_session("level", "a", secret=session.secret, at=1))
    group = asyncio.ensure_future(client.fork_session("level", "a", 2, secret=session.secret))
    await servicer.until(lambda: len(servicer.unary.calls) == 3)
    servicer.release()
    await servicer.tell()
    await step
    assert (await (await fork).step(1.0))["total"][0] == 5
    assert [each.next_seq for each in await group] == [1, 1]


# Snapshots -----------------------------------------------------------------------------------------------------------


async def test_an_exported_session_goes_on_elsewhere(client: Client, servicer: FakeServicer) -> None:
    """Steps called before are in the snapshot, later ones are not; the import says whether its bits are the same."""
    session = await client.open_session("level", id="a")
    step, snapshot, later = await asyncio.gather(session.step(5.0), session.export(), session.step(1.0))
    assert (step["total"][0], later["total"][0]) == (5, 6)
    async with client.import_session(snapshot, id="b") as copy:
        assert (copy.id, copy.next_seq, copy.bitwise) == ("b", 1, True)
        assert (await copy.step(2.0))["total"][0] == 7
    other = await client.import_session(snapshot.replace(b'"fake"', b'"elsewhere"'), id="c")
    assert (other.bitwise, session.bitwise) == (False, None)
    assert sorted(servicer.sessions) == ["a", "c"]


async def test_moving_ends_the_session_here(client: Client, servicer: FakeServicer) -> None:
    """After an export that closes, calls behind it say where the session is, and its id is free."""
    session = await client.open_session("level", id="a")
    await session.step(5.0)
    snapshot, behind = await asyncio.gather(session.export(close=True), session.step(1.0), return_exceptions=True)
    assert isinstance(behind, SessionMoved)
    assert isinstance(snapshot, bytes)
    await session.close()
    moved = await client.import_session(snapshot)
    assert (moved.id, (await moved.step(1.0))["total"][0]) == ("a", 6)


async def test_answers_that_nobody_received_travel_with_the_snapshot(client: Client, servicer: FakeServicer) -> None:
    """Importing with `acked` and repeating the inputs from there gives them without moving the state twice."""
    session = await client.open_session("level", id="a")
    servicer.losing = True
    lost = asyncio.ensure_future(session.chunk([1.0, 2.0]))
    await servicer.until(lambda: servicer.sessions["a"].next_seq == 2)
    snapshot = await client.export_session("level", "a", secret=session.secret, close=True)
    with pytest.raises(SessionMoved):
        await lost
    servicer.losing = False
    async with client.import_session(snapshot, acked=0) as moved:
        assert moved.next_seq == 0
        assert (await moved.chunk([1.0, 2.0]))["total"][:, 0].tolist() == [1, 3]
        assert servicer.sessions["a"].next_seq == 2


async def test_export_by_id_may_be_of_an_earlier_holder(client: Client) -> None:
    """The rules of who may are those of forking, and damaged bytes are told from good ones."""
    session = await client.open_session("level", id="a")
    with pytest.raises(SessionInUse):
        await client.export_session("level", "a")
    await session.detach()
    with pytest.raises(SessionDetached):
        await session.export()
    snapshot = await client.export_session("level", "a")
    with pytest.raises(SessionExists):
        await client.import_session(snapshot)
    with pytest.raises(SnapshotCorrupt):
        await client.import_session(b"not a snapshot")


# Answers that are lost -----------------------------------------------------------------------------------------------


@pytest.fixture
async def hasty(address: str) -> AsyncIterator[Client]:
    """A client that tries again without much of a pause."""
    async with Client(address, ClientOptions(reconnect_first_seconds=0.001)) as connected:
        yield connected


async def test_copies_whose_answer_was_lost_are_made_once(hasty: Client, servicer: FakeServicer) -> None:
    """The call is made again under its name, and answered as the first time."""
    session = await hasty.open_session("level", id="a")
    await session.step(1.0)
    for calls, copy in enumerate((session.fork(), session.fork(ids=["b"]), session.export(close=True)), 1):
        servicer.unary.lose_answers = 2
        made = await copy
        assert len(servicer.unary.calls) == 3 * calls
    assert isinstance(made, bytes)
    servicer.unary.lose_answers = 1
    moved = await hasty.import_session(made)
    assert (moved.id, moved.next_seq, len(servicer.sessions)) == ("a", 1, 3)
    names = [call.request_id for call in servicer.unary.calls if hasattr(call, "request_id")]
    assert (len(names), len(set(names))) == (11, 4)


async def test_a_step_whose_answer_was_lost_is_repeated_by_number_only(hasty: Client, servicer: FakeServicer) -> None:
    """With a number the call is made again and the state moves once; without one, the caller hears of it."""
    await (await hasty.open_session("level", id="a")).detach()
    servicer.unary.lose_answers = 1
    assert (await hasty.step("level", "a", 1.0, seq=0))["count"] == [1]
    servicer.unary.lose_answers = 1
    with pytest.raises(Unavailable):
        await hasty.step("level", "a", 1.0)
    assert (await hasty.get_session("level", "a")).next_seq == 2


# Arguments -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "call"),
    [
        ("version", lambda client: client.open_session("level", version=-1)),
        ("version", lambda client: client.attach_session("level", "a", b"", version=0)),
        ("version", lambda client: client.model("level", -1)),
        ("version", lambda client: client.get_session("level", "a", version=-1)),
        ("version", lambda client: client.close_session("level", "a", version=2**32)),
        ("acked", lambda client: client.attach_session("level", "a", b"", acked=-1)),
        ("acked", lambda client: client.import_session(b"", acked=-1)),
        ("idle_ttl", lambda client: client.open_session("level", idle_ttl=math.nan)),
        ("idle_ttl", lambda client: client.open_session("level", idle_ttl=-1)),
        ("idle_ttl", lambda client: client.open_sessions("level", 2, idle_ttl=math.inf)),
        ("count", lambda client: client.open_sessions("level", 0)),
        ("count", lambda client: client.fork_session("level", "a", 0)),
        ("ids", lambda client: client.open_sessions("level", 2, ids=["a"])),
        ("ids", lambda client: client.fork_session("level", "a", ids=["a", "b"])),
        ("at", lambda client: client.fork_session("level", "a", at=-1)),
        ("at", lambda client: client.export_session("level", "a", at=-1)),
        ("seq", lambda client: client.step("level", "a", 1.0, seq=-1)),
        ("page_size", lambda client: anext(client.list_sessions(page_size=0))),
    ],
)
async def test_arguments_are_checked_before_anything_is_sent(
    client: Client, servicer: FakeServicer, field: str, call: Callable[[Client], Any]
) -> None:
    """The error names the field, and is both this package's and a ValueError."""
    with pytest.raises(InvalidArgument, match=f"^{field}: expected") as wrong:
        await call(client)
    assert isinstance(wrong.value, ValueError)
    assert not servicer.received
    assert not servicer.unary.calls


# Steps for web handlers ---------------------------------------------------------------------------------------------


async def test_a_step_opens_its_session_where_it_is_asked_to(client: Client, servicer: FakeServicer) -> None:
    """The first time; nobody holds it, and it has the idle time that was given."""
    with pytest.raises(SessionNotFound):
        await client.step("level", "a", 1.0)
    for total in (1.0, 2.0):
        assert (await client.step("level", "a", 1.0, open=True, idle_ttl=60))["total"][0] == total
    opened = [each for each in servicer.unary.calls if isinstance(each, session_pb2.OpenSessionRequest)]
    assert [(each.id, each.version, each.idle_ttl.ToTimedelta().total_seconds()) for each in opened] == [("a", 1, 60.0)]
    assert servicer.sessions["a"].stream is None


async def test_of_two_who_open_at_once_both_step(client: Client, servicer: FakeServicer) -> None:
    """Whoever comes second finds the session open."""
    answers = await asyncio.gather(*[client.step("level", "a", 1.0, open=True) for _ in range(5)])
    assert sorted(answer["count"][0] for answer in answers) == [1, 2, 3, 4, 5]


async def test_a_step_does_not_open_what_it_cannot_stand_for(client: Client, servicer: FakeServicer) -> None:
    """A step that is not the first of a new session fails as in one that was opened by hand."""
    with pytest.raises(SequenceMismatch):
        await client.step("level", "a", 1.0, seq=7, open=True)
    assert servicer.sessions["a"].next_seq == 0


async def test_the_newest_version_is_asked_for_once_a_minute(
    client: Client, servicer: FakeServicer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not with every step; a step that names a version asks once for ever."""
    for _ in range(3):
        await client.step("level", "a", 1.0, open=True)
    assert servicer.versions_asked == [0]
    monkeypatch.setattr("stepstream._service.NEWEST_SECONDS", 0.0)
    await client.step("level", "a", 1.0)
    await client.step("level", "a", 1.0, version=1)
    assert servicer.versions_asked == [0, 0]
