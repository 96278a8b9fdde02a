"""Who may not call, and what a tenant has used up. Each scenario's docstring is the situation in docs/errors.md."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from stepstream import Client, ClientOptions
from support.errors.desk import ALONE, AT_ONCE, Desk
from support.errors.heard import Heard
from support.front_door import CountingStream, front_door
from support.tenants import Tenants


@asynccontextmanager
async def office(**limits: float) -> AsyncIterator[tuple[Tenants, Desk, Client]]:
    """A desk of the one tenant, which may have so much, and a client of it. It has no sessions, and no stream has been begun."""
    tenants = Tenants(a=limits)
    async with front_door(access=tenants.access) as front:
        mine = front.of(tenants.token("a"))
        options = ClientOptions(reconnect_seconds=0, token=tenants.token("a"))
        async with CountingStream(mine.channel) as stream, Client(front.address, options) as client:
            yield tenants, Desk(mine, stream), client


async def nothing_shown(heard: Heard) -> None:
    """The call shows no token, and no certificate, that the server knows."""
    async with front_door(access=Tenants().access) as front, Client(front.address, AT_ONCE) as client:
        await heard.client(client.models())
        for shown in ("Basic eDp5", "Bearer unknown"):
            nobody = front.of("", ("authorization", shown))
            await heard.call(CountingStream(nobody.channel).receive())
            await heard.call(Desk(nobody, CountingStream(nobody.channel)).get(ALONE))


async def taken_away(heard: Heard) -> None:
    """The token or the certificate that a stream or a rollout has shown is taken away: it ends."""
    async with office() as (tenants, at, _):
        await at.stream.open("counter", [0])
        at.front.rpc.take_access(tenants.without(tenants.token("a")))
        await heard.call(at.stream.receive())


async def no_admin(heard: Heard) -> None:
    """A caller without the role `admin` asks for what is of all tenants together, such as `ModelStatistics`."""
    async with office() as (_, at, _):
        asked: Any = at.front.channel.unary_unary("/inference.GRPCInferenceService/ModelStatistics")
        await heard.call(asked(b""))


async def no_more_sessions_of_a_tenant(heard: Heard) -> None:
    """The tenant has as many sessions of the model open as its `sessions`."""
    async with office(sessions=0) as (_, at, client):
        await heard.client(client.open_session("counter"))
        await heard.call(at.open())
        await at.send_open([1])
        await heard.attached(at.stream)


async def no_more_streams_of_a_tenant(heard: Heard) -> None:
    """The tenant has as many streams open as its `streams`, over one worker as many as its share of them."""
    async with office(streams=0) as (_, at, client):
        await heard.call(at.stream.receive())
        await heard.client(client.open_session("counter"))


async def no_more_steps_of_a_tenant(heard: Heard) -> None:
    """The tenant has used up its `steps_per_second`: a call is refused, where a stream is only not read."""
    async with office(steps_per_second=0.001) as (_, at, _):
        await at.open(ALONE)
        await at.step(0, [1.0])
        await heard.call(at.step(1, [1.0]))
        await heard.call(at.generate())


SCENARIOS = (
    nothing_shown,
    taken_away,
    no_admin,
    no_more_sessions_of_a_tenant,
    no_more_streams_of_a_tenant,
    no_more_steps_of_a_tenant,
)
