"""The engine on its own thread: it wakes for work and for time, stops when told, and tells everybody when it breaks."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from stepstream_server.config import EngineSettings
from stepstream_server.engine.engine import Engine
from stepstream_server.engine.ports import ROW, Block, Delivery, Door, Ending, Keep, Open, Opened
from stepstream_server.engine.thread import EngineThread
from stepstream_server.errors import Reason, ServerFault, StepStreamError
from support.backend import FakeBackend, counter_spec
from support.engine import Ear
from support.observer import Reports

PATIENCE = 30  # seconds: how long a test waits for what must come, before it fails


class QueueEar(Ear):
    """A sink that a test can wait on."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: queue.Queue[str] = queue.Queue()

    def deliver(self, delivery: Delivery) -> None:
        super().deliver(delivery)
        self.heard.put("delivery")

    def fail(self, error: StepStreamError) -> None:
        super().fail(error)
        self.heard.put("failure")


class Running:
    """An engine thread over the counting backend."""

    def __init__(self, **settings: float) -> None:
        self.backend = FakeBackend()
        options = EngineSettings.model_validate({"capacity": self.backend.slots, **settings})
        self.engine = Engine(counter_spec(), self.backend, options, Reports(), time.monotonic)
        self.ear = QueueEar()
        self.door: Door = self.engine.connect(self.ear)
        self.crashes: queue.Queue[BaseException] = queue.Queue()
        self.thread = EngineThread(self.engine, self.crashes.put)
        self.thread.start()

    def open(self) -> Opened:
        self.door.submit(Open(1, 1, [""], np.array([0], np.uint32)))
        assert self.ear.heard.get(timeout=PATIENCE) == "delivery"
        opened: Opened = self.ear.replies[1][0]
        return opened

    def wait_for_an_outcome(self) -> None:
        """The first delivery may only say that the step was heard."""
        while not self.ear.outcomes:
            assert self.ear.heard.get(timeout=PATIENCE) == "delivery"

    def step(self, session: Opened, seq: int) -> None:
        rows = np.zeros(1, ROW)
        rows["stream"], rows["session"], rows["generation"] = 1, session.session, session.generation
        rows["first"], rows["length"], rows["keep"] = seq, 1, Keep.ALL
        rows["arrival"], rows["deadline"] = time.monotonic(), np.inf
        self.door.submit(Block(rows, (np.ones((1, 1), np.float32),)))


@pytest.fixture
def running(request: pytest.FixtureRequest) -> Iterator[Running]:
    """A running engine with the settings that the test is parametrised with."""
    running = Running(**getattr(request, "param", {}))
    yield running
    running.thread.stop()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("engine-")]


def test_it_wakes_for_work(running: Running) -> None:
    """A step submitted to a sleeping engine is answered."""
    session = running.open()
    running.step(session, 0)
    running.wait_for_an_outcome()
    assert len(running.ear.outcomes) == 1


@pytest.mark.parametrize("running", [{"idle_ttl_seconds": 0.05}], indirect=True)
def test_it_wakes_for_time(running: Running) -> None:
    """A session expires though nobody submits anything."""
    running.open()
    assert running.ear.heard.get(timeout=PATIENCE) == "delivery"
    assert running.ear.detached == [(1, 0, Ending.EXPIRED)]


@pytest.mark.parametrize("running", [{"max_wait_seconds": 0.02}], indirect=True)
def test_it_can_be_told_to_wait_for_company(running: Running) -> None:
    """With a maximal wait the first step is still answered when nobody else comes."""
    session = running.open()
    running.step(session, 0)
    running.wait_for_an_outcome()
    assert len(running.ear.outcomes) == 1


def test_a_crash_is_told_to_everybody_once(running: Running) -> None:
    """The sink, the crash handler, and whoever submits later; nothing is delivered any more."""
    session = running.open()
    running.backend.broken = True
    running.step(session, 0)
    assert running.ear.heard.get(timeout=PATIENCE) == "failure"
    assert str(running.crashes.get(timeout=PATIENCE)) == "the device fell off the bus"
    assert running.ear.failure is not None
    assert running.ear.failure.reason == Reason.ENGINE_FAILED
    assert "bus" not in running.ear.failure.message  # callers are not shown the server's insides
    with pytest.raises(ServerFault, match="counter"):
        running.step(session, 1)
    assert running.ear.outcomes == []
