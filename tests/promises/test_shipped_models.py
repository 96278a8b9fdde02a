"""The models that are shipped, and the voice activity detector that is fetched, served together: a session's bits are its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio
from numpy.typing import NDArray
from programs.fetch import SILERO
from programs.published import VAD

from benchmarks.inputs import random_inputs
from stepstream import Client, Session
from stepstream_server.bundles import load
from support.published import require
from support.server import serving

MODELS = Path(__file__).parents[2] / "models"
SHIPPED = sorted(path.name for path in MODELS.iterdir())
SESSIONS, STEPS = 64, 6


def _inputs(folder: Path, rng: np.random.Generator) -> NDArray[np.generic]:
    """Steps of many sessions, [SESSIONS, STEPS, *shape]."""
    (tensor,) = load(folder).spec.inputs
    return random_inputs(rng, (SESSIONS, STEPS, *tensor.shape), tensor.limit, tensor.range)


async def _alone(client: Client, model: str, steps: NDArray[np.generic]) -> dict[str, NDArray[np.float32]]:
    """Answers of a session that is stepped by itself, as it lives."""
    async with client.open_session(model) as session:
        answers = [await session.step(step) for step in steps]
    return {name: np.stack([answer[name] for answer in answers]) for name in answers[0]}


@pytest_asyncio.fixture
async def client(tmp_path: Path) -> AsyncIterator[Client]:
    """Of a server of all of them; the detector is there where it was fetched."""
    for name in SHIPPED:
        (tmp_path / name).symlink_to(MODELS / name)
    if VAD.path.is_file():
        VAD.bundle(tmp_path / "vad")
    async with serving(tmp_path) as bound, Client(bound.listen) as connected:
        yield connected


@pytest.mark.parametrize("model", [*SHIPPED, "vad"])
async def test_a_session_among_many_is_one_alone_to_the_bit(client: Client, tmp_path: Path, model: str) -> None:
    """Sixty-four sessions are stepped by one block each time; some of them again, each by itself."""
    if model == "vad":
        require(SILERO)
    inputs = _inputs(tmp_path / model, np.random.default_rng(7))
    async with client.open_sessions(model, SESSIONS) as group:
        together = [await group.step(inputs[:, step]) for step in range(STEPS)]
    for row in range(0, SESSIONS, 9):
        for name, found in (await _alone(client, model, inputs[row])).items():
            assert found.tobytes() == np.stack([each[name][row] for each in together]).tobytes()


async def test_all_of_them_are_stepped_at_once(client: Client, tmp_path: Path) -> None:
    """Sessions of all models on one client's stream: none gets another answer than it gets alone."""
    names = [model.name for model in await client.models()]
    inputs = {name: _inputs(tmp_path / name, np.random.default_rng(8))[0] for name in names}
    alone = {name: await _alone(client, name, steps) for name, steps in inputs.items()}
    sessions: dict[str, Session] = {name: await client.open_session(name) for name in names}
    for step in range(STEPS):
        answers = await asyncio.gather(*(session.step(inputs[name][step]) for name, session in sessions.items()))
        for name, answer in zip(sessions, answers, strict=True):
            assert all(answer[each].tobytes() == found[step].tobytes() for each, found in alone[name].items())
