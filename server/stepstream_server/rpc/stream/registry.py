"""All streams of this front door: bounded in number and in what their clients leave unread, told of a drain, ended at its end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from stepstream_server.config import DoorSettings
from stepstream_server.errors import CallerError, Reason, ServerFault
from stepstream_server.rpc.boundary import Context
from stepstream_server.rpc.models import Models
from stepstream_server.rpc.openings import Openings
from stepstream_server.rpc.stream.call import Call
from stepstream_server.rpc.stream.flow_control import Unread

CLIENT, NUMBER = "stepstream-client", "stepstream-stream"

# For clients that were told of a drain to half-close their streams: a round trip, and what their applications are at.
_GOODBYE_SECONDS = 1.0
Make = Callable[[int, Models, DoorSettings, Unread, Openings], Call]  # as the constructors of streams


class StreamIdentity(NamedTuple):
    """A client's name and the number of its stream; a stream without a name has no place among others."""

    client: str = ""
    number: int = 0


class Fencing:
    """The newest open stream of each client that numbers its streams. On the event loop's thread.

    What a client wrote to a connection that broke may arrive long after it has gone on over another one. An Attach among it would
    take sessions away from the very stream that holds them now. So a client may name itself and number its streams, in the
    metadata `stepstream-client` and `stepstream-stream`; a newer stream ends those before it, and an older one is refused. That
    is of one front door; streams that others have are held apart by the engines (`engine.sessions.commands`).
    """

    def __init__(self) -> None:
        self._newest: dict[str, tuple[int, Call]] = {}

    def make_way(self, identity: StreamIdentity) -> None:
        """Ends the stream before. Raises CallerError if there is a newer one."""
        number, stream = self._newest.get(identity.client, (-1, None))
        if stream is None:
            return
        if identity.number <= number:
            raise CallerError(
                Reason.STREAM_REPLACED, f"{NUMBER}: expected more than {number}, got {identity.number}", field=NUMBER
            )
        stream.abandon(CallerError(Reason.STREAM_REPLACED, f"{NUMBER}: stream {identity.number} has taken this one's place"))

    def enter(self, identity: StreamIdentity, stream: Call) -> None:
        """The stream is its client's newest."""
        if identity.client:
            self._newest[identity.client] = (identity.number, stream)

    def leave(self, identity: StreamIdentity, stream: Call) -> None:
        """The stream has ended."""
        if self._newest.get(identity.client, (0, None))[1] is stream:
            del self._newest[identity.client]


def identity_of(metadata: Iterable[tuple[str, Any]] | None) -> StreamIdentity:
    """A stream's identity, by its call's metadata. Raises CallerError for a number that is none."""
    given = dict(metadata or ())
    client, number = given.get(CLIENT, ""), given.get(NUMBER, "0")
    if not (isinstance(number, str) and number.isdecimal() and len(number) < 20):
        raise CallerError(Reason.INVALID_ARGUMENT, f"{NUMBER}: expected a decimal number, got {str(number)[:50]!r}", field=NUMBER)
    return StreamIdentity(str(client), int(number))


class Streams:
    """On the event loop's thread."""

    def __init__(self, models: Models, settings: DoorSettings) -> None:
        self._models = models
        self._settings = settings
        self._open: dict[Call, StreamIdentity] = {}
        self._fencing = Fencing()
        self._unread = Unread(settings.max_unread_bytes, self._bound_unread)
        self.openings = Openings()
        self._draining = False
        self._empty = asyncio.Event()

    def __len__(self) -> int:
        return len(self._open)

    async def serve(
        self,
        make: Make,
        context: Context,
        identity: StreamIdentity = StreamIdentity(),  # noqa: B008  # immutable
    ) -> None:
        """Opens a stream for a call, runs it, and closes it when the call is over. Raises what `open` raises."""
        stream = self.open(make, identity)
        context.add_done_callback(lambda _: self.close(stream))  # type: ignore[arg-type]  # its stub is no Protocol
        commit = context.send_initial_metadata(())  # so that nothing in between replays what was sent
        await stream.run(context, commit)

    def open(self, make: Make, identity: StreamIdentity) -> Call:
        """Raises CallerError(QUEUE_FULL) beyond the limit, ServerFault(SERVER_DRAINING) once `drain` was called."""
        self._fencing.make_way(identity)
        if self._draining:
            raise ServerFault(Reason.SERVER_DRAINING, "the server is about to stop and takes no new streams")
        if len(self._open) >= self._settings.max_streams:
            raise CallerError(Reason.QUEUE_FULL, f"all {self._settings.max_streams} streams are in use")
        stream = make(self._models.next_stream(), self._models, self._settings, self._unread, self.openings)
        self._open[stream] = identity
        self._fencing.enter(identity, stream)
        return stream

    @property
    def unread_bytes(self) -> int:
        """What waits to be read by clients, nearly."""
        return self._unread.bytes

    def close(self, stream: Call) -> None:
        """The stream's call is over."""
        self._fencing.leave(self._open.pop(stream), stream)
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
