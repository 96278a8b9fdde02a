"""How much one stream may have in flight: taken when a message is read, given back when its outcomes are written."""

from __future__ import annotations

import asyncio


class Credits:
    """Counts outcomes in flight, in steps. A message that exceeds what is left passes; the next one waits."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._room = asyncio.Event()
        self.in_flight = 0

    def take(self, count: int) -> None:
        self.in_flight += count

    def give(self, count: int) -> None:
        self.in_flight -= count
        self._room.set()

    @property
    def used_up(self) -> bool:
        return self.in_flight >= self._limit

    async def room(self) -> None:
        """Waits until something may be read again."""
        while self.used_up:
            self._room.clear()
            await self._room.wait()
