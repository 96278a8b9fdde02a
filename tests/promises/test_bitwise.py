"""The promise that no other server makes: a session's outputs do not depend, to the last bit, on who else is served.

A thousand sessions of a hundred steps, over one multiplexed stream and over two hundred, cut into chunks at random and
interleaved at random, against the same sessions served alone, and against a float64 reference that shares no code with us.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from support.models import random_model
from support.promised import program_reference, write_model
from support.server import WAYS, serving
from support.wire import WireStream, block, steps_of

SESSIONS, STEPS, INPUTS = 1000, 100, 3
# Random ways of cutting the steps into chunks. Each makes twelve thousand chunks, so that one will do for a change.
CUTS, MANY_CUTS = 1, 6
# name -> (cell, hidden, layers, outputs): every cell, one and two layers, one-output heads among them.
MODELS = {
    "lstm-1": ("lstm", 24, 1, 1),
    "lstm-2": ("lstm", 16, 2, 5),
    "gru-1": ("gru", 17, 1, 1),
    "gru-2": ("gru", 16, 2, 1),
    "rnn-1": ("rnn", 20, 1, 1),
    "rnn-2": ("rnn", 13, 2, 2),
    "program": ("program", 9, 1, 2),
}
OTHERS = [way for way in WAYS if way != "on the loop"]  # which no cell makes a difference to
Array = NDArray[np.float32]


@pytest.fixture
async def address(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    """A whole server with the model that the test is about."""
    model = request.node.callspec.params["model"]
    cell, hidden, layers, outputs = MODELS[model]
    write_model(tmp_path / model, cell, INPUTS, hidden, layers, outputs, seed=7)
    async with serving(tmp_path, **WAYS[request.node.callspec.params["way"]]) as bound:
        yield bound.listen


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("model", "way"), [*((model, "on the loop") for model in MODELS), *(("lstm-1", way) for way in OTHERS)])
async def test_outputs_are_bitwise_those_of_the_session_alone(model: str, way: str, address: str, long_run: bool) -> None:
    """However the steps are cut, merged, interleaved and spread over streams."""
    rng = np.random.default_rng(11)
    # A program's chunks are computed step by step, which takes longer.
    sessions = SESSIONS if model != "program" else SESSIONS // 4
    readings = rng.normal(size=(sessions, STEPS, INPUTS)).astype(np.float32)
    async with grpc.aio.insecure_channel(address) as channel:
        alone = await serve_alone(channel, model, readings)
        assert np.abs(alone - float64_reference(model, readings)).max() < 1e-5
        for streams in (1, 200):
            for _ in range(MANY_CUTS if long_run else CUTS):
                together = await serve_together(channel, model, readings, streams, rng)
                np.testing.assert_array_equal(together.view(np.uint32), alone.view(np.uint32))


async def serve_alone(channel: grpc.aio.Channel, model: str, readings: Array) -> Array:
    """One session at a time, nobody beside it: step by step for the first few, then in one chunk each."""
    outputs = np.empty((len(readings), STEPS, MODELS[model][3]), np.float32)
    async with WireStream(channel) as stream:
        for session in range(len(readings)):
            await stream.open(model, [session])
            lengths = [1] * STEPS if session < 5 else [STEPS]
            for first in np.cumsum([0, *lengths[:-1]]).tolist():
                length = lengths[0]
                await stream.send(block([session], [first], [length], readings[session, first : first + length]))
                await collect(stream, outputs, np.arange(len(readings)), length)
    return outputs


async def serve_together(channel: grpc.aio.Channel, model: str, readings: Array, streams: int, rng: np.random.Generator) -> Array:
    """All sessions at once, dealt out to the streams; each stream sends without waiting for answers."""
    outputs = np.full((len(readings), STEPS, MODELS[model][3]), np.nan, np.float32)
    async with asyncio.TaskGroup() as tasks:
        for members, own_rng in zip(np.array_split(rng.permutation(len(readings)), streams), rng.spawn(streams), strict=True):
            tasks.create_task(serve_stream(channel, model, readings, members, outputs, own_rng))
    return outputs


async def serve_stream(
    channel: grpc.aio.Channel, model: str, readings: Array, members: NDArray[np.int64], outputs: Array, rng: np.random.Generator
) -> None:
    """One stream's share: handle h stands for session members[h]."""
    async with WireStream(channel) as stream:
        await stream.open(model, range(len(members)))
        answers = asyncio.create_task(collect(stream, outputs, members, len(members) * STEPS))
        handles, firsts, lengths = random_rows(len(members), rng)
        start = 0
        while start < len(handles):
            rows = slice(start, start + rows_of_next_block(handles[start:], int(rng.integers(1, 2 * len(members) + 1))))
            steps = [
                readings[members[handle], first : first + length]
                for handle, first, length in zip(handles[rows], firsts[rows], lengths[rows], strict=True)
            ]
            await stream.send(block(handles[rows].tolist(), firsts[rows].tolist(), lengths[rows].tolist(), np.concatenate(steps)))
            start = rows.stop
        await answers


def random_rows(sessions: int, rng: np.random.Generator) -> tuple[NDArray[np.int64], ...]:
    """Rows (handle, first_seq, length) that cut each session's STEPS steps at random, the sessions interleaved at random."""
    chunks = []
    for handle in range(sessions):
        count = int(rng.integers(1, 25))
        edges = [0, *sorted(rng.choice(np.arange(1, STEPS), count - 1, replace=False).tolist()), STEPS]
        chunks.append([(handle, first, end - first) for first, end in itertools.pairwise(edges)])
    order = rng.permutation(np.repeat(np.arange(sessions), [len(each) for each in chunks]))
    queues = [iter(each) for each in chunks]
    handles, firsts, lengths = np.array([next(queues[handle]) for handle in order.tolist()]).T
    return handles, firsts, lengths


def rows_of_next_block(handles: NDArray[np.int64], most: int) -> int:
    """How many rows fit into a block, in which a session may have one row: all up to the first repeat."""
    seen: set[int] = set()
    for count, handle in enumerate(handles[:most].tolist()):
        if handle in seen:
            return count
        seen.add(handle)
    return min(most, len(handles))


async def collect(stream: WireStream, outputs: Array, members: NDArray[np.int64], steps: int) -> None:
    """Receives answers until there are as many steps, and files them by session and number. A refusal is a failure."""
    while steps > 0:
        answers = (await stream.receive()).answers
        assert not answers.errors, answers.errors
        handles, seqs = steps_of(answers)
        outputs[members[handles], seqs] = np.frombuffer(answers.outputs[0], "<f4").reshape(len(seqs), -1)
        steps -= len(seqs)


def float64_reference(model: str, readings: Array) -> NDArray[np.float64]:
    """torch's own layers, or the program's equations, in double precision."""
    cell, hidden, layers, outputs = MODELS[model]
    if cell == "program":
        return program_reference(readings, hidden, outputs, seed=7)
    _, weights = random_model(cell, INPUTS, hidden, layers, outputs, seed=7, name=model)  # type: ignore[arg-type]
    doubles = {name: torch.from_numpy(values).double() for name, values in weights.items()}
    module = getattr(torch.nn, cell.upper())(INPUTS, hidden, layers, batch_first=True, dtype=torch.float64)
    module.load_state_dict({name.removeprefix("cell."): values for name, values in doubles.items() if name.startswith("cell.")})
    with torch.inference_mode():
        hidden_states, _ = module(torch.from_numpy(readings).double())
        result: NDArray[np.float64] = (hidden_states @ doubles["head.y.weight"].T + doubles["head.y.bias"]).numpy()
    return result
