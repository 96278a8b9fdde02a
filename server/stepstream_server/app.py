"""The composition root: the only module that knows every room. Builds, starts, drains, stops.

Bundles are checked before anything listens. The door listens before the models are warm, so that a probe can tell a server
that is starting (NOT_SERVING) from one that is not there; callers hear MODEL_NOT_READY until then.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog

from stepstream_server import backends, bundles
from stepstream_server.bundles import Bundle
from stepstream_server.config import Settings, split_address
from stepstream_server.engine.engine import Engine
from stepstream_server.engine.ports import Drain
from stepstream_server.engine.thread import EngineThread
from stepstream_server.rpc import ModelDoor, Models, RpcServer
from stepstream_server.telemetry import Exporter, Metrics, Replacements, new_registry

_END_GRACE_SECONDS = 1.0  # for calls to be told how they ended; some, like a watch of the health, never end by themselves

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Bound:
    """Addresses as bound, HOST:PORT, where settings may have said port 0."""

    listen: str
    metrics: str


@dataclass(frozen=True, slots=True)
class _Served:
    """One model at work."""

    engine: Engine
    thread: EngineThread
    door: ModelDoor


async def serve(settings: Settings, *, stop: asyncio.Event, on_started: Callable[[Bound], None]) -> int:
    """Serves until `stop` is set, then drains. Returns the exit code: 0 after a drain, 1 after an engine's crash.

    `on_started` hears the addresses once every model is warm. Raises BundleError for a model that cannot be served, OSError
    for an address that cannot be had, ServerFault for a backend that does not compute what it promises.
    """
    loaded = await asyncio.to_thread(bundles.load_all, settings.models)
    registry = new_registry()
    metrics = Metrics(registry)
    version = importlib.metadata.version("stepstream")
    metrics.build_info(version, settings.backend.kind, settings.backend.device)
    models = Models([bundle.spec for bundle in loaded])
    rpc = RpcServer(models, settings.door, metrics.rpc_handled, version)
    exporter = Exporter(registry, settings.metrics)
    crashed = asyncio.Event()
    served: list[_Served] = []
    try:
        metrics_address = exporter.start()
        port = await rpc.start(settings.listen)
        served = await _start_engines(loaded, settings, metrics, crashed)
        models.publish([each.door for each in served])
        await rpc.health.serving()
        on_started(Bound(_address(split_address(settings.listen)[0], port), _address(*metrics_address)))
        await _first(stop, crashed)
        if not crashed.is_set():
            await _drain(rpc, [each.door for each in served], settings.door.drain_seconds)
        if crashed.is_set():
            await rpc.health.failed()
        return int(crashed.is_set())
    finally:
        await rpc.stop(_END_GRACE_SECONDS)
        for each in served:
            await asyncio.to_thread(each.thread.stop)
        await asyncio.to_thread(exporter.stop)


async def _start_engines(loaded: Sequence[Bundle], settings: Settings, metrics: Metrics, crashed: asyncio.Event) -> list[_Served]:
    """Builds and warms up every model off the event loop, then sets all engines going."""
    engines = await asyncio.to_thread(lambda: [_build(bundle, settings, metrics) for bundle in loaded])
    loop = asyncio.get_running_loop()
    served = [_connect(engine, loop, crashed) for engine in engines]
    for each in served:
        each.thread.start()
        metrics.watch(each.engine.spec.name, each.engine.spec.version, each.engine.stats)
    return served


def _build(bundle: Bundle, settings: Settings, metrics: Metrics) -> Engine:
    """A model's engine, warm. Takes seconds."""
    spec, began = bundle.spec, time.monotonic()
    slots, max_batch = settings.engine.capacity, settings.engine.max_batch
    backend = backends.build(spec, bundle.weights, settings.backend, slots=slots, max_batch=max_batch)
    backend.warm_up()
    log.info("model_warm", model=spec.name, version=spec.version, seconds=round(time.monotonic() - began, 3))
    observer = Replacements(spec.name, spec.version, metrics.observer(spec.name, spec.version))
    return Engine(spec, backend, settings.engine, observer)


def _connect(engine: Engine, loop: asyncio.AbstractEventLoop, crashed: asyncio.Event) -> _Served:
    def on_crash(error: BaseException) -> None:
        log.error("engine_crashed", model=engine.spec.name, version=engine.spec.version, exc_info=error)
        with contextlib.suppress(RuntimeError):  # the loop is closed: the server has ended already
            loop.call_soon_threadsafe(crashed.set)

    door = ModelDoor(engine.spec, engine.limits, loop)
    door.open(engine.connect(door))
    return _Served(engine, EngineThread(engine, on_crash), door)


async def _drain(rpc: RpcServer, doors: Sequence[ModelDoor], seconds: float) -> None:
    """Stops without losing what was accepted: not ready, no new sessions, every stream told, steps finished, streams ended."""
    until = time.monotonic() + seconds
    log.info("draining", streams=len(rpc.streams), seconds=seconds)
    await rpc.health.draining()
    idle = [asyncio.create_task(door.ask(Drain)) for door in doors]
    rpc.streams.drain(seconds)
    await asyncio.wait(idle, timeout=seconds)
    for each in idle:
        each.cancel()
    await asyncio.gather(*idle, return_exceptions=True)  # an engine that has crashed is reported elsewhere
    ended = await rpc.streams.finish(max(until - time.monotonic(), _END_GRACE_SECONDS))
    log.info("drained", complete=ended)


async def _first(*events: asyncio.Event) -> None:
    """Waits until one of them is set."""
    waiting = [asyncio.ensure_future(event.wait()) for event in events]
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    for each in waiting:
        each.cancel()


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
