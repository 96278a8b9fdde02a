"""One bidirectional call: what is read goes in, what is ready goes out, in balance by credits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
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
        self._ready = asyncio.Event()  # something to write, or a reason to end
        self._half_closed = False
        self._error: Exception | None = None
        self._reader: asyncio.Task[None] | None = None

    async def responses(self, requests: AsyncIterator[Request]) -> AsyncIterator[Response]:
        """What to write, until both sides are done. Raises what makes it impossible to go on."""
        if self._error is None:  # else it was ended before it began
            self._reader = asyncio.create_task(self._read(requests))
        while True:
            self._ready.clear()
            while (item := self._next()) is not None:
                response, credits = item
                yield response
                self._credits.give(credits)
            if self._error is not None:
                raise self._error
            if self._half_closed and not self._credits.in_flight:
                return
            await self._ready.wait()

    def grown(self) -> None:
        """There is something to write."""
        self._ready.set()

    def finish(self) -> None:
        """Reads no more; the call ends once all that was read is answered."""
        self.stop_reading()
        self._half_closed = True
        self._ready.set()

    def fail(self, error: Exception) -> None:
        """Ends the call with the error, behind what can be written."""
        self._error = error
        self._ready.set()

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
        self._ready.set()
