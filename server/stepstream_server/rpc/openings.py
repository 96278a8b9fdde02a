"""Openings of sessions, dealt out over the rounds of the event loop: steps go between them."""

from __future__ import annotations

import asyncio
from collections import deque


class Openings:
    """Who may open or attach sessions, one message after the other over all streams and calls.

    Opening costs ten times what a step does. One message is taken in a round of the event loop, so that a client which opens
    without end leaves the rest of each round to the steps of streams that have their sessions.
    """

    def __init__(self) -> None:
        self._taken = False  # whether this round's is
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def turn(self) -> None:
        """Waits until something may be opened: first come, first served."""
        loop = asyncio.get_running_loop()
        if self._taken:
            waiting: asyncio.Future[None] = loop.create_future()
            self._waiting.append(waiting)
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
            waiting = self._waiting.popleft()
            if not waiting.done():
                waiting.set_result(None)
                return
        self._taken = False
