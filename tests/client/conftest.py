"""A fake server and a client of it, for every test of the client."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from stepstream import Client, ClientOptions
from support.servicer import FakeServicer, serving


@pytest.fixture
async def servicer() -> FakeServicer:
    """The server's side; its windows are 8 steps."""
    return FakeServicer()


@pytest.fixture
async def address(servicer: FakeServicer) -> AsyncIterator[str]:
    """Where it is served. Whatever a test did, the client must not have broken a rule of the contract."""
    async with serving(servicer) as bound:
        yield bound
    assert servicer.broken_rules == []


@pytest.fixture
def options() -> ClientOptions:
    """Of `client`: the defaults, unless a module says otherwise."""
    return ClientOptions()


@pytest.fixture
async def client(address: str, options: ClientOptions) -> AsyncIterator[Client]:
    """A client of the fake server."""
    async with Client(address, options) as connected:
        yield connected


@pytest.fixture
async def frail(address: str) -> AsyncIterator[Client]:
    """A client that never reconnects: what breaks its stream is told to everybody at once."""
    async with Client(address, ClientOptions(reconnect_seconds=0)) as connected:
        yield connected
