"""Misfortunes of durable sessions and their store. Each scenario's docstring is the situation in docs/errors.md."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

from stepstream_proto.v1 import inference_pb2, session_pb2
from stepstream_server.config import StoreSettings
from stepstream_server.spec import ModelSpec
from support.backend import counter_spec
from support.errors.desk import Desk
from support.errors.heard import Heard
from support.front_door import CountingStream, front_door
from support.instant_store import InstantStore
from support.stepped_store import Contents
from support.wire import StreamRequest, u32

_NEVER = StoreSettings(every_seconds=3600, every_steps=1 << 40)  # by itself: only where somebody waits for it
_KEPT = "kept"


@asynccontextmanager
async def _desk(contents: Contents, spec: Callable[[str], ModelSpec] = counter_spec) -> AsyncIterator[tuple[Desk, InstantStore]]:
    """A desk whose server has a store, and that. It has no sessions but what the store holds."""
    async with front_door(contents=contents, keep=_NEVER, spec=spec) as front, CountingStream(front.channel) as stream:
        store = front.models["counter"].store
        assert store is not None
        yield Desk(front, stream), store


async def _kept() -> tuple[Contents, session_pb2.OpenSessionResponse]:
    """Everything that a server which is gone has left of session _KEPT."""
    contents = Contents()
    async with _desk(contents) as (at, _):
        return contents, await at.open(_KEPT, durable=True)


def _of_another_fingerprint(name: str) -> ModelSpec:
    return replace(counter_spec(name), fingerprint="1" * 64)


async def no_store(heard: Heard) -> None:
    """A durable session is asked for, and the server has no store."""
    async with front_door() as front, CountingStream(front.channel) as stream:
        at = Desk(front, stream)
        await heard.call(at.open(durable=True))
        await at.send_open([1], durable=True)
        await heard.attached(stream)


async def store_down(heard: Heard) -> None:
    """The store cannot be read or written now, which finding, opening or closing a durable session needs."""
    contents, _ = await _kept()
    async with _desk(contents) as (at, store):
        await at.send_open([1], ["held"], durable=True)
        await at.stream.receive()
        alone = await at.open("alone", durable=True)
        store.down = True
        await heard.call(at.get(_KEPT))
        await heard.call(at.open(durable=True))
        await heard.call(at.close("alone", alone.secret))
        await at.send_open([2], durable=True)
        await heard.attached(at.stream)
        await at.stream.send(StreamRequest(detach=inference_pb2.Detach(handles=u32([1]), close=True)))
        await heard.detach(at.stream)


async def not_written(heard: Heard) -> None:
    """A step of a durable session was applied and could not be written, and its caller waits for that."""
    async with _desk(Contents()) as (at, store):
        await at.open(_KEPT, durable=True)
        await at.step(0, [1.0], id=_KEPT)
        store.down = True
        await heard.call(at.step(1, [1.0], id=_KEPT))


async def session_lost(heard: Heard) -> None:
    """A durable session was restored from before the first input that its client still has."""
    contents, opened = await _kept()
    async with _desk(contents) as (at, _):
        one = inference_pb2.AttachSession(handle=0, id=_KEPT, secret=opened.secret, acked=2, replay_from=1)
        await at.stream.send(StreamRequest(attach=inference_pb2.Attach(model="counter", sessions=[one])))
        await heard.attached(at.stream)


async def unreadable_record(heard: Heard) -> None:
    """The record of a session in the store is damaged, or of a newer format."""
    contents, opened = await _kept()
    (shelf,) = contents.archive._shelves.values()
    shelf.rows[_KEPT] = shelf.rows[_KEPT]._replace(record=shelf.rows[_KEPT].record[:-1])
    async with _desk(contents) as (at, _):
        await heard.call(at.get(_KEPT))
        await at.send_attach(0, _KEPT, opened.secret)
        await heard.attached(at.stream)


async def of_another_model(heard: Heard) -> None:
    """The record of a session in the store is of a model with another fingerprint than the one served."""
    contents, opened = await _kept()
    async with _desk(contents, _of_another_fingerprint) as (at, _):
        await heard.call(at.get(_KEPT))
        await at.send_attach(0, _KEPT, opened.secret)
        await heard.attached(at.stream)


SCENARIOS = (no_store, store_down, not_written, session_lost, unreadable_record, of_another_model)
