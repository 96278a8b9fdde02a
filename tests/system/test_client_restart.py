"""A client whose server goes away under it and comes back: killed, or stopped in peace, always with traffic under way."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import numpy as np
import pytest

from stepstream import Client, ClientOptions, GroupError, SessionGroup, SessionLost, StepStreamError
from support.process import server_process

QUICK = ClientOptions(reconnect_first_seconds=0.01, reconnect_most_seconds=0.2)


async def step_until_it_ends(client: Client, going: asyncio.Event) -> StepStreamError:
    """Steps a session as fast as it goes. Returns what ended it."""
    session = await client.open_session("small")
    try:
        while True:
            await asyncio.gather(*(session.step([1, 2]) for _ in range(5)))
            going.set()
    except StepStreamError as error:
        return error


async def stream_until_it_ends(group: SessionGroup) -> StepStreamError:
    """Streams through the first session of a group, and chunks through all. Returns what ended them."""
    try:
        while True:
            async for _ in group[0].stream(np.ones((50, 2))):
                pass
            await group.chunk(np.ones((len(group), 30, 2)))
    except GroupError as error:  # it was a chunk that met the end: each session tells the same
        (_,) = {(type(each), each.reason) for each in error.errors.values()}
        return error.errors[0]
    except StepStreamError as error:
        return error


async def traffic(client: Client) -> list[asyncio.Task[StepStreamError]]:
    """Twenty sessions stepping one by one and a group of twenty, all of them under way."""
    going = [asyncio.Event() for _ in range(20)]
    tasks = [asyncio.create_task(step_until_it_ends(client, each)) for each in going]
    group = await client.open_sessions("small", 20)
    await asyncio.gather(*(each.wait() for each in going))
    return [*tasks, asyncio.create_task(stream_until_it_ends(group))]


async def check_anew(client: Client, ended: list[StepStreamError]) -> None:
    """Every session has ended for want of its state, and the same client opens others."""
    assert {(type(error), error.reason) for error in ended} == {(SessionLost, "SESSION_LOST")}
    async with asyncio.timeout(30), client.open_session("small") as session:
        assert len(await session.step([1, 2])) == 1
    assert [model.name for model in await client.models()] == ["small"]


@pytest.mark.timeout(120)
async def test_a_killed_server_that_comes_back_has_lost_its_sessions(models: Path) -> None:
    """Who waits is told so as soon as it is back, and the same client goes on with new sessions."""
    async with server_process(models) as server, Client(server.listen, QUICK) as client:
        tasks = await traffic(client)
        server.process.kill()
        await server.ended()
        opening = asyncio.create_task(step_until_it_ends(client, asyncio.Event()))  # while there is no server
        async with server_process(models, "--listen", server.listen) as successor:
            async with asyncio.timeout(60):
                await check_anew(client, await asyncio.gather(*tasks))
            assert not opening.done()
            successor.process.send_signal(signal.SIGTERM)
            assert (await successor.ended())[0] == 0
        opening.cancel()
        await asyncio.wait([opening])


@pytest.mark.timeout(120)
async def test_a_server_that_is_stopped_in_peace_and_replaced(models: Path) -> None:
    """What it had taken is answered, it ends well though its clients go on, and they find its successor."""
    async with server_process(models) as server, Client(server.listen, QUICK) as client:
        tasks = await traffic(client)
        server.process.send_signal(signal.SIGTERM)
        await client.draining.wait()
        assert (await server.ended())[0] == 0
        async with server_process(models, "--listen", server.listen), asyncio.timeout(60):
            await check_anew(client, await asyncio.gather(*tasks))


@pytest.mark.timeout(120)
async def test_a_server_that_does_not_come_back_is_given_up(models: Path) -> None:
    """No call hangs: all end with an error of this package that says why."""
    options = ClientOptions(reconnect_seconds=0.3, reconnect_first_seconds=0.01)
    async with server_process(models) as server, Client(server.listen, options) as client:
        tasks = await traffic(client)
        server.process.kill()
        ended = await asyncio.gather(*tasks)
        assert {error.code.name for error in ended} == {"UNAVAILABLE"}
        with pytest.raises(StepStreamError):
            await client.open_session("small")
