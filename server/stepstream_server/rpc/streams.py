"""All streams of this front door: bounded in number and in what their clients leave unread, told of a drain, ended at its end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

from stepstream_server.config import DoorSettings
from stepstream_server.errors import CallerError, Reason, ServerFault
from stepstream_server.rpc.interceptors import Context
from stepstream_server.rpc.models import Models
from stepstream_server.rpc.outgoing import Unread
from stepstream_server.rpc.succession import Place, Replaceable, Succession

# For clients that were told of a drain to half-close their streams: a round trip, and what their applications are at.
_GOODBYE_SECONDS = 1.0


class OpenStream(Replaceable, Protocol):
    """A streaming call of any protocol."""

    async def run(self, context: Context, opening: Awaitable[None]) -> None:
        """Reads and writes, once `opening` is done and until both sides are."""

    @property
    def unread_bytes(self) -> int:
        """What waits to be written, nearly."""

    def drain(self, seconds: float) -> None:
        """Tells the client, if the protocol has words for it, that streams are ended in so many seconds."""

    def finish(self) -> None:
        """Reads no more; the stream ends once all that was read is answered."""

    def end(self) -> None:
        """The call is over."""


Make = Callable[[int, Models, DoorSettings, Unread, Callable[[], None]], OpenStream]  # as the constructors of streams


class Streams:
    """On the event loop's thread."""

    def __init__(self, models: Models, settings: DoorSettings) -> None:
        self._models = models
        self._settings = settings
        self._open: dict[OpenStream, Place] = {}
        self._succession = Succession()
        self._unread = Unread(settings.max_unread_bytes)
        self._draining = False
        self._empty = asyncio.Event()

    def __len__(self) -> int:
        return len(self._open)

    async def serve(
        self,
        make: Make,
        context: Context,
        place: Place = Place(),  # noqa: B008  # immutable
    ) -> None:
        """Opens a stream for a call, runs it, and closes it when the call is over. Raises what `open` raises."""
        stream = self.open(make, place)
        context.add_done_callback(lambda _: self.close(stream))  # type: ignore[arg-type]  # its stub is no Protocol
        commit = context.send_initial_metadata(())  # so that nothing in between replays what was sent
        await stream.run(context, commit)

    def open(self, make: Make, place: Place) -> OpenStream:
        """Raises CallerError(QUEUE_FULL) beyond the limit, ServerFault(SERVER_DRAINING) once `drain` was called."""
        self._succession.make_way(place)
        if self._draining:
            raise ServerFault(Reason.SERVER_DRAINING, "the server is about to stop and takes no new streams")
        if len(self._open) >= self._settings.max_streams:
            raise CallerError(Reason.QUEUE_FULL, f"all {self._settings.max_streams} streams are in use")
        stream = make(self._models.next_stream(), self._models, self._settings, self._unread, self._bound_unread)
        self._open[stream] = place
        self._succession.enter(place, stream)
        return stream

    @property
    def unread_bytes(self) -> int:
        """What waits to be read by clients, nearly."""
        return self._unread.bytes

    def close(self, stream: OpenStream) -> None:
        """The stream's call is over."""
        self._succession.leave(self._open.pop(stream), stream)
        stream.end()
        if not self._open:
            self._empty.set()

    def drain(self, seconds: float) -> None:
        """Tells every stream that it will be ended in so many seconds."""
        self._draining = True
        for stream in self._open:
            stream.drain(seconds)

    async def finish(self, seconds: float, goodbye_seconds: float = _GOODBYE_SECONDS) -> bool:
        """Ends each stream once all that was read from it is answered. Returns whether all have ended so.

        Clients may say goodbye first: where a stream is ended while its client writes, gRPC tells it of an internal error.
        """
        goodbye_seconds = min(goodbye_seconds, seconds / 2)
        if await self._all_ended(goodbye_seconds):
            return True
        for stream in self._open:
            stream.finish()
        return await self._all_ended(seconds - goodbye_seconds)

    async def _all_ended(self, seconds: float) -> bool:
        """Waits for it so long."""
        try:
            async with asyncio.timeout(seconds):
                while self._open:
                    self._empty.clear()
                    await self._empty.wait()
        except TimeoutError:
            return False
        return True

    def _bound_unread(self) -> None:
        """Beyond the limit, who has left most unread is let go of. Nothing is lost: its sessions keep their answers."""
        while self._unread.bytes > self._unread.limit:
            slowest = max(self._open, key=lambda stream: stream.unread_bytes)
            message = f"{self._unread.bytes} bytes wait for clients to read them, most of them on this stream"
            slowest.abandon(CallerError(Reason.QUEUE_FULL, message))
