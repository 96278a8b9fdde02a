"""A whole server in this process, for every test of the command: the shipped model, one of several columns, one of tokens."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from stepstream import Client
from stepstream_server.app import Bound
from stepstream_server.bundles import write
from stepstream_server.spec import HeadSpec
from support.models import random_model
from support.server import serving

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`ecg`: mv -> next, ahead_9, ahead_27. `memory`: words. `pair`: x[2] -> y. `tokens`: a token x below 5 -> y[5].
    `drift`: x[2] -> y[2], the next x. `letters`: a byte of text x -> y[256]."""
    folder = tmp_path_factory.mktemp("models")
    for name in ("ecg", "memory"):
        shutil.copytree(ROOT / "models" / name, folder / name)
    write(folder / "pair", *random_model("gru", inputs=2, name="pair"))
    write(folder / "tokens", *random_model("lstm", inputs=3, outputs=5, tokens=5, name="tokens"))
    write(folder / "drift", *random_model("gru", inputs=2, heads=[HeadSpec("y", "regression", 2, predicts="x")], name="drift"))
    spec, weights = random_model("lstm", inputs=8, outputs=256, tokens=256, name="letters")
    write(folder / "letters", dataclasses.replace(spec, text="bytes"), weights)
    return folder


@pytest.fixture
async def bound(models: Path) -> AsyncIterator[Bound]:
    """Where the models are served, and their metrics."""
    async with serving(models) as bound:
        yield bound


@pytest.fixture
def server(bound: Bound) -> str:
    """Where the models are served."""
    return bound.listen


@pytest.fixture
async def client(server: str) -> AsyncIterator[Client]:
    """A client beside the command."""
    async with Client(server) as client:
        yield client
