"""Openings, one in a round of the event loop, in which callers take turns."""

from __future__ import annotations

import asyncio
import itertools

import grpc
import pytest

from stepstream_proto.v1 import session_pb2
from stepstream_server.config import DoorSettings
from stepstream_server.errors import CallerError, Reason
from stepstream_server.rpc.callers import Party
from stepstream_server.rpc.openings import Openings
from support.front_door import CountingStream, front_door


async def opened_by(openings: Openings, name: str, order: list[str], party: Party = Party()) -> None:  # noqa: B008  # immutable
    """Opens something when it may."""
    await openings.turn(party)
    order.append(name)


def hold_up(openings: Openings, monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Nobody may open anything any more. The event is set when somebody waits for it."""
    waits = asyncio.Event()

    async def never(party: Party) -> None:
        waits.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(openings, "turn", never)
    return waits


async def test_what_others_do_goes_between_two_openings() -> None:
    """However many wait; one caller is served in order."""
    openings, order = Openings(), list[str]()
    opening = [asyncio.create_task(opened_by(openings, f"opening {number}", order)) for number in range(5)]

    async def step() -> None:
        while not all(each.done() for each in opening):
            order.append("step")
            await asyncio.sleep(0)

    await asyncio.wait_for(asyncio.gather(step(), *opening), 60)
    openings_only = [each for each in order if each != "step"]
    assert openings_only == [f"opening {number}" for number in range(5)]
    places = [order.index(each) for each in openings_only]
    assert all("step" in order[one:following] for one, following in itertools.pairwise(places))


async def test_tenants_take_turns_and_then_their_clients() -> None:
    """However many openings one of them has waiting before the others come."""
    openings, order = Openings(), list[str]()
    flood, other, honest = (Party(tenant, client) for tenant, client in (("a", "a/1"), ("a", "a/2"), ("b", "b/1")))
    opening = [asyncio.create_task(opened_by(openings, f"flood {number}", order, flood)) for number in range(6)]
    opening += [asyncio.create_task(opened_by(openings, f"other {number}", order, other)) for number in range(2)]
    opening += [asyncio.create_task(opened_by(openings, f"honest {number}", order, honest)) for number in range(2)]
    await asyncio.wait_for(asyncio.gather(*opening), 60)
    assert order[0] == "flood 0"  # nobody else was there
    assert order[1:8] == ["flood 1", "honest 0", "other 0", "honest 1", "flood 2", "other 1", "flood 3"]
    await asyncio.wait_for(opened_by(openings, "later", order, flood), 60)


async def test_one_that_gives_up_holds_nobody_up() -> None:
    """Whether it waits, or its turn has just come."""
    openings, order = Openings(), list[str]()
    opening = [asyncio.create_task(opened_by(openings, str(number), order)) for number in range(4)]
    await asyncio.sleep(0)  # the first has opened, and the others wait
    opening[1].cancel()
    openings._next()  # the third's turn
    opening[2].cancel()
    await asyncio.wait_for(asyncio.gather(*opening, return_exceptions=True), 60)
    assert order == ["0", "3"]
    await asyncio.wait_for(opened_by(openings, "later", order), 60)


async def test_streams_and_calls_open_in_turns() -> None:
    """All of them get their sessions, also where many ask at once."""
    async with front_door(settings=DoorSettings(max_streams=40)) as front:
        streams = [CountingStream(front.channel) for _ in range(20)]
        calls = [front.sessions.OpenSession(session_pb2.OpenSessionRequest(model="counter")) for _ in range(20)]
        for stream in streams:
            await stream.send_open("counter", [0])
        attached = [(await stream.receive()).attached.sessions[0] for stream in streams]
        answered = [await call for call in calls]
        ids = {each.id for each in attached} | {each.session.id for each in answered}
        assert len(ids) == 40


async def test_an_opening_that_waits_when_its_stream_is_finished_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was read: a server that is about to stop does not pass it over."""
    async with front_door() as front, CountingStream(front.channel) as stream:
        await stream.open("counter", [0])
        waits = hold_up(front.rpc.openings, monkeypatch)
        await stream.send_open("counter", [1])
        await asyncio.wait_for(waits.wait(), 60)
        (open_stream,) = front.rpc.streams._open
        open_stream.finish()
        assert (await stream.receive()).attached.sessions[0].handle == 1
        assert (await stream.end())[0] is grpc.StatusCode.OK


async def test_an_opening_of_a_stream_that_was_ended_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody would ever let go of its session."""
    async with front_door() as front, CountingStream(front.channel) as stream:
        await stream.open_stream()
        waits = hold_up(front.rpc.openings, monkeypatch)
        await stream.send_open("counter", [0])
        await asyncio.wait_for(waits.wait(), 60)
        (open_stream,) = front.rpc.streams._open
        open_stream.abandon(CallerError(Reason.QUEUE_FULL, "too much is unread"))
        open_stream.finish()
        assert (await stream.end())[0] is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert front.models["counter"].engine.stats().sessions == 0
