"""One server for the tests of a module, each of which finds it as if nobody had been there: fixtures for a folder's conftest.

The folder has a fixture `models`: the folder of bundles that are served.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from stepstream_server.app import Bound
from support.background import in_background
from support.server import close_sessions, serving


@pytest.fixture(scope="module")
def shared(models: Path) -> Iterator[Bound]:
    """One server for the tests of a module, on a thread of its own."""
    with in_background(serving(models)) as background:
        yield background.value


@pytest.fixture
async def bound(request: pytest.FixtureRequest, models: Path) -> AsyncIterator[Bound]:
    """Where the models are served, and their metrics. There are no sessions; a test that counts what has ever happened is marked
    `own_server`."""
    if request.node.get_closest_marker("own_server"):
        async with serving(models) as own:
            yield own
    else:
        yield (shared := request.getfixturevalue("shared"))
        await close_sessions(shared.listen)
