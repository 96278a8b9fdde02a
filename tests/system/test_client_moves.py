"""Sessions with steps and rollouts under way, moved off a server that was told to stop: all of them, once, to the bit."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from stepstream import Client, ClientOptions, Session
from support.process import ServerProcess, server_process
from support.server import close_sessions

MODELS = Path(__file__).parents[2] / "models"
STEPS = 20  # of each session, one after the other; half way a rollout in its place, if it has one
DRAWS = 30

Course = list[NDArray[np.float32]]


def readings(number: int) -> NDArray[np.float32]:
    """[STEPS, 1]: what session `number` is fed."""
    return np.random.default_rng(number).normal(size=(STEPS, 1)).astype(np.float32)


async def live(session: Session, number: int, begun: asyncio.Semaphore) -> Course:
    """One session's life: every output and every draw. Every fourth session has a rollout among its steps."""
    told: Course = []
    for place, reading in enumerate(readings(number)):
        if place == STEPS // 2 and number % 4 == 0:
            told.append(np.concatenate([piece async for piece in session.generate(max_steps=DRAWS, seed=number)]))
        told.append((await session.step(reading))["next"])
        if place == 3:
            begun.release()
    return told


async def lives(client: Client, count: int, mover: Client | None, server: ServerProcess | None) -> tuple[list[Course], int]:
    """All sessions' lives, and how many of them were moved: while they go on, the server is told to stop."""
    begun = asyncio.Semaphore(0)
    sessions = [await client.open_session("ecg", id=f"s{number}") for number in range(count)]
    tasks = [asyncio.create_task(live(session, number, begun)) for number, session in enumerate(sessions)]
    moved = 0
    if server is not None and mover is not None:
        leaving = asyncio.create_task(leave(client, sessions, mover))
        for _ in range(count):
            await begun.acquire()
        server.process.send_signal(signal.SIGTERM)
        moved = await leaving
    return await asyncio.gather(*tasks), moved


async def leave(client: Client, sessions: list[Session], mover: Client) -> int:
    """What an application does that waits for a drain. Returns how many sessions it moved."""
    await client.draining.wait()
    await client.move(sessions, to=mover)
    return sum(session.bitwise is True for session in sessions)


@pytest.fixture(params=[1, 20, 100, 500])
def count(request: pytest.FixtureRequest, long_run: bool) -> int:
    """Of sessions: twenty of them for every change."""
    if request.param != 20 and not long_run:
        pytest.skip("with --long")
    return int(request.param)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("workers", [0, 2])
async def test_sessions_are_moved_while_they_go_on(count: int, workers: int) -> None:
    """Each answer is that of a session that was never moved, and the server that was left ends well."""
    options = ClientOptions(call_timeout_seconds=120)
    async with (
        server_process(MODELS, "--workers", "0") as successor,
        server_process(MODELS, "--workers", str(workers)) as server,
        Client(server.listen, options) as client,
        Client(successor.listen, options) as mover,
    ):
        told, moved = await lives(client, count, mover, server)
        assert moved == count
        code, log = await server.ended()
        assert code == 0
        assert '"sessions_lost": 0' in log
        await mover.close()
        await close_sessions(successor.listen)
        async with Client(successor.listen, options) as undisturbed:
            expected, _ = await lives(undisturbed, count, None, None)
    for course, reference in zip(told, expected, strict=True):
        for got, want in zip(course, reference, strict=True):
            np.testing.assert_array_equal(got.view(np.uint32), want.view(np.uint32))
