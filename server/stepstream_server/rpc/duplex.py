"""One bidirectional call: what is read goes in, what is ready goes out, in balance by credits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Generic, TypeVar

from stepstream_server.rpc.credits import Credits

Request = TypeVar("Request")
Response = TypeVar("Response")


class Duplex(Generic[Request, Response]):
    """On the event loop's thread. `take` is given what is read; `next` gives what is to be written, with the credits it returns.

    What `take` and `next` raise ends the call.
    """

    def __init__(
        self, take: Callable[[Request], None], next: Callable[[], tuple[Response, int] | None], credits: Credits
    ) -> None:
        self._take = take
        self._next = next
        self._credits = credits
        self._ready = False  # whether there is something to write, or a reason to end
        self._waiting: asyncio.Future[None] | None = None  # for that; an asyncio.Event takes twice as long
        self._half_closed = False
        self._error: Exception | None = None
        self._reader: asyncio.Task[None] | None = None

    async def responses(self, requests: AsyncIterator[Request], opening: Awaitable[None]) -> AsyncIterator[Response]:
        """What to write, once `opening` is done and until both sides are. Raises what makes it impossible to go on."""
        await opening
        if self._error is None:  # else it was ended before it began
            self._reader = asyncio.create_task(self._read(requests))
        while True:
            self._ready = False
            while (item := self._next()) is not None:
                response, credits = item
                yield response
                self._credits.give(credits)
            if self._error is not None:
                raise self._error
            if self._half_closed and not self._credits.in_flight:
                return
            if not self._ready:
                self._waiting = asyncio.get_running_loop().create_future()
                await self._waiting

    def grown(self) -> None:
        """There is something to write."""
        self._ready = True
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    def finish(self) -> None:
        """Reads no more; the call ends once all that was read is answered."""
        self.stop_reading()
        self._half_closed = True
        self.grown()

    def fail(self, error: Exception) -> None:
        """Ends the call with the error, behind what can be written."""
        self._error = error
        self.grown()

    def stop_reading(self) -> None:
        if self._reader is not None:
            self._reader.cancel()

    async def _read(self, requests: AsyncIterator[Request]) -> None:
        try:
            async for request in requests:
                self._take(request)
                if self._credits.used_up:
                    await self._credits.room()
        except Exception as error:  # whatever it is, the writer raises it and so ends the call
            self._error = error
        self._half_closed = True
        self.grown()
