"""The plain case: one counting model behind a front door, and one stream on it."""

from collections.abc import AsyncIterator

import pytest_asyncio

from support.front_door import CountingStream, FrontDoor, front_door


@pytest_asyncio.fixture
async def front() -> AsyncIterator[FrontDoor]:
    """A front door of one counting model."""
    async with front_door() as front:
        yield front


@pytest_asyncio.fixture
async def stream(front: FrontDoor) -> AsyncIterator[CountingStream]:
    """A stream on it."""
    async with CountingStream(front.channel) as stream:
        yield stream
