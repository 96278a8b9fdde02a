"""The server's front, what speaks gRPC: in this process, or in workers of their own. `app` works with either in the same way."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from stepstream_server.access import Access
from stepstream_server.config import DoorSettings, LogLevel, Settings
from stepstream_server.engine.clockwork import Arbiter, Clockwork
from stepstream_server.engine.engine import Engine
from stepstream_server.engine.ports import STORE_DOOR, Inbox, StoreDone
from stepstream_server.engine.thread import EngineThread
from stepstream_server.ipc import Counts, Crew, Exchange
from stepstream_server.spec import ModelSpec
from stepstream_server.telemetry import Metrics

_COUNT_SECONDS = 5.0  # that a scrape waits for the event loop, which waits for each worker a second at most


class Front(Protocol):
    """From listening to the end, on the event loop."""

    inboxes: Sequence[Inbox]  # of the engines, in the order of their models

    async def start(self, listen: str, health: str) -> tuple[str, str]:
        """Listens, not serving yet, for all and for probes alone ("" for nowhere); returns both addresses as bound. Raises
        OSError if one cannot be had, or if files of TLS are wrong."""

    def connect(self, engines: Sequence[Engine]) -> None:
        """Before the engines' first turns."""

    def driver(self, engine: Engine, on_crash: Callable[[BaseException], None]) -> EngineThread:
        """What turns an engine that has been connected."""

    async def serve(self, engines: Sequence[Engine]) -> None:
        """Every model is warm."""

    def log_level(self, level: LogLevel) -> None:
        """This process logs at another level from now on; others are to do so too."""

    def take_access(self, access: Access) -> None:
        """From now on this tells who may call, and what they may have."""

    def tell(self, place: int, done: StoreDone) -> None:
        """Passes on what the store has done for the engine of a place in the order of the models. On the store's thread."""

    async def drain(self, seconds: float, *, resume: bool) -> bool:
        """Ends without losing what was accepted. resume: durable sessions will be found again. Returns whether everything was
        finished and every stream has ended so."""

    async def fail(self) -> None:
        """An engine has crashed."""

    async def stop(self, grace_seconds: float) -> None:
        """Gives calls that are open so long to end."""

    def close(self) -> None:
        """The engines' threads have ended."""


class Inside:
    """One process for all: what there is on few cores, and to debug and to embed."""

    def __init__(
        self, specs: Sequence[ModelSpec], settings: DoorSettings, metrics: Metrics, version: str, access: Access | None = None
    ) -> None:
        from stepstream_server.rpc import EngineClient, Models, RpcServer  # takes time, which workers spend instead

        self.inboxes: Sequence[Inbox] = [queue.SimpleQueue() for _ in specs]
        self._models = Models(specs)
        self._rpc = RpcServer(self._models, settings, metrics.rpc_handled, version, access)
        self._make_door = EngineClient
        self._doors: list[EngineClient] = []

    async def start(self, listen: str, health: str) -> tuple[str, str]:
        return await self._rpc.start(listen, health)

    def connect(self, engines: Sequence[Engine]) -> None:
        self._loop = asyncio.get_running_loop()
        self._arbiter = Arbiter(self._loop, time.monotonic)
        self._engines = engines
        for engine in engines:
            door = self._make_door(engine.spec, engine.limits, self._loop)
            door.open(engine.connect(door))
            self._doors.append(door)

    def driver(self, engine: Engine, on_crash: Callable[[BaseException], None]) -> EngineThread:
        if engine.max_wait or engine.depth > 1:  # it is to wait for more steps, or for a device: not on the loop
            return EngineThread(engine, on_crash)
        return Clockwork(engine, self._loop, self._arbiter, on_crash)

    async def serve(self, engines: Sequence[Engine]) -> None:
        self._models.publish(self._doors)
        self._rpc.health.serving()

    def log_level(self, level: LogLevel) -> None:
        """There are no others."""

    def take_access(self, access: Access) -> None:
        self._rpc.take_access(access)

    def tell(self, place: int, done: StoreDone) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed, and the engines have ended
            self._loop.call_soon_threadsafe(self._hear, place, done)

    def _hear(self, place: int, done: StoreDone) -> None:
        self._engines[place].inbox.put((STORE_DOOR, (done,)))  # the driver's, which turns the engine on this loop

    async def drain(self, seconds: float, *, resume: bool) -> bool:
        return await self._rpc.drain(seconds, resume=resume)

    async def fail(self) -> None:
        self._rpc.health.failed()

    async def stop(self, grace_seconds: float) -> None:
        await self._rpc.stop(grace_seconds)

    def close(self) -> None:
        """Nothing is left of it."""


class Workers:
    """Processes that share a port, and what they count."""

    def __init__(
        self, settings: Settings, specs: Sequence[ModelSpec], metrics: Metrics, version: str, access: Access | None = None
    ) -> None:
        self._exchanges = [Exchange() for _ in specs]
        self.inboxes: Sequence[Inbox] = self._exchanges
        attach = [exchange.attach for exchange in self._exchanges]
        size, beat = settings.worker_count, settings.worker_heartbeat_seconds
        self._crew = Crew(size, specs, settings.door, settings.log, version, attach, self._counted, beat, access)
        self._metrics = metrics

    async def start(self, listen: str, health: str) -> tuple[str, str]:
        bound = await self._crew.start(listen, health)
        loop = asyncio.get_running_loop()
        self._metrics.ask_workers(partial(self._count_now, loop))
        return bound

    def connect(self, engines: Sequence[Engine]) -> None:
        for engine, exchange in zip(engines, self._exchanges, strict=True):
            exchange.open(engine.connect)

    def driver(self, engine: Engine, on_crash: Callable[[BaseException], None]) -> EngineThread:
        return EngineThread(engine, on_crash)

    async def serve(self, engines: Sequence[Engine]) -> None:
        self._crew.serve([engine.limits for engine in engines])

    def log_level(self, level: LogLevel) -> None:
        self._crew.log_level(level)

    def take_access(self, access: Access) -> None:
        self._crew.take_access(access)

    def tell(self, place: int, done: StoreDone) -> None:
        self._exchanges[place].put((STORE_DOOR, (done,)))

    async def drain(self, seconds: float, *, resume: bool) -> bool:
        return await self._crew.drain(seconds, resume=resume)

    async def fail(self) -> None:
        self._crew.fail()

    async def stop(self, grace_seconds: float) -> None:
        self._metrics.ask_workers(None)
        await self._crew.stop()

    def close(self) -> None:
        for exchange in self._exchanges:
            exchange.close()

    def _count_now(self, loop: asyncio.AbstractEventLoop) -> None:
        """On the exporter's thread."""
        with contextlib.suppress(TimeoutError):  # a loop that has ended answers nobody
            asyncio.run_coroutine_threadsafe(self._count(), loop).result(_COUNT_SECONDS)

    async def _count(self) -> None:
        """Brings the metrics up to date."""
        await self._crew.count()
        self._metrics.workers(self._crew.alive, self._crew.deaths)

    def _counted(self, worker: int, counts: Counts) -> None:
        for service, method, code, calls in counts.calls:
            self._metrics.rpc_handled(service, method, code, calls)
        self._metrics.worker(worker, counts.cpu_seconds, counts.resident_bytes)
