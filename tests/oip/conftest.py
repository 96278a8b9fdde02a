"""A whole server in this process, `tritonclient` in another one, and the native client for comparison."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from stepstream import Client
from stepstream_server.app import Bound
from stepstream_server.bundles import write
from support.models import random_model
from support.oip.process import Driver, Drivers
from support.oip.triton import Triton
from support.shared_server import bound, shared

__all__ = ["bound", "shared"]  # fixtures

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`ecg`: mv -> next, ahead_9, ahead_27. `pair`: x[2] -> y[1], in two versions. `tokens`: a token x below 5 -> y[5]."""
    folder = tmp_path_factory.mktemp("models")
    shutil.copytree(ROOT / "models" / "ecg", folder / "ecg")
    for version in (1, 2):
        write(folder / f"pair{version}", *random_model("gru", inputs=2, name="pair", version=version, seed=version))
    write(folder / "tokens", *random_model("lstm", inputs=3, outputs=5, tokens=5, name="tokens"))
    return folder


@pytest.fixture
async def client(bound: Bound) -> AsyncIterator[Client]:
    """A native client."""
    async with Client(bound.listen) as client:
        yield client


@pytest.fixture(scope="session")
def drivers() -> Iterator[Drivers]:
    """Processes with `tritonclient`."""
    drivers = Drivers()
    yield drivers
    drivers.end()


@pytest.fixture
async def driver(drivers: Drivers) -> AsyncIterator[Driver]:
    """One of them."""
    async with drivers.one() as driver:
        yield driver


@pytest.fixture
def triton(driver: Driver, bound: Bound) -> Triton:
    """Somebody else's client."""
    return Triton(driver, bound.listen)
