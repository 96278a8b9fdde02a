"""A front door in this process: the real gRPC server on a free port, real engines on their threads, the counting backend."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from types import UnionType
from typing import Any, Self

import grpc
import numpy as np

from stepstream_proto.v1 import inference_pb2, inference_pb2_grpc, model_pb2_grpc, session_pb2_grpc
from stepstream_server.access import Access, limits
from stepstream_server.config import DoorSettings, EngineSettings, StoreSettings
from stepstream_server.engine.clockwork import Arbiter, Clockwork
from stepstream_server.engine.durable.questions import Keeping
from stepstream_server.engine.engine import Clock, Engine
from stepstream_server.engine.ports import Command, Door, LimitTenants
from stepstream_server.engine.thread import EngineThread
from stepstream_server.rpc import EngineClient, Models, RpcServer
from stepstream_server.spec import ModelSpec
from support.backend import FakeBackend, counter_spec
from support.instant_store import InstantStore
from support.observer import Unobserved
from support.stepped_store import Contents
from support.tenants import showing
from support.wire import WireStream, block, steps_of, u32


class Gate:
    """Holds a backend's launches while it is closed, so that a test decides what arrives during a turn."""

    def __init__(self) -> None:
        self._open = threading.Event()
        self._open.set()
        self.reached = threading.Event()  # a launch is waiting

    def close(self) -> None:
        self.reached.clear()
        self._open.clear()

    def open(self) -> None:
        self._open.set()

    @property
    def is_open(self) -> bool:
        return self._open.is_set()

    def __call__(self) -> None:
        if not self._open.is_set():
            self.reached.set()
        self._open.wait()


@dataclass
class CountingModel:
    """A model of the front door and what a test may do to it."""

    door: EngineClient
    engine: Engine
    backend: FakeBackend
    gate: Gate  # while a launch is computing
    crashes: list[BaseException] = field(default_factory=list)
    store: InstantStore | None = None


@dataclass
class FrontDoor:
    """What a test sees."""

    address: str
    health: str  # the address for probes alone; "" for none
    channel: grpc.aio.Channel
    rpc: RpcServer
    models: dict[str, CountingModel]
    ended: asyncio.Queue[tuple[str, str, str]]  # service, method, code of each call that ended

    def of(self, token: str, *metadata: tuple[str, str]) -> Self:
        """The front door as it is to a caller who shows a token, and some metadata, with each call."""
        return replace(self, channel=showing(self.channel, *metadata, token=token))

    @property
    def inference(self) -> inference_pb2_grpc.InferenceServiceStub:
        return inference_pb2_grpc.InferenceServiceStub(self.channel)

    @property
    def sessions(self) -> session_pb2_grpc.SessionServiceStub:
        return session_pb2_grpc.SessionServiceStub(self.channel)

    @property
    def catalogue(self) -> model_pb2_grpc.ModelServiceStub:
        return model_pb2_grpc.ModelServiceStub(self.channel)


@asynccontextmanager
async def front_door(
    *names: str,
    settings: DoorSettings | None = None,
    publish: bool = True,
    backend: Callable[[], FakeBackend] = FakeBackend,
    clock: Clock = time.monotonic,
    tap: Callable[[Command], None] = lambda command: None,
    spec: Callable[[str], ModelSpec] = counter_spec,
    on_the_loop: bool = False,
    probes: bool = False,
    trusted: bytes = b"",
    access: Access | None = None,
    contents: Contents | None = None,
    keep: StoreSettings | None = None,
    **engine: float,
) -> AsyncIterator[FrontDoor]:
    """Serves counting models of these names (one `counter` if none is given); `engine` are EngineSettings that differ.

    `tap` hears of every command on its way to an engine. on_the_loop: whether the event loop turns engines where it may, while
    their gates are open. probes: whether it listens for these too. trusted: the authority that vouches for it where its settings
    have it speak TLS, in PEM. access: who may call, and what they may have; None: anybody. contents: what its store holds, which
    one front door after the other may have; None: there is no store. keep: how it is written to.
    """
    ended: asyncio.Queue[tuple[str, str, str]] = asyncio.Queue()
    names = names or ("counter",)
    models = Models([spec(name) for name in names])
    rpc = RpcServer(models, settings or DoorSettings(), lambda *call: ended.put_nowait(call), "0.0.0", access)
    served, threads = {}, []
    for name in names:
        keeping = None if contents is None else (contents, keep or StoreSettings())
        model = _model(spec(name), EngineSettings.model_validate({"capacity": 64, **engine}), backend(), clock, tap, keeping)
        if access is not None:
            model.door.submit(LimitTenants(limits(access, "sessions"), limits(access, "rollouts")))
        served[name] = model
        threads.append(_driver(model, clock, on_the_loop=on_the_loop))
    address, health = await rpc.start("127.0.0.1:0", "127.0.0.1:0" if probes else "")
    for thread in threads:
        thread.start()
    if publish:
        models.publish([model.door for model in served.values()])
        rpc.health.serving()
    try:
        async with _channel(address, trusted) as channel:
            yield FrontDoor(address, health, channel, rpc, served, ended)
    finally:
        for model in served.values():
            model.gate.open()
        await rpc.stop(0)
        for thread in threads:
            await asyncio.to_thread(thread.stop)


def _channel(address: str, trusted: bytes) -> grpc.aio.Channel:
    if trusted:
        return grpc.aio.secure_channel(address, grpc.ssl_channel_credentials(trusted))
    return grpc.aio.insecure_channel(address)


def _model(
    spec: ModelSpec,
    settings: EngineSettings,
    backend: FakeBackend,
    clock: Clock,
    tap: Callable[[Command], None],
    kept: tuple[Contents, StoreSettings] | None,
) -> CountingModel:
    gate, crashes, keeping, store = Gate(), list[BaseException](), None, None
    backend.before_collect = gate
    if kept is not None:
        contents, how = kept
        store = InstantStore(spec, backend.numerics, contents)
        keeping = Keeping(store, how, how.durable == "always")
    engine = Engine(spec, backend, settings, Unobserved(), clock, keeping=keeping)
    if store is not None:
        store.inbox = engine.inbox
    door = EngineClient(engine.spec, engine.limits, asyncio.get_running_loop())
    door.open(TappedDoor(engine.connect(door), tap))
    return CountingModel(door, engine, backend, gate, crashes, store)


def _driver(model: CountingModel, clock: Clock, *, on_the_loop: bool) -> EngineThread:
    """What turns the model's engine."""
    if not on_the_loop:
        return EngineThread(model.engine, model.crashes.append)
    model.engine.warm_up()  # else nobody would know how short its launches are
    loop = asyncio.get_running_loop()
    return GatedClockwork(model.gate, model.engine, loop, Arbiter(loop, clock), model.crashes.append)


class GatedClockwork(Clockwork):
    """A clockwork whose loop turns no engine that would wait at a closed gate."""

    def __init__(self, gate: Gate, *clockwork: Any) -> None:
        super().__init__(*clockwork)
        self._gate = gate

    def _fits(self) -> bool:
        return self._gate.is_open and super()._fits()


class Arrivals:
    """A tap that tells when a command of some kind comes to an engine."""

    def __init__(self) -> None:
        self._awaited: list[tuple[type | UnionType, asyncio.Future[None]]] = []

    def next(self, kind: type | UnionType) -> asyncio.Future[None]:
        """Done once the next one has come."""
        arrived: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._awaited.append((kind, arrived))
        return arrived

    def __call__(self, command: Command) -> None:
        self._awaited = [(kind, arrived) for kind, arrived in self._awaited if not arrived.done()]
        for kind, arrived in self._awaited:
            if isinstance(command, kind):
                arrived.set_result(None)


class TappedDoor:
    """An engine's mouth that somebody listens at."""

    def __init__(self, door: Door, tap: Callable[[Command], None]) -> None:
        self._door = door
        self._tap = tap

    def submit(self, *commands: Command) -> None:
        for command in commands:
            self._tap(command)
        self._door.submit(*commands)


class CollectingDoor:
    """An engine's mouth that only remembers what was submitted."""

    def __init__(self) -> None:
        self.commands: list[Command] = []

    def submit(self, *commands: Command) -> None:
        self.commands += commands


class CountingStream(WireStream):
    """A stream of counting models: inputs are numbers, answers are running sums."""

    async def open_stream(self) -> None:
        """Returns once the server has the stream."""
        await self._call.initial_metadata()

    async def send_open(self, model: str, handles: Sequence[int]) -> None:
        """Asks for sessions without waiting for them."""
        request = inference_pb2.OpenOnStream(model=model, handles=u32(handles))
        await self.send(inference_pb2.StreamRequest(open=request))

    async def send_attach(self, model: str, handle: int, session_id: str, secret: bytes) -> None:
        """Asks for a session without waiting for it."""
        one = inference_pb2.AttachSession(handle=handle, id=session_id, secret=secret)
        await self.send(inference_pb2.StreamRequest(attach=inference_pb2.Attach(model=model, sessions=[one])))

    async def all_read(self) -> None:
        """Returns once the server has read all that was sent: a step for nobody is answered without any engine."""
        await self.step([60_000], [0], [0])
        await self.errors(1)

    async def end(self) -> tuple[grpc.StatusCode, str]:
        """Reads to the end; returns how the call ended."""
        with suppress(grpc.aio.AioRpcError):
            while await self._call.read() is not grpc.aio.EOF:
                pass
        return await self._call.code(), await self._call.details()

    async def step(self, handles: Sequence[int], first_seqs: Sequence[int], *rows: Sequence[float], **fields: object) -> None:
        """Sends one block, a row of values per handle."""
        request = block(handles, first_seqs, [len(row) for row in rows], np.array([x for row in rows for x in row], np.float32))
        request.block.MergeFrom(inference_pb2.Block(**fields))  # type: ignore[arg-type]
        await self.send(request)

    async def sums(self, steps: int) -> dict[tuple[int, int], float]:
        """Reads until so many steps are answered: sum by (handle, seq). Nothing may be refused."""
        found: dict[tuple[int, int], float] = {}
        while len(found) < steps:
            if not (message := await self.receive()).HasField("answers"):
                continue  # durable counts, which come when they come
            answers = message.answers
            if answers.errors:
                raise AssertionError(f"refused: {answers.errors}")
            handles, seqs = steps_of(answers)
            sums = np.frombuffer(answers.outputs[0], "<f4")
            found.update({(int(h), int(s)): float(x) for h, s, x in zip(handles, seqs, sums, strict=True)})
        return found

    async def errors(self, rows: int) -> list[tuple[int, int, int, str, int]]:
        """Reads until so many rows are refused: (handle, first_seq, length, reason, expected_seq). Skips answers."""
        found: list[tuple[int, int, int, str, int]] = []
        while len(found) < rows:
            errors = (await self.receive()).answers.errors
            found += [(each.handle, each.first_seq, each.length, each.error.reason, each.expected_seq) for each in errors]
        return found


async def wait_for(event: threading.Event) -> None:
    """Waits on the event loop for what another thread does."""
    await asyncio.to_thread(event.wait)
