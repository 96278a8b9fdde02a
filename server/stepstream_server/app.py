"""The composition root: the only module that knows every room. Builds, starts, drains, stops.

Bundles are checked before anything listens. The door listens before the models are warm, so that a probe can tell a server
that is starting (NOT_SERVING) from one that is not there; callers hear MODEL_NOT_READY until then.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar, cast

import structlog

from stepstream_server import backends, bundles, memory
from stepstream_server.access import Access
from stepstream_server.admin.office import Office
from stepstream_server.admin.service import administered
from stepstream_server.bundles import Bundle
from stepstream_server.config import LogLevel, Settings, join_address
from stepstream_server.desk import Desk
from stepstream_server.engine.compiled import cache_folder
from stepstream_server.engine.durable.questions import Keeping
from stepstream_server.engine.engine import Engine
from stepstream_server.engine.ports import Flush
from stepstream_server.engine.steps.rehearsal import is_prepared
from stepstream_server.engine.thread import EngineThread
from stepstream_server.fronts import Front, Inside, Workers
from stepstream_server.gate import Gate, warn_if_open
from stepstream_server.spec import ModelSpec
from stepstream_server.store import StoreThread, open_store
from stepstream_server.telemetry import Exporter, Metrics, Replacements, new_registry

_FLUSH_SECONDS = 5.0  # for durable sessions to be written, whatever streams have taken: a disk that is slow for a moment
_END_GRACE_SECONDS = 1.0  # for calls to be told how they ended; some, like a watch of the health, never end by themselves

log = structlog.get_logger(__name__)

First = TypeVar("First")
Second = TypeVar("Second")


@dataclass(frozen=True, slots=True)
class Bound:
    """Addresses as bound, HOST:PORT, where settings may have said port 0."""

    listen: str
    metrics: str
    health: str = ""  # none


async def serve(
    settings: Settings,
    *,
    stop: asyncio.Event,
    on_started: Callable[[Bound], None],
    levels: asyncio.Queue[LogLevel] | None = None,
) -> int:
    """Serves until `stop` is set, then drains. Returns the exit code: 0 after a drain, 1 after an engine's crash.

    `on_started` hears the addresses once every model is warm. Levels of the log that this process takes while it serves are to be
    put into `levels`, for other processes to take them too. Raises BundleError for a model that cannot be served, OSError
    for an address that cannot be had, ServerFault for a backend that does not compute what it promises, StoreError for a store
    that cannot be used.
    """
    registry = new_registry()
    metrics = Metrics(registry)
    loaded = await asyncio.to_thread(_load, settings, metrics)
    gate = Gate(settings.door.tokens)
    front = _front([bundle.spec for bundle in loaded], settings, metrics, gate.access)
    exporter = Exporter(registry, settings.metrics)
    crashed = asyncio.Event()
    background = [asyncio.create_task(_follow(levels or asyncio.Queue(), front))]
    drivers: list[EngineThread] = []
    store: StoreThread | None = None
    try:
        if settings.store.url:
            store = await asyncio.to_thread(open_store, settings.store.url)
        metrics_address = exporter.start()
        building = asyncio.to_thread(_build_all, loaded, settings, metrics, front, store)
        (listen, health), engines = await _both(front.start(settings.listen, settings.health), building)
        front.connect(engines)
        desks = [Desk(engine, asyncio.get_running_loop()) for engine in engines]
        drivers += _start(front, engines, metrics, crashed)
        gate.open(front, desks)
        await front.serve(engines)
        warn_if_open(settings.listen, settings.door)
        async with administered(settings.admin, Office(desks, gate, stop)):
            on_started(Bound(listen, join_address(*metrics_address), health))
            background += [asyncio.create_task(memory.keep_small()), asyncio.create_task(gate.watch())]
            await _first(stop, crashed)
            if not crashed.is_set():
                await _drain(front, desks, engines, settings.door.drain_seconds, store)
        failed = any(engine.failure for engine in engines)  # known before any caller hears of it, and before `crashed` is set
        if failed:
            await front.fail()
        return int(failed)
    finally:
        await front.stop(_END_GRACE_SECONDS)
        for driver in drivers:
            await asyncio.to_thread(driver.stop)
        if store is not None:
            await asyncio.to_thread(store.close)
        front.close()
        for task in background:
            task.cancel()
        await asyncio.to_thread(exporter.stop)


def _load(settings: Settings, metrics: Metrics) -> list[Bundle]:
    """What the folder of models has to serve; says what else is there."""
    folder = bundles.load_all(settings.models, strict=settings.strict_models)
    for name, reason in folder.others.items():
        log.info("passed_over", folder=str(settings.models), name=name, reason=reason)
    for name, error in folder.broken.items():
        log.error("bundle_broken", folder=str(settings.models), name=name, error=str(error))
    metrics.broken_bundles(len(folder.broken))
    for name in sorted(settings.model.keys() - {bundle.spec.name for bundle in folder.bundles}):
        log.warning("settings_of_no_model", key=f"model.{name}", expected="the name of a model that is served")
    return folder.bundles


def _front(specs: Sequence[ModelSpec], settings: Settings, metrics: Metrics, access: Access | None) -> Front:
    version = importlib.metadata.version("stepstream")
    metrics.build_info(version, settings.backend.kind, settings.backend.device)
    if settings.worker_count:
        return Workers(settings, specs, metrics, version, access)
    return Inside(specs, settings.door, metrics, version, access)


def _build_all(
    loaded: Sequence[Bundle], settings: Settings, metrics: Metrics, front: Front, store: StoreThread | None
) -> list[Engine]:
    """Every model's engine, warm. Takes seconds: off the event loop."""
    return [_build(bundle, settings, metrics, front, place, store) for place, bundle in enumerate(loaded)]


def _build(bundle: Bundle, settings: Settings, metrics: Metrics, front: Front, place: int, store: StoreThread | None) -> Engine:
    """The engine of a place in the order of the models."""
    spec, began = bundle.spec, time.monotonic()
    slots, max_batch = settings.engine.capacity + settings.engine.max_rollout_paths, settings.engine.max_batch
    backend = backends.build(spec, bundle.weights, settings.backend, slots=slots, max_batch=max_batch, graph=bundle.graph)
    observer = Replacements(spec.name, spec.version, metrics.observer(spec.name, spec.version))
    keeping = None
    if store is not None:
        counter = store.counter(spec, backend.numerics, partial(front.tell, place))
        keeping = Keeping(counter, settings.store, settings.keeps_all_of(spec.name))
    engine = Engine(spec, backend, settings.engine, observer, inbox=front.inboxes[place], keeping=keeping)
    if not is_prepared():
        log.info("compiling_rules", seconds_about=30, folder=str(cache_folder()))
    engine.warm_up()
    log.info("model_warm", model=spec.name, version=spec.version, seconds=round(time.monotonic() - began, 3))
    return engine


def _start(front: Front, engines: Sequence[Engine], metrics: Metrics, crashed: asyncio.Event) -> list[EngineThread]:
    """Sets all engines going."""
    loop = asyncio.get_running_loop()
    drivers = []
    for engine in engines:
        drivers.append(front.driver(engine, partial(_on_crash, engine.spec, loop, crashed)))
        drivers[-1].start()
        metrics.watch(engine.spec.name, engine.spec.version, engine.stats)
    return drivers


def _on_crash(spec: ModelSpec, loop: asyncio.AbstractEventLoop, crashed: asyncio.Event, error: BaseException) -> None:
    log.error("engine_crashed", model=spec.name, version=spec.version, exc_info=error)
    with contextlib.suppress(RuntimeError):  # the loop is closed: the server has ended already
        loop.call_soon_threadsafe(crashed.set)


async def _follow(levels: asyncio.Queue[LogLevel], front: Front) -> None:
    """Has the processes of the front log at each level that this one takes."""
    while True:
        front.log_level(await levels.get())


async def _drain(
    front: Front, desks: Sequence[Desk], engines: Sequence[Engine], seconds: float, store: StoreThread | None
) -> None:
    """Stops without losing what was accepted. Whatever sessions are left then, and not in a store that outlives the server, end
    with it."""
    until = time.monotonic() + seconds
    streams, sessions = sum(engine.stats().streams for engine in engines), sum(engine.stats().sessions for engine in engines)
    log.info("draining", streams=streams, sessions=sessions, seconds=seconds)
    outlives = store is not None and store.outlives
    complete = await front.drain(seconds, resume=outlives)
    if store is not None:
        await _flush(desks, engines, max(0.0, until - time.monotonic()) + _FLUSH_SECONDS)
    kept = sum(engine.stats().durable_sessions for engine in engines) if outlives else 0
    lost = sum(engine.stats().sessions for engine in engines) - kept
    log.log(logging.WARNING if lost else logging.INFO, "drained", complete=complete, sessions_lost=lost, sessions_kept=kept)


async def _flush(desks: Sequence[Desk], engines: Sequence[Engine], seconds: float) -> None:
    """Has all that durable sessions have been through written, within so many seconds. Says what could not be."""
    asked = [asyncio.create_task(desk.ask(Flush)) for desk in desks]
    late = (await asyncio.wait(asked, timeout=seconds))[1] if asked else set()
    for each in late:
        each.cancel()
    await asyncio.gather(*asked, return_exceptions=True)  # an engine that has crashed is reported elsewhere
    for each, engine in zip(asked, engines, strict=True):
        if each in late:
            lag = round(engine.stats().lag_seconds, 3)
            log.error("not_written", model=engine.spec.name, version=engine.spec.version, seconds=seconds, lag_seconds=lag)


async def _both(first: Awaitable[First], second: Awaitable[Second]) -> tuple[First, Second]:
    """Both results. Raises what either raised once both have ended, so that nothing is left behind half done."""
    results = await asyncio.gather(first, second, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return cast("tuple[First, Second]", tuple(results))


async def _first(*events: asyncio.Event) -> None:
    """Waits until one of them is set."""
    waiting = [asyncio.ensure_future(event.wait()) for event in events]
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    for each in waiting:
        each.cancel()
