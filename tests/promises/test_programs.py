"""Promises of programs over real gRPC: a row at which the graph fails harms nobody else, rollouts are steps on their own outputs,
and sessions are copied with states of every dtype."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from stepstream import Client, GroupError, InputOutOfRange, InvalidArgument, ModelFailed, SessionQuarantined
from stepstream_server.app import Bound
from stepstream_server.bundles import write_program
from stepstream_server.spec import StateSpec
from support.graphs import counting, floats, graph, program
from support.promised import write_model
from support.server import serving

SESSIONS, STEPS = 9, 8
ONE_PATH: Any = {"paths": 1, "temperature": 0.0}


@pytest.fixture
async def bound(tmp_path: Path) -> AsyncIterator[Bound]:
    """A server of two programs: `counting` fails at the input 13, `soft` predicts its own input."""
    write_program(tmp_path / "counting", *counting("counting"))
    write_model(tmp_path / "soft", "program", 1, 9, predicts=True)
    async with serving(tmp_path) as bound:
        yield bound


async def test_a_row_at_which_the_graph_fails_harms_nobody_else(bound: Bound) -> None:
    """Its session is quarantined with the reason, the others get their sums, and a reset heals it."""
    async with Client(bound.listen) as client, await client.open_sessions("counting", SESSIONS) as group:
        values = np.arange(1, SESSIONS + 1, dtype=np.int32)[:, None]
        sums = 100 + values
        assert (await group.step(values))["y"].tolist() == sums.tolist()
        bad = values.copy()
        bad[4] = 13
        with pytest.raises(GroupError) as caught:
            await group.step(bad)
        assert list(caught.value.errors) == [4]
        assert isinstance(caught.value.errors[4], ModelFailed)
        others = np.arange(SESSIONS) != 4
        assert caught.value.outputs is not None
        assert caught.value.outputs["y"][others].tolist() == (sums + values)[others].tolist()
        with pytest.raises(GroupError) as caught:
            await group.step(values)
        assert [type(error) for error in caught.value.errors.values()] == [SessionQuarantined]
        await group.reset()
        assert (await group.step(values))["y"].tolist() == sums.tolist()


async def test_rollouts_are_steps_on_ones_own_outputs(bound: Bound) -> None:
    """Bit for bit, with and without a prompt, alone and beside others that step and roll."""
    prompts = [np.random.default_rng(each).uniform(-1, 1, (each, 1)).astype(np.float32) for each in range(1, 12)]
    async with Client(bound.listen) as client:
        expected = [await stepped(client, prompt) for prompt in prompts]
        async with await client.open_session("soft") as session:
            with pytest.raises(InvalidArgument, match="expected at least one step, since the state is the initial one"):
                await session.forecast(STEPS, **ONE_PATH)
            rolls = [session.forecast(STEPS, prompt=prompt, **ONE_PATH) for prompt in prompts]
            found = await asyncio.gather(*rolls, *(stepped(client, prompt) for prompt in prompts))
            await session.chunk(prompts[-1])
            found.append(await session.forecast(STEPS, **ONE_PATH))
    assert [each.tobytes() for each in found] == [each.tobytes() for each in (*expected, *expected, expected[-1])]


async def stepped(client: Client, prompt: NDArray[np.float32]) -> NDArray[np.float32]:
    """A session's outputs behind a prompt, each of which is its next input: [STEPS, 1]."""
    async with await client.open_session("soft") as session:
        drawn = [(await session.chunk(prompt))["y"][-1]]
        while len(drawn) < STEPS:
            drawn.append((await session.step(drawn[-1]))["y"])
    return np.array(drawn)


async def test_draws_are_clipped_to_the_range_of_the_input(tmp_path: Path) -> None:
    """A program that doubles its input may say so up to its range, and is then fed the range itself."""
    text = "g (float[B,1] x, float[B,1] h) => (float[B,1] y, float[B,1] hn) { y = Add(x, x) hn = Identity(h) }"
    spec = program([floats("x", 1, range=10.0)], [StateSpec("h", (1,))], [floats("y", 1)], predicts="x", name="doubling")
    write_program(tmp_path / "doubling", spec, graph(text).SerializeToString())
    async with serving(tmp_path) as bound, Client(bound.listen) as client, await client.open_session("doubling") as session:
        drawn = await session.forecast(6, prompt=np.array([[1.0]], np.float32), **ONE_PATH)
        assert drawn.ravel().tolist() == [2, 4, 8, 10, 10, 10]
        with pytest.raises(InputOutOfRange):
            await session.step(10.5)
        assert (await session.step(10.0))["y"].item() == 20


async def test_sessions_are_copied_with_states_of_every_dtype(bound: Bound, tmp_path: Path) -> None:
    """Forked, exported and imported elsewhere: each goes on with the sums that the original would have had."""
    folder = tmp_path / "elsewhere"
    write_program(folder / "counting", *counting("counting"))
    async with Client(bound.listen) as client, await client.open_session("counting") as session:
        await session.chunk([[1], [2], [3]])
        async with await session.fork() as fork:
            assert (await fork.step(5))["y"].item() == 111
        snapshot = await session.export()
        assert (await session.step(7))["y"].item() == 113
        async with serving(folder) as other, Client(other.listen) as there, await there.import_session(snapshot) as moved:
            assert moved.next_seq == 3
            assert (await moved.step(7))["y"].item() == 113
