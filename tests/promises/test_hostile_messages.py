"""Malformed messages to every call, by a seed: each is answered or refused, and nobody else notices."""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray

from stepstream import Client, Session
from stepstream_server.rpc.boundary import Boundary, Handler
from support.front_door import front_door
from support.hostile.malformed import Case, Malformed
from support.hostile.methods import offered
from support.hostile.models import SMALL, opened, write_models
from support.hostile.sending import Sender
from support.hostile.watched import MIB, calm, watched

ROUNDS = 5  # after each, what was opened by accident is closed
MESSAGES, MANY_MESSAGES = 20_000, 200_000
GROWTH = 64 * MIB  # of all processes after the first round
HONEST = "honest"
FAULT = re.compile('stepstream_rpc_handled_total{.*code="(INTERNAL|UNKNOWN)".*')  # in the metrics
READINGS = np.random.default_rng(0).normal(size=(64, 1)).astype(np.float32)  # which the honest session is stepped with in turn


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a model of numbers and one of tokens."""
    return write_models(tmp_path_factory.mktemp("models"))


async def test_no_call_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Malformed messages go to every call that the server registers, streams as streams."""
    served: set[tuple[str, str, bool, bool]] = set()
    register = Boundary.add_registered_method_handlers

    def note(boundary: Boundary, service: str, handlers: dict[str, Handler]) -> None:
        served.update((service, name, each.request_streaming, each.response_streaming) for name, each in handlers.items())
        register(boundary, service, handlers)

    monkeypatch.setattr(Boundary, "add_registered_method_handlers", note)
    async with front_door():
        pass
    assert {(each.service, each.name, each.client_streams, each.server_streams) for each in offered()} == served


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("workers", [0, 2])
async def test_malformed_messages_harm_nobody(models: Path, tmp_path: Path, workers: int, long_run: bool) -> None:
    """No process ends, no call or row is told of a fault of the server's, nothing goes wrong in the log, memory stays, an honest
    session beside them has the outputs that it has alone, and nothing is left behind."""
    each_round = (MANY_MESSAGES if long_run else MESSAGES) // 2 // ROUNDS
    flags = ["--workers", str(workers), "--engine.capacity", "2000", "--log.format", "json"]
    async with (
        watched(models, tmp_path / "log", *flags) as attacked,
        grpc.aio.insecure_channel(attacked.server.listen) as channel,
        Client(attacked.server.listen) as client,
    ):
        sender = Sender(attacked.server.listen)
        session = await client.open_session(SMALL, id=HONEST)
        memory: list[int] = []
        async with stepping(session) as outputs:
            for seed in range(ROUNDS):
                malformed = Malformed(2 * seed + bool(workers), offered(), await opened(channel))
                await sender.send(cases(malformed, sender, (seed + 1) * each_round))
                assert not sender.wrong, "\n\n".join(sender.wrong[:3])
                await attacked.close_sessions(keep=[HONEST])
                memory.append(attacked.resident())
        await session.close()
        await attacked.at_rest()
        assert not [name for name in await attacked.metrics() if FAULT.fullmatch(name)]
        assert attacked.lives()
        assert memory[-1] < memory[0] + GROWTH
        assert outputs
        assert np.array_equal(np.array(outputs), await alone(client, len(outputs)))
        await client.close()
        calm(await attacked.ended_well())
    assert sender.by_method.keys() == {method.path for method in offered()}
    assert {"OK", "INVALID_ARGUMENT", "NOT_FOUND"} <= sender.codes.keys()


def cases(malformed: Malformed, sender: Sender, until: int) -> Iterator[Case]:
    """Makes cases until so many messages have been sent."""
    for number in itertools.count():
        if sender.messages >= until:
            return
        yield malformed.case(number)


@asynccontextmanager
async def stepping(session: Session) -> AsyncIterator[list[NDArray[np.float32]]]:
    """Steps a session until the block ends, one step after the other; yields its outputs, [1] each, which grow."""
    outputs: list[NDArray[np.float32]] = []
    done = asyncio.Event()

    async def step() -> None:
        while not done.is_set():
            outputs.append((await session.step(READINGS[len(outputs) % len(READINGS)]))["y"])

    steps = asyncio.create_task(step())
    try:
        yield outputs
    finally:
        done.set()
        await steps


async def alone(client: Client, steps: int) -> NDArray[np.float32]:
    """Outputs of a session with nobody beside it: [steps, 1]."""
    readings = READINGS[np.arange(steps) % len(READINGS)]
    async with client.open_session(SMALL) as session:
        return np.concatenate([(await session.chunk(each))["y"] for each in np.array_split(readings, steps // 500 + 1)])
