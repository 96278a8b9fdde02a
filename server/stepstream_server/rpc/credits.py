"""How much one stream may have in flight: taken when a message is read, given back when its outcomes are written.

A credit is a step whose outputs are small. A step of a model with large outputs takes one for each 2 KiB of them, whether it asks
for them or not: so the credits of a stream bound the bytes that wait to be read by its client, too.
"""

from __future__ import annotations

import asyncio

from stepstream_server.spec import ModelSpec

_CREDIT_BYTES = 2048  # the 8,192 credits of a stream stand for 16 MiB of outputs


def step_credits(spec: ModelSpec) -> int:
    """Credits of one step of a model."""
    return max(1, -(-spec.output_step_bytes // _CREDIT_BYTES))


def window_credits(spec: ModelSpec, steps: int, bytes: int) -> int:
    """Credits of all answers that one session may have unacknowledged, which an attach can bring."""
    return min(steps, max(1, bytes // max(1, spec.output_step_bytes))) * step_credits(spec)


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
