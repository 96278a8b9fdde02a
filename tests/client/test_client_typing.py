"""What a user's type checker knows of rollouts: `make lint` has mypy read this file, and the types stand for what comes."""

from __future__ import annotations

from typing import Any, assert_type

import numpy as np
from numpy.typing import NDArray

from stepstream import Client, Rollout, Sampling, sync
from support.background import in_background
from support.servicer import FakeServicer, rolling_models, serving


async def test_a_rollout_of_text_is_typed_as_text(client: Client, servicer: FakeServicer) -> None:
    """By its prompt: text, numbers, or none, which may be either."""
    servicer.models |= rolling_models()
    async with client.open_session("letters") as session:
        async for piece in session.generate("def ", max_steps=3):
            assert isinstance(assert_type(piece, str), str)
        assert isinstance(assert_type(await session.generate("", max_steps=3).whole(), str), str)
        assert_type(session.generate(max_steps=3), Rollout[Any])
    assert_type(client.generate("letters", "def ", max_steps=3), Rollout[str])
    async with client.open_session("walk") as session:
        drawn = session.generate(np.ones((2, 1), np.float32), max_steps=3)
        assert isinstance(assert_type(await drawn.whole(), NDArray[Any]), np.ndarray)


def test_the_blocking_twin_is_typed_alike() -> None:
    """`for piece in rollout` gives text."""
    servicer = FakeServicer()
    servicer.models |= rolling_models()
    settings: Sampling = {"max_steps": 3, "temperature": 0.5}
    with in_background(serving(servicer)) as server, sync.Client(server.value) as client:
        for piece in client.generate("letters", "def ", **settings):
            assert isinstance(assert_type(piece, str), str)
        with client.open_session("letters") as session:
            assert isinstance(assert_type(session.generate("def ", **settings).whole(), str), str)
