"""Sessions that cannot be had, or that end. Each scenario's docstring is the situation in docs/errors.md."""

from __future__ import annotations

import time

from stepstream_proto.v1 import inference_pb2
from support.clock import FakeClock
from support.errors.desk import ALONE, HELD, desk
from support.errors.heard import Heard
from support.front_door import CountingStream
from support.generating import floats
from support.wire import StreamRequest, u32


async def never_there(heard: Heard) -> None:
    """There has been no such session, or it ended longer ago than `engine.tombstone_seconds`."""
    async with desk() as at, at.client() as client:
        await heard.client(client.attach_session("counter", "nobody", b""))
        await heard.call(at.get("nobody"))
        await at.send_attach(1, "nobody")
        await heard.attached(at.stream)


async def closed(heard: Heard) -> None:
    """The session was closed, by this caller or another one."""
    async with desk() as at, at.client() as client:
        session = await client.open_session("counter")
        await at.close(session.id, session.secret)
        await heard.client(session.step([1.0]))
        await at.close(HELD, at.secret)
        await heard.ended(at.stream)
        await at.send_attach(1, HELD, at.secret)
        await heard.attached(at.stream)
        await heard.call(at.get(HELD))


async def expired(heard: Heard) -> None:
    """The session was idle for longer than its `idle_ttl`, or alive for longer than `engine.max_lifetime_seconds`."""
    clock = FakeClock(time.monotonic())
    async with desk(clock=clock, idle_ttl_seconds=60) as at:
        clock.advance(61)
        await at.open()  # an idle engine looks at the clock when somebody comes
        await heard.ended(at.stream)
        await at.send_attach(1, ALONE)
        await heard.attached(at.stream)
        await heard.call(at.get(ALONE))
        async with at.client() as client:
            await heard.client(client.get_session("counter", ALONE))


async def taken(heard: Heard) -> None:
    """Another stream has attached the session with its secret."""
    async with desk() as at, CountingStream(at.front.channel) as other, at.client() as client:
        session = await client.open_session("counter")
        await other.attach("counter", 1, session.id, session.secret)
        await heard.client(session.step([1.0]))
        await other.send_attach("counter", 0, HELD, at.secret)
        await heard.ended(at.stream)


async def let_go(heard: Heard) -> None:
    """The stream has detached the session, as it was asked to."""
    async with desk() as at, at.client() as client:
        session = await client.open_session("counter")
        await session.detach()
        await heard.client(session.step([1.0]))
        await at.stream.send(StreamRequest(detach=inference_pb2.Detach(handles=u32([0]))))
        await heard.ended(at.stream)


async def rolling(heard: Heard) -> None:
    """A rollout that commits to the session is under way."""
    async with desk() as at:
        zero = [floats(-1.0)]  # HELD's sum is 1: what is doubled from here on stays within float32
        request = inference_pb2.GenerateRequest(
            model="counter", session_id=HELD, secret=at.secret, seq=1, prompt=zero, max_steps=2**32 - 1
        )
        rollout = at.front.inference.Generate(request)
        await rollout.read()
        await heard.call(at.step(None, [1.0], id=HELD, secret=at.secret))
        await heard.call(at.generate(HELD, secret=at.secret))
        await at.stream.step([0], [1], [1.0])
        await heard.row(at.stream)
        rollout.cancel()


async def id_in_use(heard: Heard) -> None:
    """A session of this id is open."""
    async with desk() as at, at.client() as client:
        await heard.client(client.open_session("counter", id=HELD))
        await heard.call(at.open(HELD))
        await at.send_open([1], [HELD])
        await heard.attached(at.stream)


async def held(heard: Heard) -> None:
    """A stream holds the session, and the call has no secret."""
    async with desk() as at, at.client() as client:
        await heard.client(client.close_session("counter", HELD))
        await heard.call(at.close(HELD))


async def wrong_secret(heard: Heard) -> None:
    """The secret is not this session's."""
    async with desk() as at, at.client() as client:
        await heard.client(client.attach_session("counter", ALONE, b"guessed"))
        await heard.call(at.close(ALONE, b"guessed"))
        await at.send_attach(1, ALONE, b"guessed")
        await heard.attached(at.stream)


async def no_room(heard: Heard) -> None:
    """As many sessions are open as `engine.capacity`."""
    async with desk(capacity=2) as at, at.client() as client:
        await heard.client(client.open_session("counter"))
        await heard.call(at.open())
        await at.send_open([1])
        await heard.attached(at.stream)


async def handle_in_use(heard: Heard) -> None:
    """The handle stands for another session, or its detach is not confirmed yet."""
    async with desk() as at:
        await at.send_open([0])
        await heard.attached(at.stream)


SCENARIOS = (never_there, closed, expired, taken, let_go, rolling, id_in_use, held, wrong_secret, no_room, handle_in_use)
