"""The client against the real server: what both promise, seen from outside."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from stepstream import (
    Client,
    ClientOptions,
    ConnectionLost,
    GroupError,
    InputOutOfRange,
    ModelNotFound,
    SecretMismatch,
    ServerDraining,
    SessionCapacity,
    SessionClosed,
    SessionExists,
    SessionTaken,
    StepStreamError,
)
from stepstream_server.app import Bound, serve
from stepstream_server.bundles import write
from stepstream_server.config import Settings
from support.models import random_model
from support.server import serving

STEPS = 60
CAPACITY = 20
SETTINGS = {"engine": {"window_steps": 8, "capacity": CAPACITY}}  # windows as small as in the tests with a fake


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """`numbers` takes x [3], `tokens` an id below 11; they give y [2] and y [11]."""
    for name, outputs, tokens in (("numbers", 2, 0), ("tokens", 11, 11)):
        write(tmp_path / name, *random_model("lstm", 3, 16, 1, outputs, seed=3, tokens=tokens, name=name))
    return tmp_path


@pytest.fixture
async def real(models: Path) -> AsyncIterator[Client]:
    """A client of a whole server."""
    async with serving(models, **SETTINGS) as bound, Client(bound.listen) as client:
        yield client


def readings(sessions: int = 1) -> NDArray[np.float32]:
    """[sessions, STEPS, 3]."""
    return np.random.default_rng(5).normal(size=(sessions, STEPS, 3)).astype(np.float32)


async def test_every_way_to_step_gives_the_same_bits(real: Client) -> None:
    """Single steps, chunks, streams and groups are one mechanism."""
    values = readings(4)
    async with real.open_session("numbers") as session:
        expected = np.array([(await session.step(value))["y"] for value in values[0]])
        await session.reset()
        assert np.array_equal((await session.chunk(values[0]))["y"], expected)
        await session.reset()
        assert np.array_equal([each["y"] async for each in session.stream(values[0])], expected)
        await session.reset()
        concurrent = await asyncio.gather(*(session.step(value) for value in values[0]))
        assert np.array_equal([each["y"] for each in concurrent], expected)
        await session.reset()
        assert np.array_equal((await session.chunk(values[0], outputs="last"))["y"][0], expected[-1])
    async with real.open_sessions("numbers", 4) as group:
        whole = (await group.chunk(values))["y"]
        await group.reset()
        stepped = np.stack([(await group.step(values[:, step]))["y"] for step in range(STEPS)], 1)
        assert np.array_equal(whole, stepped)
        assert np.array_equal(whole[0], expected)


async def test_a_cut_connection_costs_nothing(models: Path) -> None:
    """Whenever the connection breaks, attaching again and repeating the inputs gives the answers of an unbroken session."""
    values = readings()[0]
    async with serving(models, **SETTINGS) as bound, Client(bound.listen) as second:
        async with second.open_session("numbers") as session:
            expected = (await session.chunk(values))["y"]
        for turns in (0, 1, 3, 10):
            async with Client(bound.listen) as first:
                session = await first.open_session("numbers")
                begun = (await session.chunk(values[:10]))["y"]
                lost = asyncio.ensure_future(session.chunk(values[10:]))
                for _ in range(turns):
                    await asyncio.sleep(0)
            with pytest.raises(ConnectionLost) as cut:
                await lost
            assert cut.value.outputs is not None
            received = np.concatenate([begun, cut.value.outputs["y"]])
            assert len(received) == session.acked
            attaching = second.attach_session("numbers", session.id, session.secret, acked=session.acked)
            async with attaching as again:
                rest = (await again.chunk(values[session.acked :]))["y"]
            assert np.array_equal(np.concatenate([received, rest]), expected)


async def test_a_taken_session_goes_on_with_its_new_holder(real: Client) -> None:
    """Whoever has the secret takes over at once; the former holder is told and does not close it."""
    async with real.open_session("numbers") as session:
        await session.step([1, 2, 3])
        taken = await real.attach_session("numbers", session.id, session.secret)
        with pytest.raises(SessionTaken):
            await session.step([1, 2, 3])
    await taken.step([1, 2, 3])
    assert taken.next_seq == 2
    await taken.close()
    with pytest.raises(SessionClosed):
        await real.attach_session("numbers", session.id, session.secret)


async def test_refusals_arrive_as_their_classes(real: Client) -> None:
    """Unary and in-band errors of the real server are the exceptions that callers know."""
    with pytest.raises(ModelNotFound):
        await real.model("none")
    with pytest.raises(ModelNotFound):
        await real.open_session("none")
    session = await real.open_session("numbers", id="mine")
    with pytest.raises(SessionExists):
        await real.open_session("numbers", id="mine")
    with pytest.raises(SecretMismatch):
        await real.attach_session("numbers", "mine", b"wrong")
    with pytest.raises(GroupError) as full:
        await real.open_sessions("numbers", CAPACITY + 1)
    assert {type(each) for each in full.value.errors.values()} == {SessionCapacity}
    assert all(each.retry_delay for each in full.value.errors.values())
    await session.close()
    async with real.open_sessions("numbers", CAPACITY):
        pass


async def test_tokens_are_integers(real: Client) -> None:
    """A model of token ids is stepped by plain integers."""
    async with real.open_session("tokens") as session:
        stepped = [(await session.step(token))["y"] for token in (1, 10, 3)]
        with pytest.raises(InputOutOfRange):
            await session.step(11)
        await session.reset()
        assert np.array_equal((await session.chunk([1, 10, 3]))["y"], stepped)


async def test_models_say_what_they_take(real: Client) -> None:
    """The record is the server's declaration."""
    info = await real.model("tokens")
    assert (info.inputs[0].dtype.name, info.inputs[0].shape, info.inputs[0].limit) == ("int64", (), 11)
    assert (info.cell, info.window_steps) == ("lstm", 8)
    assert [each.name for each in await real.models()] == ["numbers", "tokens"]


async def test_a_stopping_server_tells_its_clients(models: Path) -> None:
    """Drain reaches the client before the stream ends, and what is under way is answered."""
    options = {"models": models, "listen": "127.0.0.1:0", "metrics": "127.0.0.1:0", "door": {"drain_seconds": 5.0}}
    stop = asyncio.Event()
    started: asyncio.Future[Bound] = asyncio.get_running_loop().create_future()
    server = asyncio.create_task(serve(Settings.model_validate(options), stop=stop, on_started=started.set_result))
    async with Client((await started).listen, ClientOptions(reconnect_seconds=0)) as client:
        session = await client.open_session("numbers")
        steps = [asyncio.ensure_future(session.step(value)) for value in readings()[0]]
        await steps[0]
        stop.set()
        await client.draining.wait()
        await asyncio.gather(*steps[:8])
        with pytest.raises(ServerDraining):
            await client.open_session("numbers")
        await asyncio.gather(*steps, return_exceptions=True)
    assert await server == 0


async def test_who_streams_without_pause_hears_that_the_server_has_stopped(models: Path) -> None:
    """However reading and writing cross the stream's end, each waiting call ends with an error, and none is left for the log."""
    options = {"models": models, "listen": "127.0.0.1:0", "metrics": "127.0.0.1:0", "door": {"drain_seconds": 5.0}}
    stop = asyncio.Event()
    started: asyncio.Future[Bound] = asyncio.get_running_loop().create_future()
    server = asyncio.create_task(serve(Settings.model_validate(options), stop=stop, on_started=started.set_result))
    logged: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: logged.append(context))
    address = (await started).listen
    async with asyncio.timeout(20), Client(address, ClientOptions(reconnect_seconds=0)) as client:
        chunked, streamed = await client.open_session("numbers"), await client.open_session("numbers")
        chunk = asyncio.ensure_future(chunked.chunk(np.zeros((200_000, 3), np.float32), outputs="last"))
        with pytest.raises(StepStreamError):
            async for _ in streamed.stream(np.zeros((1_000_000, 3), np.float32)):
                stop.set()
        with pytest.raises(StepStreamError):
            await chunk
        with pytest.raises(StepStreamError):
            while True:
                await chunked.step(np.zeros(3))
    assert await server == 0
    gc.collect()
    assert not logged
