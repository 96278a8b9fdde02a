"""A whole server in this process, for every test of the command: the shipped model, one of several columns, one of tokens."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from stepstream import Client
from stepstream_server.app import Bound
from stepstream_server.bundles import write
from support.models import random_model
from support.shared_server import bound, shared

__all__ = ["bound", "shared"]  # fixtures

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the command keeps what it remembers: not among the user's own."""
    folder = tmp_path / "state"
    monkeypatch.setenv("XDG_STATE_HOME", str(folder))
    return folder


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`ecg`: mv -> next, ahead_9, ahead_27. `pair`: x[2] -> y. `tokens`: a token x below 5 -> y[5]."""
    folder = tmp_path_factory.mktemp("models")
    shutil.copytree(ROOT / "models" / "ecg", folder / "ecg")
    write(folder / "pair", *random_model("gru", inputs=2, name="pair"))
    write(folder / "tokens", *random_model("lstm", inputs=3, outputs=5, tokens=5, name="tokens"))
    return folder


@pytest.fixture
def server(bound: Bound) -> str:
    """Where the models are served."""
    return bound.listen


@pytest.fixture
async def client(server: str) -> AsyncIterator[Client]:
    """A client beside the command."""
    async with Client(server) as client:
        yield client
