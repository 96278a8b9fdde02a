"""What a client tells of its connection: events, logs, `connected`, and the streams that many sessions need."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from stepstream import Client, ClientOptions, ConnectionEvent, ConnectionLost, sync
from support.background import in_background
from support.events import until_kind
from support.servicer import QUICK, FakeServicer, serving


@pytest.fixture
def options() -> ClientOptions:
    """Of a client that loses no time."""
    return QUICK


async def test_a_loss_is_told_step_by_step(client: Client, servicer: FakeServicer, address: str) -> None:
    """Connected, lost with the reason, connected anew, and what was sent again for how many sessions."""
    seen: list[ConnectionEvent] = []
    events = client.events()
    reading = asyncio.ensure_future(until_kind(_noting(events, seen), "replayed"))
    async with client.open_sessions("level", 3) as group:
        servicer.paused = True
        step = asyncio.ensure_future(group.step(np.ones(3)))
        await servicer.until(lambda: len(servicer.seen("block")) == 1)
        servicer.cut_streams()
        replayed = await reading
        servicer.release()
        await step
    assert [event.kind for event in seen] == ["connected", "lost", "connected", "replayed"]
    assert (replayed.sessions, replayed.steps, replayed.address) == (3, 3, address)
    assert seen[1].error is not None and seen[1].error.message == "cut"


async def _noting(events: AsyncIterator[ConnectionEvent], seen: list[ConnectionEvent]) -> AsyncIterator[ConnectionEvent]:
    async for event in events:
        seen.append(event)
        yield event


async def test_connected_says_whether_the_server_answers(client: Client, servicer: FakeServicer) -> None:
    """Not before there is a session, nor while the stream is broken."""
    assert not client.connected
    lost = asyncio.ensure_future(until_kind(client.events(), "lost"))
    session = await client.open_session("level")
    assert client.connected
    servicer.cut_streams()
    await lost
    assert not client.connected
    await session.step(1)
    assert client.connected


async def test_events_end_with_the_client(address: str) -> None:
    """Also for one who has not read them all."""
    async with Client(address) as client:
        events = client.events()
        first = asyncio.ensure_future(anext(events))
        await client.open_session("level")
        assert (await first).kind == "connected"
    assert [event async for event in events] == []


async def test_one_who_reads_slowly_loses_the_oldest_events(client: Client) -> None:
    """Never memory, nor the newest."""
    journal = client._service.journal
    events = client.events()
    first = asyncio.ensure_future(anext(events))
    await asyncio.sleep(0)
    for sessions in range(2001):
        journal.note("connected", sessions)
    assert (await first).sessions == 1001
    assert (await anext(events)).sessions == 1002


async def test_what_it_gives_up_is_logged(address: str, servicer: FakeServicer, caplog: pytest.LogCaptureFixture) -> None:
    """By the logger `stepstream`, losses as warnings, the end as an error; a client that is closed is no news."""
    with caplog.at_level(logging.INFO, "stepstream"):
        async with Client(address, ClientOptions(reconnect_seconds=0)) as client:
            session = await client.open_session("level")
            servicer.cut_streams()
            with pytest.raises(ConnectionLost):
                await session.step(1)
        async with Client(address) as client, client.open_session("level"):
            pass
    told = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert told == [
        ("INFO", f"{address} connected (1 sessions)"),
        ("ERROR", f"{address} ended (1 sessions): the stream to the server has ended: cut"),
        ("INFO", f"{address} connected (1 sessions)"),
    ]


def test_nothing_is_logged_unless_the_program_asks_for_it() -> None:
    """Not even warnings and errors, which Python would print of a library that did not see to it."""
    script = """
import sys
from stepstream import ClientOptions, ConnectionLost, sync
client = sync.Client(sys.argv[1], ClientOptions(connect_seconds=0.01, reconnect_first_seconds=0.001))
try:
    client.open_session("level")
except ConnectionLost:
    print("lost")
"""
    ended = subprocess.run([sys.executable, "-c", script, "127.0.0.1:1"], capture_output=True, text=True, timeout=60)
    assert (ended.stdout, ended.stderr) == ("lost\n", "")


def test_the_blocking_client_tells_too() -> None:
    """By an iterator that waits, in whichever thread."""
    with in_background(serving(FakeServicer())) as server, sync.Client(server.value) as client, ThreadPoolExecutor(1) as thread:
        first = thread.submit(next, client.events())
        with client.open_session("level"):
            assert client.connected
        assert first.result().kind == "connected"


# Many sessions ------------------------------------------------------------------------------------------------------


async def test_sessions_beyond_a_streams_bound_get_another_stream(address: str, servicer: FakeServicer) -> None:
    """Each of a name of its own, since a newer stream of one name would end the older; room that was left is used again."""
    async with Client(address, ClientOptions(max_sessions_per_stream=3)) as client:
        sessions = [await client.open_session("level", id=f"s{index}") for index in range(7)]
        names = [dict(metadata)["stepstream-client"] for metadata in servicer.metadata]
        assert len(set(names)) == len(names) == 3
        answers = await asyncio.gather(*[session.step(index) for index, session in enumerate(sessions)])
        assert [answer["total"][0] for answer in answers] == list(range(7))
        await sessions[1].close()
        assert (await (await client.open_session("level", id="s7")).step(5))["total"][0] == 5
        assert len(servicer.metadata) == 3


async def test_a_group_larger_than_the_bound_has_a_stream_for_itself(address: str, servicer: FakeServicer) -> None:
    """A group is one message, and the server may well allow more than the client assumes."""
    async with Client(address, ClientOptions(max_sessions_per_stream=3)) as client:
        await client.open_session("level")
        group = await client.open_sessions("level", 5)
        assert (await group.step(np.ones(5)))["count"][:, 0].tolist() == [1] * 5
        assert len(servicer.metadata) == 2
