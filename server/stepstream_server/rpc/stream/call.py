"""One bidirectional call of any protocol: reads requests, writes responses, and stops reading while credits are used up."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import grpc

from stepstream_server.config import DoorSettings
from stepstream_server.errors import StepStreamError
from stepstream_server.rpc.boundary import write
from stepstream_server.rpc.callers import Context, Party
from stepstream_server.rpc.models import Models
from stepstream_server.rpc.openings import Openings
from stepstream_server.rpc.quotas import Quotas
from stepstream_server.rpc.stream.flow_control import Flow, Unread


class Common(NamedTuple):
    """All that the streams of a front door have in common."""

    models: Models
    settings: DoorSettings
    unread: Unread
    openings: Openings
    quotas: Quotas


class Call(ABC):
    """On the event loop's thread."""

    def __init__(
        self,
        take: Callable[[Any], Callable[[], None] | None],
        next: Callable[[], tuple[bytes, int] | None],
        party: Party,
        flow: Flow,
        common: Common,
    ) -> None:
        """take: is given each request that is read; what it returns is to be called when something may be opened. next: gives the
        next response, serialised, with the credits that it returns once it is written, or None if none is ready. What these raise
        ends the call."""
        self._take = take
        self._next = next
        self._party = party
        self._flow = flow
        self._credits = flow.credits
        self._unread = common.unread
        self._openings = common.openings
        self._ready = False  # whether there is something to write, or a reason to end
        self._waiting: asyncio.Future[None] | None = None  # for that; an asyncio.Event takes twice as long
        self._half_closed = False
        self._error: Exception | None = None
        self._opening: Callable[[], None] | None = None  # read, and waiting until something may be opened
        self._reading: asyncio.Task[None] | None = None

    @property
    @abstractmethod
    def unread_bytes(self) -> int:
        """What waits to be written, nearly."""

    @abstractmethod
    def drain(self, seconds: float, *, resume: bool) -> None:
        """Tells the client, if the protocol has words for it, that streams are ended in so many seconds, and whether durable
        sessions will be found again."""

    @abstractmethod
    def let_go(self) -> None:
        """Lets everything go that the call holds, and drops what is unread."""

    async def run(self, context: Context, opening: Awaitable[None]) -> None:
        """Reads and writes, once `opening` is done and until both sides are. Raises what makes it impossible to go on."""
        await opening
        loop = asyncio.get_running_loop()
        if self._error is None:  # else it was ended before it began
            self._reading = loop.create_task(self._read(context))
        # By a task of its own: whatever waits for the call would be passed through at each wait of its writer, too.
        await loop.create_task(self._write(context))

    def grown(self) -> None:
        """There is something to write."""
        self._go_on()
        if self._unread.bytes > self._unread.limit:
            self._unread.on_full()

    def finish(self) -> None:
        """Reads no more; the call ends once all that was read is answered."""
        self._stop_reading()
        opening, self._opening = self._opening, None
        if opening is not None:
            try:
                opening()
            except StepStreamError as error:
                self._error = error
        self._half_closed = True
        self._go_on()

    def fail(self, error: StepStreamError) -> None:
        """Ends the call with the error, behind what can be written."""
        self._error = error
        self._go_on()

    def abandon(self, error: StepStreamError) -> None:
        """Ends the call from this side; its client hears the error if it reads again."""
        self.end()
        self.fail(error)

    def end(self) -> None:
        """The call is over."""
        self._stop_reading()
        self._opening = None
        self.let_go()

    def _go_on(self) -> None:
        """Wakes the writer."""
        self._ready = True
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    def _stop_reading(self) -> None:
        if self._reading is not None:
            self._reading.cancel()

    async def _write(self, context: Context) -> None:
        """Writes what is ready, until the call is done. Raises what makes it impossible to go on."""
        loop = asyncio.get_running_loop()
        while True:
            self._ready = False
            while (item := self._next()) is not None:
                response, credits = item
                await write(context, response)
                self._credits.give(credits)
            if self._error is not None:
                raise self._error
            if self._half_closed and not self._credits.in_flight:
                return
            if not self._ready:
                self._waiting = loop.create_future()
                await self._waiting

    async def _read(self, context: Context) -> None:
        """By calls of the context: an iterator of requests would cost another coroutine per message."""
        take, (credits, lookahead, pace) = self._take, self._flow
        try:
            while (request := await context.read()) is not grpc.aio.EOF:
                self._opening = take(request)
                if self._opening is not None:
                    await self._openings.turn(self._party)
                    self._opening()
                    self._opening = None
                if lookahead.used_up:
                    await lookahead.room()
                if credits.used_up:
                    await credits.room()
                while pace.used_up:
                    await pace.wait()
        except Exception as error:  # whatever it is, the writer raises it and so ends the call
            self._error = error
        self._half_closed = True
        self._go_on()
