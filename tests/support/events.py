"""The moment in which a client's connection does something."""

from __future__ import annotations

from collections.abc import AsyncIterator

from stepstream import ConnectionEvent


async def until_kind(events: AsyncIterator[ConnectionEvent], kind: str) -> ConnectionEvent:
    """The next event of a kind."""
    async for event in events:
        if event.kind == kind:
            return event
    raise EOFError(kind)
