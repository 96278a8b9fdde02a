"""What a front door tells its engine, as it does: for tests that must know what has arrived before they go on."""

from __future__ import annotations

import asyncio

import pytest

from stepstream_server.engine.ports import Command
from stepstream_server.rpc import EngineClient


def submissions(door: EngineClient, monkeypatch: pytest.MonkeyPatch) -> asyncio.Queue[Command]:
    """The commands that the engine is told from now on."""
    told, submit = asyncio.Queue[Command](), door._door.submit

    def spy(*commands: Command) -> None:
        submit(*commands)
        for command in commands:
            told.put_nowait(command)

    monkeypatch.setattr(door._door, "submit", spy)
    return told
