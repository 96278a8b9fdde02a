"""When somebody begins to wait for room."""

from __future__ import annotations

import asyncio

import pytest

from stepstream_server.rpc.stream.flow_control import Credits, Lookahead


def waits(monkeypatch: pytest.MonkeyPatch, kind: type[Credits] | type[Lookahead]) -> asyncio.Event:
    """Set once some stream is not read any more for want of credits, or for being too far ahead of an engine."""
    event, room = asyncio.Event(), kind.room

    async def spy(self: Credits | Lookahead) -> None:
        event.set()
        await room(self)  # type: ignore[arg-type]  # of the same kind

    monkeypatch.setattr(kind, "room", spy)
    return event
