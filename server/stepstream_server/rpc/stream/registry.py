"""All streams of this front door: bounded in number and in what their clients leave unread, told of a drain, ended at its end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from stepstream_server.config import DoorSettings
from stepstream_server.errors import CallerError, Reason, ServerFault
from stepstream_server.rpc.callers import NUMBER, Context, Party, party_of
from stepstream_server.rpc.models import Models
from stepstream_server.rpc.openings import Openings
from stepstream_server.rpc.quotas import Quotas
from stepstream_server.rpc.stream.call import Call, Common
from stepstream_server.rpc.stream.flow_control import Unread

# For clients that were told of a drain to half-close their streams: a round trip, and what their applications are at.
_GOODBYE_SECONDS = 1.0
Make = Callable[[int, Party, Common], Call]  # as the constructors of streams


class Fencing:
    """The newest open stream of each client that numbers its streams. On the event loop's thread.

    What a client wrote to a connection that broke may arrive long after it has gone on over another one. An Attach among it would
    take sessions away from the very stream that holds them now. So a client may name itself and number its streams, in the
    metadata `stepstream-client` and `stepstream-stream`; a newer stream ends those before it, and an older one is refused. That
    is of one front door; streams that others have are held apart by the engines (`engine.sessions.commands`).
    """

    def __init__(self) -> None:
        self._newest: dict[str, tuple[int, Call]] = {}

    def make_way(self, party: Party) -> None:
        """Ends the stream before. Raises CallerError if there is a newer one."""
        number, stream = self._newest.get(party.name, (-1, None))
        if stream is None:
            return
        if party.number <= number:
            raise CallerError(Reason.STREAM_REPLACED, f"{NUMBER}: expected more than {number}, got {party.number}", field=NUMBER)
        stream.abandon(CallerError(Reason.STREAM_REPLACED, f"{NUMBER}: stream {party.number} has taken this one's place"))

    def enter(self, party: Party, stream: Call) -> None:
        """The stream is its client's newest."""
        if party.name:
            self._newest[party.name] = (party.number, stream)

    def leave(self, party: Party, stream: Call) -> None:
        """The stream has ended."""
        if self._newest.get(party.name, (0, None))[1] is stream:
            del self._newest[party.name]


class Streams:
    """On the event loop's thread."""

    def __init__(self, models: Models, settings: DoorSettings, openings: Openings, quotas: Quotas) -> None:
        self._models = models
        self._most = settings.max_streams
        self._quotas = quotas
        self._open: dict[Call, Party] = {}
        self._fencing = Fencing()
        self._unread = Unread(settings.max_unread_bytes, self._bound_unread)
        self._common = Common(models, settings, self._unread, openings, quotas)
        self._draining = False
        self._empty = asyncio.Event()

    def __len__(self) -> int:
        return len(self._open)

    async def serve(self, make: Make, context: Context) -> None:
        """Opens a stream for a call, runs it, and closes it when the call is over. Raises what `open` raises."""
        party = party_of(context)
        stream = self.open(make, party)
        context.add_done_callback(lambda _: self.close(stream))  # type: ignore[arg-type]  # its stub is no Protocol
        commit = context.send_initial_metadata(())  # so that nothing in between replays what was sent
        try:
            await stream.run(context, commit)
        finally:
            stream.end()  # at once: its call is over when its client has taken the status, if that ever reads

    def open(self, make: Make, party: Party) -> Call:
        """Raises CallerError(QUEUE_FULL) beyond a limit, ServerFault(SERVER_DRAINING) once `drain` was called."""
        self._fencing.make_way(party)
        if self._draining:
            raise ServerFault(Reason.SERVER_DRAINING, "the server is about to stop and takes no new streams")
        if len(self._open) >= self._most:
            raise CallerError(Reason.QUEUE_FULL, f"all {self._most} streams are in use")
        self._quotas.enter(party.tenant)
        stream = make(self._models.next_stream(), party, self._common)
        self._open[stream] = party
        self._fencing.enter(party, stream)
        return stream

    @property
    def unread_bytes(self) -> int:
        """What waits to be read by clients, nearly."""
        return self._unread.bytes

    def close(self, stream: Call) -> None:
        """The stream's call is over."""
        party = self._open.pop(stream)
        self._quotas.leave(party.tenant)
        self._fencing.leave(party, stream)
        stream.end()
        if not self._open:
            self._empty.set()

    def drain(self, seconds: float, *, resume: bool = False) -> None:
        """Tells every stream that it will be ended in so many seconds, and whether durable sessions will be found again."""
        self._draining = True
        for stream in self._open:
            stream.drain(seconds, resume=resume)

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
            message = (
                f"the server has no room for more unread answers, and this stream has most of them: {slowest.unread_bytes} bytes"
            )
            slowest.abandon(CallerError(Reason.QUEUE_FULL, message))
