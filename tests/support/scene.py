"""One model behind a real front door, with a gate at each stage that a step passes, and batch-mates to harm."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable

import grpc
import pytest

from stepstream_proto.v1 import session_pb2
from stepstream_server.rpc.engine_client import EngineClient
from support.front_door import Arrivals, CountingStream, FrontDoor, Gate, wait_for

STEPS = 3
MATES = 2


class HeldMail:
    """Holds what an engine delivers to a front door before the event loop learns of it."""

    def __init__(self, door: EngineClient, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached = threading.Event()
        self._wake = door._wake
        self._held: list[Callable[[], None]] | None = None
        monkeypatch.setattr(door, "_wake", self._take)

    def close(self) -> None:
        self._held = []

    def open(self) -> None:
        held, self._held = self._held, None
        for each in held or ():
            self._wake(each)

    def _take(self, callback: Callable[[], None]) -> None:
        """On the engine's thread, while the test waits for it."""
        if self._held is None:
            self._wake(callback)
        else:
            self._held.append(callback)
            self.reached.set()


class Scene:
    """One model with gates at each stage, a stream of batch-mates, and one that keeps the engine busy at first."""

    def __init__(self, front: FrontDoor, arrivals: Arrivals, mail: HeldMail) -> None:
        self.front = front
        self.model = front.models["counter"]
        self.arrivals = arrivals
        self.launching, self.computing, self.mail = Gate(), self.model.gate, mail
        self.model.backend.before_launch = self.launching
        self.mates, self.busy = CountingStream(front.channel), CountingStream(front.channel)

    async def engage(self) -> None:
        """The engine is computing something."""
        await self.busy.open("counter", [0])
        self.computing.close()
        await self.busy.step([0], [0], [1])
        await wait_for(self.computing.reached)

    async def queue(self, *send: Callable[[], Awaitable[None]]) -> None:
        """Everybody's steps have come to an engine that is computing something else."""
        await self.mates.open("counter", range(MATES))
        await self.engage()
        for each in send:
            await each()
        for handle in range(MATES):
            await self.mates.step([handle], [0], [10.0 * (handle + 1)] * STEPS)
        await self.mates.all_read()

    async def reach(self, stage: str) -> None:
        """They are all at that stage, in the same launch."""
        if stage == "queued":
            return
        self.launching.close()
        self.computing.open()
        await wait_for(self.launching.reached)
        if stage == "computing":
            self.computing.close()
            self.launching.open()
            await wait_for(self.computing.reached)
        elif stage == "settling":
            self.mail.close()
            self.launching.open()
            await wait_for(self.mail.reached)

    def go_on(self) -> None:
        for gate in (self.launching, self.computing, self.mail):
            gate.open()

    async def check_mates(self) -> None:
        """They were answered as if they had been alone."""
        answers = await self.mates.sums(MATES * STEPS)
        assert answers == {(handle, step): 10.0 * (handle + 1) * (step + 1) for handle in range(MATES) for step in range(STEPS)}
        assert await self.busy.sums(1) == {(0, 0): 1.0}

    async def get(self, session_id: str) -> session_pb2.Session:
        """Its answer is behind all that the engine was told before."""
        request = session_pb2.GetSessionRequest(model="counter", id=session_id)
        response: session_pb2.GetSessionResponse = await self.front.sessions.GetSession(request)
        return response.session

    async def check_nothing_leaks(self, *streams: CountingStream) -> None:
        """Streams end by themselves, so their credits are back; then nothing is left of anybody."""
        for stream in (*streams, self.mates, self.busy):
            await stream.half_close()
            assert await stream.end() == (grpc.StatusCode.OK, "")
        assert await self.front.rpc.streams.finish(60)
        listed = await self.front.sessions.ListSessions(session_pb2.ListSessionsRequest(model="counter"))
        for session in listed.sessions:
            assert (session.attached, session.pending_steps) == (False, 0)
            await self.front.sessions.CloseSession(session_pb2.CloseSessionRequest(model="counter", id=session.id))
        engine, door = self.model.engine, self.model.door
        stats = engine.stats()
        assert (stats.sessions, stats.streams, stats.pending_steps, len(self.front.rpc.streams)) == (0, 0, 0, 0)
        assert len(self.model.backend.free) == self.model.backend.slots
        assert engine.books.cache.bytes_used == 0
        assert (door._listeners, door._holders, door._rollouts, door._questions) == ({}, {}, {}, {})
