"""Who turns an engine whose front door is in the same process."""

from __future__ import annotations

import pytest

from stepstream_server.config import DoorSettings, EngineSettings
from stepstream_server.engine.clockwork import Clockwork
from stepstream_server.engine.engine import Engine
from stepstream_server.engine.thread import EngineThread
from stepstream_server.fronts import Inside
from stepstream_server.telemetry import Metrics, new_registry
from support.backend import FakeBackend, counter_spec
from support.observer import Unobserved


@pytest.mark.parametrize(
    ("max_wait_seconds", "depth", "driver"), [(0.0, 1, Clockwork), (0.001, 1, EngineThread), (0.0, 2, EngineThread)]
)
async def test_the_loop_turns_no_engine_that_would_wait(max_wait_seconds: float, depth: int, driver: type[EngineThread]) -> None:
    """One that is to wait for more steps, or for a device, has a thread for that."""
    settings = EngineSettings(capacity=8, max_wait_seconds=max_wait_seconds)
    engine = Engine(counter_spec(), FakeBackend(depth=depth), settings, Unobserved())
    front = Inside([engine.spec], DoorSettings(), Metrics(new_registry()), "0.0.0")
    front.connect([engine])
    assert type(front.driver(engine, lambda crash: None)) is driver
