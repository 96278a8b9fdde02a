"""Forks and snapshots that cannot be had. Each scenario's docstring is the situation in docs/errors.md."""

from __future__ import annotations

import dataclasses

from stepstream_server import snapshots
from support.errors.desk import ALONE, HELD, POISON, desk
from support.errors.heard import Heard


async def moved(heard: Heard) -> None:
    """The session was exported with `close`, to live on elsewhere."""
    async with desk() as at, at.client() as client:
        session = await client.open_session("counter")
        await session.export(close=True)
        await heard.client(session.step([1.0]))
        await at.export(HELD, secret=at.secret, close=True)
        await heard.ended(at.stream)
        await at.send_attach(1, HELD, at.secret)
        await heard.attached(at.stream)
        await heard.call(at.get(HELD))


async def quarantined(heard: Heard) -> None:
    """A session that is quarantined is to be forked, exported or rolled out."""
    async with desk() as at, at.client() as client:
        await Heard().call(at.step(1, [POISON]))
        await heard.call(at.fork())
        await heard.call(at.export())
        await heard.call(at.generate())
        await heard.client(client.fork_session("counter", ALONE))


async def passed(heard: Heard) -> None:
    """A session is to be forked or exported at a step below those applied."""
    async with desk() as at, at.client() as client:
        await heard.client(client.export_session("counter", ALONE, at=0))
        await heard.call(at.fork(at_seq=0))
        await heard.call(at.export(at_seq=0))


async def ahead(heard: Heard) -> None:
    """A session is to be forked or exported at a step above those admitted."""
    async with desk() as at, at.client() as client:
        await heard.client(client.export_session("counter", ALONE, at=2))
        await heard.call(at.fork(at_seq=2))
        await heard.call(at.export(at_seq=2))


async def damaged(heard: Heard) -> None:
    """The bytes are no snapshot, or were damaged."""
    async with desk() as at, at.client() as client:
        snapshot = (await at.export(close=True)).snapshot
        await heard.client(client.import_session(snapshot[:-1]))
        await heard.call(at.import_(b"anything"))
        await heard.call(at.import_(snapshot[:-1] + bytes([snapshot[-1] ^ 1])))


async def of_other_weights(heard: Heard) -> None:
    """The snapshot is of other weights than the model that is served."""
    async with desk() as at, at.client() as client:
        snapshot = snapshots.decode((await at.export(close=True)).snapshot)
        other = snapshots.encode(dataclasses.replace(snapshot, fingerprint="f" * 64))
        await heard.client(client.import_session(other))
        await heard.call(at.import_(other))


async def too_much_unacknowledged(heard: Heard) -> None:
    """A snapshot has more unacknowledged steps than the window of the server that is to import it."""
    async with desk() as at, desk(window_steps=2) as elsewhere, elsewhere.client() as client:
        await at.step(1, [1.0, 1.0, 1.0])
        await elsewhere.close(ALONE)
        snapshot = (await at.export()).snapshot
        await heard.client(client.import_session(snapshot))
        await heard.call(elsewhere.import_(snapshot))


SCENARIOS = (moved, quarantined, passed, ahead, damaged, of_other_weights, too_much_unacknowledged)
