"""Openings of sessions, dealt out over the rounds of the event loop: steps go between them, and callers take turns."""

from __future__ import annotations

import asyncio
from collections import deque

from stepstream_server.rpc.callers import Party

_Queue = deque[asyncio.Future[None]]


class Openings:
    """Who may open or attach sessions, one message after the other over all streams and calls.

    Opening costs ten times what a step does. One message is taken in a round of the event loop, so that a client which opens
    without end leaves the rest of each round to the steps of streams that have their sessions.
    """

    def __init__(self) -> None:
        self._taken = False  # whether this round's is
        self._waiting: dict[str, dict[str, _Queue]] = {}  # by tenant and client, those whose turn it is first

    async def turn(self, party: Party) -> None:
        """Waits until a party may open something. Tenants take turns, then the clients of each, which are served in order."""
        loop = asyncio.get_running_loop()
        if self._taken:
            waiting: asyncio.Future[None] = loop.create_future()
            self._waiting.setdefault(party.tenant, {}).setdefault(party.client, deque()).append(waiting)
            try:
                await waiting
            except asyncio.CancelledError:
                if waiting.done() and not waiting.cancelled():  # it was this one's turn
                    self._next()
                raise
        self._taken = True
        if self._waiting:
            self._next()  # who is woken now goes on in the next round
        else:
            loop.call_soon(self._next)

    def _next(self) -> None:
        while self._waiting:
            waiting = self._take()
            if not waiting.done():
                waiting.set_result(None)
                return
        self._taken = False

    def _take(self) -> asyncio.Future[None]:
        """The first of the client whose turn it is; it and its tenant go behind the others."""
        tenant = next(iter(self._waiting))
        clients = self._waiting.pop(tenant)
        client = next(iter(clients))
        queue = clients.pop(client)
        waiting = queue.popleft()
        if queue:
            clients[client] = queue
        if clients:
            self._waiting[tenant] = clients
        return waiting
