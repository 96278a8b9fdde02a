"""What one stream may have in flight, how far it may be ahead of the engines, and what all streams may leave unread.

A stream that has used up either of the first two, or the steps per second of its tenant, is not read any more until it has room
again. The last ends the stream whose client has left most.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from stepstream_server.rpc.engine_client import EngineClient
from stepstream_server.rpc.quotas import Pace

# Messages of one stream: more than arrive of one in the half millisecond of a turn, and 3 ms of the costliest kind.
_MESSAGES = 16


class Credits:
    """Counts outcomes in flight, in credits (`EngineClient.step_credits` of each step): taken when a message is read, given back
    when its outcomes are written. A message that exceeds what is left passes; the next one waits.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._waiting: asyncio.Future[None] | None = None  # for room
        self.in_flight = 0

    def take(self, count: int) -> None:
        self.in_flight += count

    def give(self, count: int) -> None:
        self.in_flight -= count
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    @property
    def used_up(self) -> bool:
        return self.in_flight >= self._limit

    async def room(self) -> None:
        """Waits until something may be read again."""
        while self.used_up:
            self._waiting = asyncio.get_running_loop().create_future()
            await self._waiting


class Lookahead:
    """The last messages of one stream, as far as engines have not taken them in.

    An engine takes in what its front doors say in the order in which they said it. So a client that sends without end would hold
    everybody up, if its stream were read as fast as it writes.
    """

    def __init__(self) -> None:
        self._sent: deque[tuple[EngineClient, int]] = deque(maxlen=_MESSAGES)  # whom each was for, and in which envelope

    def sent(self, engine: EngineClient) -> None:
        """A message's part for one engine was said to it."""
        self._sent.append((engine, engine.envelope))

    @property
    def used_up(self) -> bool:
        """Whether the stream must wait."""
        sent = self._sent
        return len(sent) == _MESSAGES and sent[0][1] > sent[0][0].heard

    async def room(self) -> None:
        """Waits until something may be read again."""
        engine, envelope = self._sent[0]
        await engine.until_heard(envelope)


class Flow(NamedTuple):
    """The bounds on the reading of one stream."""

    credits: Credits
    lookahead: Lookahead
    pace: Pace


class Unread:
    """What all streams hold for their clients to read, and how much that may be. `on_full` is called when it is more."""

    def __init__(self, limit: int, on_full: Callable[[], None]) -> None:
        self.bytes = 0  # in memory, nearly
        self.limit = limit
        self.on_full = on_full
