"""All streams of this front door: bounded in number, told of a drain, ended at its end."""

from __future__ import annotations

import asyncio

from stepstream_server.config import DoorSettings
from stepstream_server.errors import CallerError, Reason, ServerFault
from stepstream_server.rpc.models import Models
from stepstream_server.rpc.stream import Stream


class Streams:
    """On the event loop's thread."""

    def __init__(self, models: Models, settings: DoorSettings) -> None:
        self._models = models
        self._settings = settings
        self._open: set[Stream] = set()
        self._draining = False
        self._empty = asyncio.Event()

    def __len__(self) -> int:
        return len(self._open)

    def open(self) -> Stream:
        """Raises CallerError(QUEUE_FULL) beyond the limit, ServerFault(SERVER_DRAINING) once `drain` was called."""
        if self._draining:
            raise ServerFault(Reason.SERVER_DRAINING, "the server is about to stop and takes no new streams")
        if len(self._open) >= self._settings.max_streams:
            raise CallerError(Reason.QUEUE_FULL, f"all {self._settings.max_streams} streams are in use")
        stream = Stream(self._models.next_stream(), self._models, self._settings)
        self._open.add(stream)
        return stream

    def close(self, stream: Stream) -> None:
        """The stream's call is over."""
        self._open.discard(stream)
        stream.end()
        if not self._open:
            self._empty.set()

    def drain(self, seconds: float) -> None:
        """Tells every stream that it will be ended in so many seconds."""
        self._draining = True
        for stream in self._open:
            stream.drain(seconds)

    async def finish(self, seconds: float) -> bool:
        """Ends each stream once all that was read from it is answered. Returns whether all have ended so."""
        for stream in self._open:
            stream.finish()
        try:
            async with asyncio.timeout(seconds):
                while self._open:
                    self._empty.clear()
                    await self._empty.wait()
        except TimeoutError:
            return False
        return True
