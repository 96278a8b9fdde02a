"""Carries out administrators' requests: questions to engines, tenants read again, the order to stop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from functools import partial

from stepstream_server.access import Tenant
from stepstream_server.admin.requests import CloseSessions, Drain, ListSessions, ListTenants, Reload, Request, Row
from stepstream_server.desk import Desk
from stepstream_server.engine.ports import Close, CountTenants, List, Page, SessionInfo, TenantUse
from stepstream_server.errors import CallerError, Reason
from stepstream_server.gate import Gate
from stepstream_server.tenancy import plain, scoped

_PAGE = 256  # sessions that an engine describes at once: half a millisecond, which steps wait for
_CLOSED_AT_ONCE = 16  # sessions: some milliseconds on a slow core, after which steps have their turn
_NOTHING = Tenant()


class Office:
    """On the main process's event loop."""

    def __init__(self, desks: Sequence[Desk], gate: Gate, stop: asyncio.Event) -> None:
        """stop: has the server finish what it accepted and end."""
        self._desks = desks
        self._gate = gate
        self._stop = stop

    def answer(self, request: Request) -> AsyncIterator[Row]:
        """Carries a request out, row by row. Iterating raises StepStreamError, and AccessError for a file that cannot be used."""
        match request:
            case ListSessions():
                return self._list(request)
            case CloseSessions():
                return self._close_all(request) if request.all else self._close_one(request)
            case ListTenants():
                return self._tenants()
            case Drain():
                return self._drain()
            case Reload():
                return self._reload()

    async def _list(self, request: ListSessions) -> AsyncIterator[Row]:
        for desk in self._serving(request.model):
            tenants = await _tenants_of(desk) if request.tenant is None else [request.tenant]
            for tenant in tenants:
                async for page in _pages(desk, tenant):
                    for info in page:
                        yield _session_row(desk, tenant, info)

    async def _close_one(self, request: CloseSessions) -> AsyncIterator[Row]:
        key = scoped(request.tenant, request.session or "")
        results = [(desk, await _close(desk, key)) for desk in self._serving(request.model, request.model_version)]
        refusals = [result for _, result in results if isinstance(result, CallerError)]
        if len(refusals) == len(results):
            raise refusals[0]
        for desk, result in results:
            if isinstance(result, int):
                yield _closed_row(desk, key, request.tenant, result)

    async def _close_all(self, request: CloseSessions) -> AsyncIterator[Row]:
        """Those that the tenant has when this begins, and perhaps some that it opens meanwhile."""
        for desk in self._serving(request.model, request.model_version):
            async for page in _pages(desk, request.tenant):
                for begin in range(0, len(page), _CLOSED_AT_ONCE):
                    keys = [info.id for info in page[begin : begin + _CLOSED_AT_ONCE]]
                    results = await asyncio.gather(*(_close(desk, key) for key in keys))
                    for key, result in zip(keys, results, strict=True):
                        if isinstance(result, int):  # else it has ended meanwhile
                            yield _closed_row(desk, key, request.tenant, result)

    async def _tenants(self) -> AsyncIterator[Row]:
        access = self._gate.access
        known = access.tenants if access else {}
        for desk in self._desks:
            used = {each.tenant: each for each in await _use(desk)}
            for tenant in sorted({*used, *known}):
                yield _tenant_row(desk, used.get(tenant, TenantUse(tenant, 0, 0)), known.get(tenant, _NOTHING))

    async def _drain(self) -> AsyncIterator[Row]:
        self._stop.set()
        yield {"draining": True}

    async def _reload(self) -> AsyncIterator[Row]:
        self._gate.reload()
        yield {"tenants": len(self._gate.access.tenants) if self._gate.access else 0}

    def _serving(self, model: str | None, version: int | None = None) -> list[Desk]:
        """Those of a model's versions. Raises CallerError(MODEL_NOT_FOUND)."""
        found = [desk for desk in self._desks if model in (None, desk.spec.name) and version in (None, desk.spec.version)]
        if not found and model is not None:
            served = ", ".join(f"{each.spec.name} {each.spec.version}" for each in self._desks) or "none"
            wanted = model if version is None else f"{model} {version}"
            raise CallerError(Reason.MODEL_NOT_FOUND, f"model: {wanted!r} is not served; served: {served}", field="model")
        return found


async def _use(desk: Desk) -> list[TenantUse]:
    use: list[TenantUse] = await desk.ask(CountTenants)
    return use


async def _tenants_of(desk: Desk) -> list[str]:
    """Those that have sessions."""
    return sorted(each.tenant for each in await _use(desk) if each.sessions)


async def _pages(desk: Desk, tenant: str) -> AsyncIterator[list[SessionInfo]]:
    """A tenant's sessions: those in memory in the order of their opening, then those that are in the store alone."""
    start: int | str | None = 0
    while start is not None:
        page: Page = await desk.ask(partial(List, start=start, most=_PAGE, tenant=tenant))
        yield page.sessions
        start = page.next


async def _close(desk: Desk, key: str) -> int | CallerError:
    """Returns how many steps the session has taken, or why it was not closed. Raises ServerFault."""
    try:
        next_seq: int = await desk.ask(partial(Close, id=key, secret=b"", by_admin=True))
    except CallerError as error:
        return error
    return next_seq


def _session_row(desk: Desk, tenant: str, info: SessionInfo) -> Row:
    return {
        **_place(desk, tenant),
        "session": plain(info.id),
        "steps": info.next_seq,
        "pending": info.pending_steps,
        "age_seconds": round(info.age, 1),
        "idle_seconds": round(info.idle, 1),
        "attached": info.attached,
        "quarantined": info.quarantined,
        "durable": info.durable,
        "where": "store" if info.stored else "memory",
    }


def _closed_row(desk: Desk, key: str, tenant: str, next_seq: int) -> Row:
    return {**_place(desk, tenant), "session": plain(key), "steps": next_seq}


def _tenant_row(desk: Desk, use: TenantUse, may: Tenant) -> Row:
    """None: no limit is set."""
    return {
        **_place(desk, use.tenant),
        "sessions": use.sessions,
        "rollouts": use.rollouts,
        "most_sessions": may.sessions,
        "most_rollouts": may.rollouts,
        "most_streams": may.streams,
        "steps_per_second": may.steps_per_second,
    }


def _place(desk: Desk, tenant: str) -> Row:
    return {"tenant": tenant, "model": desk.spec.name, "version": desk.spec.version}
