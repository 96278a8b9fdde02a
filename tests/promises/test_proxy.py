"""The client's promise: a connection that breaks costs nothing but time.

200 sessions of 500 steps each, through a network that cuts, delays, turns away and delivers late, against the same inputs
without one: every answer once, in order, the same to the last bit, and the server has applied no step twice.
"""

from __future__ import annotations

import asyncio
import itertools
import re
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from stepstream import Client, ClientOptions, Session, SessionGroup
from stepstream_server.app import Bound
from support.promised import write_model
from support.proxy import Mischief, proxied
from support.server import serving

CLIENTS, EACH, GROUP, STEPS, INPUTS = 4, 10, 20, 500, 2  # per client: EACH sessions of three kinds and a group
CUTS = 12  # of each client's connections
PATIENT = ClientOptions(reconnect_first_seconds=0.01, reconnect_most_seconds=0.1)
Array = NDArray[np.float32]


@dataclass
class Record:
    """One session's inputs, and what its caller heard: outputs by step, and before which steps it was reset."""

    inputs: Array  # [STEPS, INPUTS]
    heard: dict[int, Array] = field(default_factory=dict)
    resets: list[int] = field(default_factory=list)

    def hear(self, first: int, outputs: Array) -> None:
        """Outputs [n, 1] of steps from `first` on, which must be news, in order."""
        for step, output in enumerate(outputs, first):
            assert step > max(self.heard, default=-1)
            self.heard[step] = output


Way = Callable[[Session, Record, int, int, np.random.Generator], Awaitable[None]]


@pytest.fixture
async def server(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bound]:
    """A whole server of one small model."""
    write_model(tmp_path / "m", request.param, INPUTS, 16)
    async with serving(tmp_path) as bound:
        yield bound


@pytest.mark.timeout(120)
@pytest.mark.parametrize(("server", "clients"), [("lstm", CLIENTS), ("program", 1)], indirect=["server"])
@pytest.mark.parametrize("seed", [1])
async def test_a_broken_network_costs_nothing_but_time(server: Bound, clients: int, seed: int) -> None:
    """Whatever is cut and whenever: steps, chunks, streams, groups and resets give what they give without a network."""
    rng = np.random.default_rng(seed)
    sessions = clients * (3 * EACH + GROUP)
    records = [Record(rng.normal(size=(STEPS, INPUTS)).astype(np.float32)) for _ in range(sessions)]
    networks = [Mischief(CLIENTS * seed + number, cuts=CUTS, mean_bytes=20_000) for number in range(clients)]
    async with asyncio.TaskGroup() as tasks:
        shares = zip(np.array_split(np.arange(sessions), clients), rng.spawn(clients), networks, strict=True)
        for mine, own_rng, network in shares:
            tasks.create_task(drive(server.listen, network, [records[each] for each in mine], own_rng))
    assert await steps_applied(server) == sessions * STEPS
    assert sum(network.cuts_made for network in networks) > 7 * clients
    assert sum(network.haunted for network in networks) > 3 * clients // CLIENTS
    assert sum(network.turned_away for network in networks) > 2 * clients
    await compare(server, records)


async def drive(address: str, network: Mischief, records: list[Record], rng: np.random.Generator) -> None:
    """One client with all its sessions at once, behind a network of its own."""
    async with proxied(address, network) as behind, Client(behind, PATIENT) as client, asyncio.TaskGroup() as tasks:
        rngs = rng.spawn(3 * EACH + 1)
        for index, record in enumerate(records[: 3 * EACH]):
            tasks.create_task(drive_one(client, (step, chunk, stream)[index % 3], record, rngs[index]))
        tasks.create_task(drive_group(client, records[3 * EACH :], rngs[-1]))


async def drive_one(client: Client, way: Way, record: Record, rng: np.random.Generator) -> None:
    """One session, from opening to closing."""
    async with client.open_session("m") as session:
        first = 0
        while first < STEPS:
            count = min(int(rng.integers(1, 60)), STEPS - first)
            await way(session, record, first, count, rng)
            first += count
            if rng.random() < 0.2:
                await session.reset()
                record.resets.append(first)


async def step(session: Session, record: Record, first: int, count: int, rng: np.random.Generator) -> None:
    """Steps of their own, all begun at once."""
    answers = await asyncio.gather(*(session.step(each) for each in record.inputs[first : first + count]))
    record.hear(first, np.stack([each["y"] for each in answers]))


async def chunk(session: Session, record: Record, first: int, count: int, rng: np.random.Generator) -> None:
    """Two chunks, begun at once, with any outputs."""
    middle = first + count // 2
    ends = [(start, end) for start, end in ((first, middle), (middle, first + count)) if end > start]
    keeps = rng.choice(["all", "last", "none"], len(ends)).tolist()
    answers = await asyncio.gather(
        *(session.chunk(record.inputs[start:end], keep) for (start, end), keep in zip(ends, keeps, strict=True))
    )
    for (start, end), keep, answer in zip(ends, keeps, answers, strict=True):
        assert len(answer["y"]) == {"all": end - start, "last": 1, "none": 0}[keep]
        record.hear(end - len(answer["y"]), answer["y"])


async def stream(session: Session, record: Record, first: int, count: int, rng: np.random.Generator) -> None:
    """Readings streamed."""
    at = first
    async for answer in session.stream(record.inputs[first : first + count]):
        record.hear(at, answer["y"][np.newaxis])
        at += 1
    assert at == first + count


async def drive_group(client: Client, records: list[Record], rng: np.random.Generator) -> None:
    """Sessions stepped together."""
    inputs = np.stack([record.inputs for record in records])  # [GROUP, STEPS, INPUTS]
    async with client.open_sessions("m", GROUP) as group:
        first = 0
        while first < STEPS:
            count = min(int(rng.integers(1, 10)), STEPS - first)
            outputs = await group_outputs(group, inputs[:, first : first + count])
            for record, mine in zip(records, outputs, strict=True):
                record.hear(first, mine)
            first += count
            if rng.random() < 0.05:
                await group.reset()
                for record in records:
                    record.resets.append(first)


async def group_outputs(group: SessionGroup, inputs: Array) -> Array:
    """Outputs [GROUP, n, 1] of steps, one by one where they are few, else as a chunk."""
    if inputs.shape[1] > 5:
        return (await group.chunk(inputs))["y"]
    return np.stack([(await group.step(inputs[:, index]))["y"] for index in range(inputs.shape[1])], axis=1)


async def compare(server: Bound, records: list[Record]) -> None:
    """Each session's outputs with those of the same inputs over a good network."""
    async with Client(server.listen) as client:
        for record in records:
            async with client.open_session("m") as session:
                edges = sorted({0, *record.resets, STEPS})
                expected = []
                for start, end in itertools.pairwise(edges):
                    expected.append((await session.chunk(record.inputs[start:end]))["y"])
                    await session.reset()
            steps = sorted(record.heard)
            assert np.array_equal(np.stack([record.heard[each] for each in steps]), np.concatenate(expected)[steps])


async def steps_applied(server: Bound) -> float:
    """What the server has counted."""
    page = await asyncio.to_thread(lambda: urllib.request.urlopen(f"http://{server.metrics}/metrics").read().decode())
    (total,) = re.findall(r"^stepstream_steps_total\{.*\} (.*)$", page, re.MULTILINE)
    return float(total)
