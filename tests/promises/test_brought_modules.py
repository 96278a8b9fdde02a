"""Ten torch modules as people have them, served from the graphs that `save_program` makes of them: torch's numbers, and every
promise that cells have."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from stepstream import Client
from stepstream_server.app import Bound
from stepstream_server.bundles import load
from stepstream_server.spec import ModelSpec
from support.background import in_background
from support.programs import BUNDLES
from support.programs.modules import KINDS, WORDS
from support.server import close_sessions, serving

SESSIONS, STEPS = 9, 16
MAX_BATCH = 64  # which limits what is tried of ten models at the start
Values = dict[str, NDArray[Any]]


@pytest.fixture(scope="module")
def shared() -> Iterator[Bound]:
    """One server with all ten."""
    with in_background(serving(BUNDLES, engine={"max_batch": MAX_BATCH})) as background:
        yield background.value


@pytest.fixture
async def client(shared: Bound) -> AsyncIterator[Client]:
    """A client of it; there are no sessions."""
    async with Client(shared.listen) as client:
        yield client
    await close_sessions(shared.listen)


@pytest.fixture(params=KINDS)
def name(request: pytest.FixtureRequest) -> str:
    """Each of the ten."""
    return str(request.param)


def drawn(spec: ModelSpec, seed: int = 16) -> Values:
    """Inputs by name, [SESSIONS, STEPS, *shape]."""
    rng = np.random.default_rng(seed)
    shapes = {each: (SESSIONS, STEPS, *each.shape) for each in spec.inputs}
    return {
        each.name: rng.integers(0, each.limit, shape) if each.limit else rng.uniform(-1, 1, shape).astype(np.float32)
        for each, shape in shapes.items()
    }


def some(values: Values, *index: Any) -> Values:
    """A part of inputs or outputs."""
    return {name: each[index] for name, each in values.items()}


async def test_it_gives_what_torch_gives_bit_for_bit_in_any_batch(client: Client, name: str) -> None:
    """Step by step within 1e-5 of torch; and a session alone has the very bits that it has among others, in steps or chunks."""
    inputs = drawn(load(BUNDLES / name).spec)
    async with client.open_sessions(name, SESSIONS) as group:
        together = await group.chunk(inputs)
    for output, expected in KINDS[name].run(inputs).items():
        np.testing.assert_allclose(together[output], expected, atol=1e-5, rtol=1e-5)
    for alone in (0, SESSIONS - 1):
        async with client.open_session(name) as session:
            steps = [await session.step(some(inputs, alone, step)) for step in range(STEPS)]
        for output, values in together.items():
            np.testing.assert_array_equal(np.stack([step[output] for step in steps]), values[alone])


async def test_copies_of_its_sessions_go_on_with_their_bits(client: Client, name: str) -> None:
    """A fork, and a session that was exported, closed and imported."""
    inputs = some(drawn(load(BUNDLES / name).spec), 0)
    half = STEPS // 2
    async with client.open_session(name) as session:
        await session.chunk(some(inputs, slice(half)))
        async with await session.fork() as fork:
            snapshot = await session.export()
            expected = await session.chunk(some(inputs, slice(half, None)))
            forked = await fork.chunk(some(inputs, slice(half, None)))
    async with client.import_session(snapshot) as imported:
        assert imported.bitwise
        moved = await imported.chunk(some(inputs, slice(half, None)))
    for output, values in expected.items():
        np.testing.assert_array_equal(forked[output], values)
        np.testing.assert_array_equal(moved[output], values)


async def test_numbers_are_rolled_out_as_torch_would(client: Client) -> None:
    """A forecast is what comes of stepping the module on its own predictions."""
    kind, horizon = KINDS["mlp_head"], 8
    inputs = drawn(load(BUNDLES / "mlp_head").spec)["x"][:1]
    async with client.open_session("mlp_head") as session:
        await session.chunk(inputs[0])
        forecast = await session.generate(max_steps=horizon, temperature=0.0).whole()
    for _ in range(horizon):
        inputs = np.concatenate([inputs, kind.run({"x": inputs})["y"][:, -1:]], 1)
    np.testing.assert_allclose(forecast, inputs[0, -horizon:], atol=1e-5)


async def test_words_are_rolled_out_as_torch_would(client: Client) -> None:
    """At temperature 0 each next word is the likeliest of the module."""
    said = ["the", "tide", "comes"]
    async with client.open_session("attention") as session:
        text = await session.generate(" ".join(said), max_steps=20, temperature=0.0).whole()
    for _ in range(20):
        tokens = np.array([[WORDS.index(word) for word in said]])
        said.append(WORDS[int(KINDS["attention"].run({"word": tokens})["next"][0, -1].argmax())])
    assert text.split() == said[3:]
