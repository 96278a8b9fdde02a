"""How far a stream may be ahead of an engine."""

from __future__ import annotations

import asyncio

from stepstream_server.engine.ports import Delivery, Detached, Limits, RowErrors, StreamEnded
from stepstream_server.errors import Reason, ServerFault
from stepstream_server.rpc import EngineClient
from stepstream_server.rpc.stream.flow_control import Lookahead
from support.backend import counter_spec
from support.front_door import CollectingDoor


def open_door() -> EngineClient:
    """A model's door to an engine that says nothing by itself."""
    door = EngineClient(counter_spec("a"), Limits(8, 64, 8, 8, 60.0, 1), asyncio.get_running_loop())
    door.open(CollectingDoor())
    return door


async def say(door: EngineClient, lookahead: Lookahead, messages: int) -> None:
    """So many messages of one stream, each in an envelope of its own."""
    for _ in range(messages):
        door.submit(StreamEnded(1))
        lookahead.sent(door)
        await asyncio.sleep(0)


def heard(envelopes: int) -> Delivery:
    """A turn that says no more than how much was taken in."""
    return Delivery([], None, RowErrors(), Detached(), envelopes)


async def test_a_stream_waits_until_what_it_said_sixteen_messages_ago_was_heard() -> None:
    """Not before it has said as many, and no longer than that."""
    door, lookahead = open_door(), Lookahead()
    await say(door, lookahead, 15)
    assert not lookahead.used_up
    await say(door, lookahead, 1)
    assert lookahead.used_up
    room = asyncio.create_task(lookahead.room())
    door.hear(heard(0))
    await asyncio.sleep(0)
    assert not room.done()
    door.hear(heard(1))
    await asyncio.wait_for(room, 60)
    assert not lookahead.used_up
    await say(door, lookahead, 1)
    assert lookahead.used_up


async def test_messages_of_one_round_are_heard_together() -> None:
    """They are one envelope, however many they are."""
    door, lookahead = open_door(), Lookahead()
    for _ in range(20):
        door.submit(StreamEnded(1))
        lookahead.sent(door)
    assert lookahead.used_up
    await asyncio.sleep(0)
    door.hear(heard(1))
    assert not lookahead.used_up


async def test_nobody_waits_for_an_engine_that_has_failed() -> None:
    """Its streams are told otherwise; whoever waited is let go on, and one that was cancelled meanwhile does no harm."""
    door, lookahead = open_door(), Lookahead()
    await say(door, lookahead, 16)
    room, gone = asyncio.create_task(lookahead.room()), asyncio.create_task(lookahead.room())
    await asyncio.sleep(0)
    gone.cancel()
    door.give_up(ServerFault(Reason.ENGINE_FAILED, "failed"))
    await asyncio.wait_for(room, 60)
    assert not lookahead.used_up
