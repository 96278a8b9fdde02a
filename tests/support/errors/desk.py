"""Where most scenarios begin: a front door with two sessions that have made one step each."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from stepstream import Client, ClientOptions
from stepstream_proto.v1 import inference_pb2, session_pb2
from stepstream_server.config import DoorSettings
from stepstream_server.engine.engine import Clock
from support.backend import FakeBackend
from support.front_door import CountingStream, FrontDoor, front_door
from support.generating import whole
from support.planted import plant
from support.wire import StreamRequest, u32, u64

HELD, ALONE = "held", "alone"
AT_ONCE = ClientOptions(reconnect_seconds=0)
POISON = 13.0  # an input that makes its step non-finite
VENOM = 17.0  # an input at which the model raises an error


@dataclass
class Desk:
    """`stream` holds session HELD under handle 0; nobody holds session ALONE. Both have applied step 0."""

    front: FrontDoor
    stream: CountingStream
    secret: bytes = b""  # of HELD

    async def step(
        self, seq: int | None, values: Sequence[float], *, id: str = ALONE, timeout: float | None = None, **fields: object
    ) -> object:
        """A unary step of a session, or a chunk. timeout: seconds, of the call."""
        request = inference_pb2.StepRequest(model="counter", session_id=id, seq=seq, **fields)  # type: ignore[arg-type]
        request.inputs["x"].numbers.extend(values)
        return await self.front.inference.Step(request, timeout=timeout)

    async def get(self, id: str, model: str = "counter") -> object:
        """Looks a session up."""
        return await self.front.sessions.GetSession(session_pb2.GetSessionRequest(model=model, id=id))

    async def open(self, id: str = "", model: str = "counter", **fields: object) -> session_pb2.OpenSessionResponse:
        """Opens a session that no stream holds."""
        request = session_pb2.OpenSessionRequest(model=model, id=id, **fields)  # type: ignore[arg-type]
        opened: session_pb2.OpenSessionResponse = await self.front.sessions.OpenSession(request)
        return opened

    async def fork(self, id: str = ALONE, **fields: object) -> session_pb2.ForkSessionResponse:
        """Forks a session."""
        request = session_pb2.ForkSessionRequest(model="counter", id=id, **fields)  # type: ignore[arg-type]
        forked: session_pb2.ForkSessionResponse = await self.front.sessions.ForkSession(request)
        return forked

    async def export(self, id: str = ALONE, **fields: object) -> session_pb2.ExportSessionResponse:
        """Exports a session."""
        request = session_pb2.ExportSessionRequest(model="counter", id=id, **fields)  # type: ignore[arg-type]
        exported: session_pb2.ExportSessionResponse = await self.front.sessions.ExportSession(request)
        return exported

    async def generate(self, id: str = ALONE, **fields: object) -> object:
        """A rollout of a session, to its end."""
        wanted = {"model": "counter", "session_id": id, "prompt": [bytes(4)], "max_steps": 1, **fields}
        return await whole(self.front.inference.Generate(inference_pb2.GenerateRequest(**wanted)))  # type: ignore[arg-type]

    async def import_(self, snapshot: bytes) -> object:
        """Imports a session."""
        return await self.front.sessions.ImportSession(session_pb2.ImportSessionRequest(snapshot=snapshot))

    async def close(self, id: str, secret: bytes = b"") -> None:
        """Closes a session."""
        await self.front.sessions.CloseSession(session_pb2.CloseSessionRequest(model="counter", id=id, secret=secret))

    async def send_open(self, handles: Sequence[int], ids: Sequence[str] = (), model: str = "counter", **fields: object) -> None:
        """Asks for sessions on the stream."""
        request = inference_pb2.OpenOnStream(model=model, handles=u32(handles), ids=ids, **fields)  # type: ignore[arg-type]
        await self.stream.send(StreamRequest(open=request))

    async def send_attach(self, handle: int, id: str, secret: bytes = b"") -> None:
        """Asks for a session that is open, on the stream."""
        await self.stream.send_attach("counter", handle, id, secret)

    def client(self) -> Client:
        """A Python client of its own, which does not try again."""
        return Client(self.front.address, AT_ONCE)

    async def acknowledge(self, count: int) -> None:
        """HELD's answers below the count have been received."""
        await self.stream.send(StreamRequest(acknowledge=inference_pb2.Acknowledge(handles=u32([0]), counts=u64([count]))))


@asynccontextmanager
async def desk(settings: DoorSettings | None = None, clock: Clock = time.monotonic, **engine: Any) -> AsyncIterator[Desk]:
    """A desk; `engine` are EngineSettings that differ."""
    doors = front_door("counter", "other", settings=settings, backend=_backend, clock=clock, **engine)
    async with doors as front, CountingStream(front.channel) as stream:
        made = Desk(front, stream)
        await made.send_open([0], [HELD])
        (held,) = (await stream.receive()).attached.sessions
        made.secret = plant(held.secret)
        await stream.step([0], [0], [1.0])
        await stream.sums(1)
        await made.open(ALONE)
        await made.step(0, [1.0], timeout=60)
        yield made


def _backend() -> FakeBackend:
    return FakeBackend(poison=POISON, venom=VENOM)
