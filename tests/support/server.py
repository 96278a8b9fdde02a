"""A whole server in this process, on ports of its own: for one test, or for the tests of a module one after the other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from stepstream import Client
from stepstream_server.app import Bound, serve
from stepstream_server.config import Settings

# Settings of an engine that is never turned by the event loop, since it may wait for more steps, though hardly ever does.
ON_THE_THREAD = {"max_wait_seconds": 1e-9}

# Settings by the ways in which a step can come to its engine.
WAYS: dict[str, dict[str, object]] = {
    "on the loop": {"workers": 0},
    "on the thread": {"workers": 0, "engine": ON_THE_THREAD},
    "2 workers": {"workers": 2},
}


@asynccontextmanager
async def serving(models: Path, **settings: object) -> AsyncIterator[Bound]:
    """Serves the bundles in a folder until the block ends, then drains; fails if the server does."""
    options = {"models": models, "listen": "127.0.0.1:0", "metrics": "127.0.0.1:0", "workers": 0, **settings}
    stop, started = asyncio.Event(), asyncio.get_running_loop().create_future()
    server = asyncio.create_task(serve(Settings.model_validate(options), stop=stop, on_started=started.set_result))
    await asyncio.wait([server, started], return_when=asyncio.FIRST_COMPLETED)
    if server.done():
        server.result()
    yield started.result()
    stop.set()
    if await server != 0:
        raise RuntimeError("the server did not end well: its log tells")


async def close_sessions(address: str) -> None:
    """Closes what a test has left open on a server that the next one finds as if nobody had been there."""
    async with Client(address) as client:
        async for session in client.list_sessions():
            await client.close_session(session.model, session.id, version=session.version)
