"""One bidirectional call: what is read goes in, what is ready goes out, in balance by credits."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from stepstream_server.rpc.credits import Credits
from stepstream_server.rpc.interceptors import Context
from stepstream_server.rpc.lookahead import Lookahead


class Duplex:
    """On the event loop's thread. `take` is given what is read; `next` gives what is to be written, serialised, with the credits
    that it returns.

    What `take` and `next` raise ends the call.
    """

    def __init__(
        self, take: Callable[[Any], None], next: Callable[[], tuple[bytes, int] | None], credits: Credits, lookahead: Lookahead
    ) -> None:
        self._take = take
        self._next = next
        self._credits = credits
        self._lookahead = lookahead
        self._ready = False  # whether there is something to write, or a reason to end
        self._waiting: asyncio.Future[None] | None = None  # for that; an asyncio.Event takes twice as long
        self._half_closed = False
        self._error: Exception | None = None
        self._reader: asyncio.Task[None] | None = None

    async def run(self, context: Context, opening: Awaitable[None]) -> None:
        """Reads and writes, once `opening` is done and until both sides are. Raises what makes it impossible to go on."""
        await opening
        loop = asyncio.get_running_loop()
        if self._error is None:  # else it was ended before it began
            self._reader = loop.create_task(self._read(context))
        while True:
            self._ready = False
            while (item := self._next()) is not None:
                response, credits = item
                await self._write(context, response)
                self._credits.give(credits)
            if self._error is not None:
                raise self._error
            if self._half_closed and not self._credits.in_flight:
                return
            if not self._ready:
                self._waiting = loop.create_future()
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

    async def _write(self, context: Context, response: bytes) -> None:
        """Where the client is gone, the call is cancelled; gRPC knows it before it says so otherwise."""
        try:
            await context.write(response)
        except grpc.aio.InternalError as gone:
            raise asyncio.CancelledError from gone

    async def _read(self, context: Context) -> None:
        """By calls of the context: an iterator of requests would cost another coroutine per message."""
        credits, lookahead = self._credits, self._lookahead
        try:
            while (request := await context.read()) is not grpc.aio.EOF:
                self._take(request)
                if lookahead.used_up:
                    await lookahead.room()
                if credits.used_up:
                    await credits.room()
        except Exception as error:  # whatever it is, the writer raises it and so ends the call
            self._error = error
        self._half_closed = True
        self.grown()
