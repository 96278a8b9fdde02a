"""An engine that hears front doors through sockets, and the other end of such a socket without an event loop."""

from __future__ import annotations

import queue
import select
import socket
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from stepstream_server.config import EngineSettings
from stepstream_server.engine.engine import Engine
from stepstream_server.engine.ports import NO_STREAM, ROW, Attach, Block, Command, Delivery, Get, Keep, Open, Opened
from stepstream_server.engine.thread import EngineThread
from stepstream_server.errors import StepStreamError
from stepstream_server.ipc.codec import decode, encode
from stepstream_server.ipc.exchange import Exchange
from stepstream_server.ipc.frames import Frames
from support.backend import FakeBackend, counter_spec
from support.engine import Ear
from support.front_door import Gate
from support.observer import Unobserved

PATIENCE = 30  # seconds: how long a test waits for what must come, before it fails


class Station:
    """An engine over the counting backend, on its thread, whose front doors are at the other ends of sockets."""

    def __init__(self) -> None:
        self.gate = Gate()
        self.backend = FakeBackend(before_collect=self.gate)
        self.exchange = Exchange()
        settings = EngineSettings(capacity=self.backend.slots)
        self.engine = Engine(counter_spec(), self.backend, settings, Unobserved(), time.monotonic, inbox=self.exchange)
        self.exchange.open(self.engine.connect)
        self.crashes: queue.Queue[BaseException] = queue.Queue()
        self.thread = EngineThread(self.engine, self.crashes.put)

    def line(self) -> socket.socket:
        """A worker's end of a line to the engine."""
        ours, theirs = socket.socketpair()
        self.exchange.attach(ours)
        return theirs

    def hold(self, desk: Desk, session: Opened, seq: int) -> None:
        """Has the engine compute a step until the gate is opened."""
        self.gate.close()
        desk.submit(step(session, seq))
        assert self.gate.reached.wait(PATIENCE)


@contextmanager
def station() -> Iterator[Station]:
    """An engine that turns until the block ends."""
    running = Station()
    running.thread.start()
    try:
        yield running
    finally:
        running.gate.open()
        running.thread.stop()
        running.exchange.close()


class Desk:
    """A worker, one call after the other. Its frames are decoded as they come; what they told is in `ear`."""

    def __init__(self, line: socket.socket) -> None:
        self.frames = Frames(line)
        self.ear = Ear()
        self.heard = 0  # envelopes that the engine has taken in
        self._read: deque[Any] = deque()
        self._requests = 0

    def request(self) -> int:
        """The next number for a question."""
        self._requests += 1
        return self._requests

    def submit(self, *commands: Command) -> None:
        """Says an envelope; what there is no room for goes with a later one, or with `flush`."""
        self.frames.send(encode(commands))

    def flush(self) -> None:
        """Waits until all is said, without reading."""
        while self.frames.blocked:
            assert select.select([], [self.frames], [], PATIENCE)[1]
            self.frames.flush()

    def receive(self) -> Any:
        """The next delivery or error, waited for. Raises EOFError."""
        while not self._read:
            if self.frames.blocked:
                self.frames.flush()
            writers = [self.frames] if self.frames.blocked else []
            assert any(select.select([self.frames], writers, [], PATIENCE)), "nothing comes"
            self._read += map(decode, self.frames.receive())
        said = self._read.popleft()
        if isinstance(said, Delivery):
            self.ear.deliver(said)
            self.heard = said.heard
        elif isinstance(said, StepStreamError):
            self.ear.fail(said)
        return said

    def ask(self, command: Any) -> Any:
        """Submits a command that has the request number `request()` gave last, and waits for its reply."""
        self.submit(command)
        while self._requests not in self.ear.replies:
            self.receive()
        return self.ear.replies[self._requests]

    def open(self, session_id: str = "", *, stream: int = 1, handle: int = 0) -> Opened:
        """Opens a session on a stream."""
        (opened,) = self.ask(Open(stream, self.request(), [session_id], np.array([handle], np.uint32)))
        assert isinstance(opened, Opened), opened
        return opened

    def attach(self, session: Opened, *, stream: int = 1, handle: int = 0, acked: int = 0) -> Opened:
        """Attaches a session to a stream."""
        handles, counts = np.array([handle], np.uint32), np.array([acked])
        (opened,) = self.ask(Attach(stream, self.request(), handles, [session.id], [session.secret], counts))
        assert isinstance(opened, Opened), opened
        return opened

    def open_alone(self, session_id: str) -> Opened:
        """Opens a session that no stream holds."""
        (opened,) = self.ask(Open(NO_STREAM, self.request(), [session_id]))
        assert isinstance(opened, Opened), opened
        return opened

    def get(self, session_id: str) -> Any:
        """A SessionInfo, or the error."""
        return self.ask(Get(self.request(), session_id))

    def outcomes(self, count: int) -> list[Any]:
        """Waits for so many answered or refused rows."""
        while len(self.ear.outcomes) < count:
            self.receive()
        return self.ear.outcomes

    def close(self) -> None:
        """As a worker that dies."""
        self.frames.close()


def step(session: Opened, seq: int, value: float = 1.0, *, stream: int = 1, handle: int = 0) -> Block:
    """One step of a session on a stream."""
    rows = np.zeros(1, ROW)
    rows["stream"], rows["session"], rows["generation"], rows["handle"] = stream, session.session, session.generation, handle
    rows["first"], rows["length"], rows["keep"] = seq, 1, Keep.ALL
    rows["arrival"], rows["deadline"] = time.monotonic(), np.inf
    return Block(rows, (np.full((1, 1), value, np.float32),))
