"""A whole server in this process whose computing a test can hold up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from stepstream_server import backends
from stepstream_server.app import Bound, serve
from stepstream_server.config import Settings
from stepstream_server.engine.ports import Computed
from support.front_door import Gate
from support.server import ON_THE_THREAD


class GatedBackend:
    """Another backend, whose launches wait at a gate."""

    def __init__(self, backend: Any, gate: Gate) -> None:
        self._backend = backend
        self._gate = gate

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def collect(self, ticket: Any) -> Computed:
        """The other one's, once the gate is open."""
        self._gate()
        computed: Computed = self._backend.collect(ticket)
        return computed


@dataclass
class Running:
    """A server in this process."""

    bound: Bound
    stop: asyncio.Event
    code: asyncio.Task[int]
    gate: Gate


@asynccontextmanager
async def running(models: Path, monkeypatch: pytest.MonkeyPatch, **door: object) -> AsyncIterator[Running]:
    """Serves until `stop` is set, at the latest when the block ends."""
    gate, build = Gate(), backends.build
    monkeypatch.setattr(backends, "build", lambda *args, **options: GatedBackend(build(*args, **options), gate))
    addresses = {"listen": "127.0.0.1:0", "metrics": "127.0.0.1:0"}
    given = {"models": models, **addresses, "door": door, "workers": 0, "engine": ON_THE_THREAD}
    stop, started = asyncio.Event(), asyncio.get_running_loop().create_future()
    code = asyncio.create_task(serve(Settings.model_validate(given), stop=stop, on_started=started.set_result))
    try:
        yield Running(await started, stop, code, gate)
    finally:
        stop.set()
        gate.open()
        await code
