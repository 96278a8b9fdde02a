"""Administrators' requests, over real engines: many sessions, several versions of a model, an engine that has crashed."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Sequence

import pytest

from stepstream_server.admin.office import Office
from stepstream_server.admin.requests import CloseSessions, ListSessions, ListTenants, Request, Row
from stepstream_server.config import EngineSettings
from stepstream_server.desk import Desk
from stepstream_server.engine.engine import Engine
from stepstream_server.engine.ports import NO_STREAM, Open, Opened
from stepstream_server.engine.thread import EngineThread
from stepstream_server.errors import CallerError, Reason, ServerFault
from stepstream_server.gate import Gate
from support.backend import FakeBackend, counter_spec
from support.observer import Unobserved

MANY = 600  # sessions: more than two pages
SETTINGS = EngineSettings(capacity=MANY + 10)


@pytest.fixture
async def desks() -> AsyncIterator[list[Desk]]:
    """Of two versions of a model."""
    engines = [
        Engine(dataclasses.replace(counter_spec(), version=version), FakeBackend(slots=MANY + 10), SETTINGS, Unobserved())
        for version in (1, 2)
    ]
    desks = [Desk(engine, asyncio.get_running_loop()) for engine in engines]
    drivers = [EngineThread(engine, lambda crash: None) for engine in engines]
    for driver in drivers:
        driver.start()
    yield desks
    for driver in drivers:
        await asyncio.to_thread(driver.stop)


@pytest.fixture
def office(desks: list[Desk]) -> Office:
    """Without tenants that have limits."""
    return Office(desks, Gate(""), asyncio.Event())


async def opened(desk: Desk, keys: Sequence[str]) -> None:
    """Opens sessions, held by nobody."""
    results = await desk.ask(lambda number: Open(NO_STREAM, number, keys))
    assert all(isinstance(each, Opened) for each in results)


async def rows(office: Office, request: Request) -> list[Row]:
    """All that a request is answered."""
    return [row async for row in office.answer(request)]


async def test_pages_are_one_listing(office: Office, desks: list[Desk]) -> None:
    """All sessions of a tenant in the order of their opening, each once, and nobody else's."""
    names = [f"n{number}" for number in range(MANY)]
    await opened(desks[0], [f"a/{name}" for name in names])
    await opened(desks[0], ["b/other", "plain"])
    assert [each["session"] for each in await rows(office, ListSessions(tenant="a"))] == names
    assert [each["session"] for each in await rows(office, ListSessions(tenant=""))] == ["plain"]
    assert len(await rows(office, ListSessions())) == MANY + 2


async def test_all_of_a_tenant_are_closed_page_by_page(office: Office, desks: list[Desk]) -> None:
    """Over pages that become shorter while they are turned, and of every version; others keep theirs."""
    for desk in desks:
        await opened(desk, [*(f"a/n{number}" for number in range(MANY)), "b/n0"])
    closed = await rows(office, CloseSessions(model=desks[0].spec.name, tenant="a", all=True))
    assert len(closed) == len({(each["version"], each["session"]) for each in closed}) == 2 * MANY
    left = [(each["version"], each["tenant"]) for each in await rows(office, ListSessions())]
    assert left == [(1, "b"), (2, "b")]


async def test_a_version_may_be_named(office: Office, desks: list[Desk]) -> None:
    """Without one a session is closed wherever it is; the others need not know it."""
    model = desks[0].spec.name
    for desk in desks:
        await opened(desk, ["a/x"])
    await opened(desks[1], ["a/y"])
    named = await rows(office, CloseSessions(model=model, model_version=2, tenant="a", session="x"))
    assert [each["version"] for each in named] == [2]
    assert [each["version"] for each in await rows(office, ListSessions(tenant="a"))] == [1, 2]
    assert [each["version"] for each in await rows(office, CloseSessions(model=model, tenant="a", session="y"))] == [2]
    with pytest.raises(CallerError, match=f"^model: '{model} 3' is not served; served: {model} 1, {model} 2$"):
        await rows(office, CloseSessions(model=model, model_version=3, tenant="a", all=True))


async def test_what_is_not_there_is_not_closed(office: Office, desks: list[Desk]) -> None:
    """A session of another tenant is not there."""
    await opened(desks[0], ["b/x"])
    with pytest.raises(CallerError) as raised:
        await rows(office, CloseSessions(model=desks[0].spec.name, tenant="a", session="x"))
    assert raised.value.reason == Reason.SESSION_NOT_FOUND
    assert await rows(office, CloseSessions(model=desks[0].spec.name, tenant="a", all=True)) == []


async def test_an_engine_that_has_crashed_is_told() -> None:
    """In place of an answer that would never come."""
    engine = Engine(counter_spec(), FakeBackend(slots=1), EngineSettings(capacity=1), Unobserved())
    desk = Desk(engine, asyncio.get_running_loop())
    engine.fail(ServerFault(Reason.ENGINE_FAILED, "it has crashed"))
    with pytest.raises(ServerFault, match="^it has crashed$"):
        await rows(Office([desk], Gate(""), asyncio.Event()), ListTenants())
