"""The connection to a server: one multiplexed stream, and another one whenever it breaks, for as long as patience lasts.

Sessions and what is in flight outlive the stream; only the stream itself is made anew. What is put into the outbox during one
turn of the event loop leaves together in the next. A client makes a new connection only when this one has given up.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Literal

import grpc

from stepstream._errors import ConnectionLost, DeadlineExceeded, ServerDraining, StepStreamError, Unavailable
from stepstream._events import Journal
from stepstream._options import ClientOptions
from stepstream._reach import Reach
from stepstream._stream.ledger import Ledger
from stepstream._stream.members import Membership, Request
from stepstream._stream.outbox import Outbox
from stepstream._stream.outcomes import Outcomes
from stepstream._translation import Status, StreamCall, defect, lasting, lost
from stepstream_proto.v1 import inference_pb2 as pb

HELD_SECONDS = 1.0  # for an application to begin with the next session that it moves; what only watches is not waited for longer


class Wire:
    """Writes what is put into the outbox, and has what the server says heeded. `changed` is set with everything new to write."""

    def __init__(
        self, call: StreamCall, outbox: Outbox, changed: asyncio.Event, heed: Callable[[pb.StreamResponse], None]
    ) -> None:
        self._call = call
        self._outbox = outbox
        self._changed = changed
        self._heed = heed
        self.finishing = False  # nothing more is to be written
        self.heard = False  # anything from the server

    async def run(self) -> StepStreamError:
        """Reads and writes until the stream ends. Returns why it did."""
        status = Status(self._call)
        writer = asyncio.create_task(self._write(), name="stepstream writer")
        try:
            return await self._read(status)
        except Exception as error:  # a defect on either side must not leave callers waiting
            return error if isinstance(error, StepStreamError) else defect(error)
        finally:
            self._call.cancel()
            writer.cancel()
            await asyncio.wait([writer])

    def finish(self) -> None:
        """Writes what there is and no more, upon which the server ends the stream in peace."""
        self.finishing = True
        self._changed.set()

    async def _read(self, status: Status) -> StepStreamError:
        with suppress(grpc.aio.AioRpcError):
            async for response in self._call:
                self.heard = True
                self._heed(response)
        return await status.reason()

    async def _write(self) -> None:
        try:
            while True:
                await self._changed.wait()
                self._changed.clear()
                while (message := self._outbox.pop()) is not None:
                    await self._call.write(message)
                if self.finishing:
                    await self._call.done_writing()
                    return
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            return  # the stream is over; reading it tells why


class Draining(asyncio.Event):
    """Set while a server that a stream of this client leads to is about to stop: finish or move what is under way.

    Whoever waits for it, however often, has such a stream kept open until its sessions have been moved, closed or detached: while
    some are on their way, and HELD_SECONDS beyond. Otherwise the client lets go of it as soon as nothing is under way.
    """

    def __init__(self) -> None:
        super().__init__()
        self._streams: set[Connection] = set()  # that lead to such a server
        self.awaited = False
        """Whether somebody has ever waited for it, though perhaps not just now."""

    async def wait(self) -> Literal[True]:
        """Waits until it is set, and lets others run if it is."""
        self.awaited = True
        await asyncio.sleep(0)
        return await super().wait()

    def begin(self, stream: Connection) -> None:
        """The server of this stream is about to stop."""
        self._streams.add(stream)
        self.set()

    def end(self, stream: Connection) -> None:
        """The stream leads there no more."""
        self._streams.discard(stream)
        if not self._streams:
            self.clear()


class Connection:
    """A stream and the sessions attached to it."""

    def __init__(self, options: ClientOptions, reach: Reach, draining: Draining, journal: Journal) -> None:
        self._options = options
        self._reach = reach
        self._draining = draining
        self._journal = journal
        self._changed = asyncio.Event()  # there is something to write
        self._wanted = asyncio.Event()  # there is a use for a stream
        self._outbox = Outbox(options, self._changed.set)
        self.members = Membership(options, self._outbox, self._note_replay, self._note_risk)
        self._outcomes = Outcomes(options, self.members)
        self._backoff = reach.backoff()
        self._name = uuid.uuid4().hex
        self._streams = 0  # so far
        self._wire: Wire | None = None
        self._guard: asyncio.Timeout | None = None  # until the server has been heard
        self._held = False  # on a stream that drains: the application may be about to move its sessions
        self._moves = 0  # of sessions to another server, under way
        self._release: asyncio.TimerHandle | None = None  # when it is held no more
        self._risk_told = False  # on this stream
        self._trouble: StepStreamError | None = None  # why there is no stream now
        self._task: asyncio.Task[None] | None = None
        self.ended: StepStreamError | None = None  # why there will be no more streams

    def start(self, open_stream: Callable[..., StreamCall]) -> None:
        """Begins to serve whoever joins. open_stream: the stub's method."""
        self._task = asyncio.create_task(self._run(open_stream), name="stepstream connection")

    async def close(self) -> None:
        """Ends the stream. Sessions still attached stay open at the server until they expire."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    @property
    def online(self) -> bool:
        """Whether the server has been heard on the stream that there is now."""
        return self._wire is not None and self._wire.heard

    def has_room(self, sessions: int) -> bool:
        """Whether the stream takes so many more; one without any takes as many as the server does."""
        return not self.members or len(self.members) + sessions <= self._options.max_sessions_per_stream

    # Sessions --------------------------------------------------------------------------------------------------------

    async def join(self, request: Request) -> None:
        """Opens or attaches the request's sessions. Those that the server refused have `ended` set.

        If nobody waits for it any more, what was opened is closed again as soon as the server names it.
        """
        if self.ended is not None:
            raise self.ended.again()
        if self._draining.is_set() and not self._options.reconnect_seconds:
            raise ServerDraining("the server is about to stop and opens no sessions")
        self.members.join(request)
        self._wanted.set()
        try:
            await self._confirmed(request)
        except BaseException:
            self.members.let_go(request)
            raise

    @contextmanager
    def on_its_way(self) -> Iterator[None]:
        """While sessions are on their way to another server, a stream that drains is held."""
        self._moves += 1
        try:
            yield
        finally:
            self._moves -= 1
            if self._held:
                self._hold()
            self._finish_if_drained()

    def leave(self, ledgers: Sequence[Ledger], *, close: bool) -> Awaitable[None]:
        """Begins at once to detach sessions, or to close them; to be awaited. Those that have ended are passed over. Raises
        RuntimeError on another event loop."""
        for ledger in ledgers:
            ledger.check_loop()
        return self._all_confirmed(self.members.leave(ledgers, close=close))

    async def _all_confirmed(self, requests: Iterable[Request]) -> None:
        for request in requests:
            await self._confirmed(request)

    async def _confirmed(self, request: Request) -> None:
        try:
            async with asyncio.timeout(self._options.call_timeout_seconds):
                await asyncio.shield(request.done)
        except TimeoutError:
            if self._trouble is None:
                raise DeadlineExceeded(f"no answer within {self._options.call_timeout_seconds} s") from None
            if self._reach.reached:
                raise lost(self._trouble) from None
            await asyncio.shield(request.done)  # until patience with a server that has never answered is over

    # Stream after stream ---------------------------------------------------------------------------------------------

    async def _run(self, open_stream: Callable[..., StreamCall]) -> None:
        try:
            while True:
                await self._wanted.wait()
                delay = await self._serve(open_stream)
                if delay is None:
                    return
                await asyncio.sleep(delay)
        except asyncio.CancelledError:
            self._end(ConnectionLost("the client was closed"))
            raise
        except Exception as error:  # a defect here must not leave callers waiting
            self._give_up(lost(defect(error)))

    async def _serve(self, open_stream: Callable[..., StreamCall]) -> float | None:
        """One stream's life. Returns the seconds after which to try another; None: there will be none."""
        self._streams += 1
        shown = self._reach.token.metadata()
        metadata = (("stepstream-client", self._name), ("stepstream-stream", str(self._streams)), *shown)
        self.members.begin()
        wire = self._wire = Wire(open_stream(metadata=metadata), self._outbox, self._changed, self._heed)
        reason = await self._guarded(wire)
        self._wire = None
        self._held = False
        self._draining.end(self)
        self._trouble = reason
        self._reach.heard(reason)
        self._outbox.clear()
        self.members.interrupt()
        self._outcomes.interrupt()
        final = lasting(reason) and not self._reach.token.mends(reason, shown)
        delay = None if final else self._backoff.delay(reason.retry_delay)
        if delay is None:
            refused = not wire.heard and type(reason) is not Unavailable  # the stream as such, with a reason of its own
            self._give_up(reason if refused else lost(self._reach.explained(reason)))
            return None
        if wire.heard:
            self._journal.note("left" if wire.finishing else "lost", len(self.members), error=reason)
        if not self.members:  # nobody waits: the next one to join finds all patience
            self._wanted.clear()
            self._backoff.worked()
        return delay

    async def _guarded(self, wire: Wire) -> StepStreamError:
        """Why the stream has ended. A server that is never heard is waited for as long as patience lasts."""
        patience = None
        if self._options.reconnect_seconds:
            refused_before = self._trouble is not None or self._reach.reached
            patience = self._backoff.left() if refused_before else self._options.reconnect_seconds
        try:
            async with asyncio.timeout(patience) as self._guard:
                return await wire.run()
        except TimeoutError:
            return self._trouble or Unavailable("the server does not answer")
        finally:
            self._guard = None

    def _give_up(self, reason: StepStreamError) -> None:
        self._journal.note("ended", len(self.members), error=reason)
        self._end(reason)

    def _end(self, reason: StepStreamError) -> None:
        self.ended = reason
        self._draining.end(self)
        self.members.end(reason)
        self._outcomes.interrupt()

    def _heed(self, response: pb.StreamResponse) -> None:
        if self._guard is not None:
            self._greet(self._guard)
        match response.WhichOneof("message"):
            case "answers":
                self._outcomes.heed(response.answers)
                self._backoff.worked()
            case "attached":
                if self.members.heed_attached(response.attached):
                    self._backoff.worked()
            case "detached":
                self.members.heed_detached(response.detached)
            case "drain":
                self._drain(resumes=response.drain.resume)
            case "durable":
                self.members.heed_durable(response.durable)
        self._finish_if_drained()

    def _greet(self, guard: asyncio.Timeout) -> None:
        """The first response of a stream: the server is there."""
        guard.reschedule(None)
        self._guard = None
        self._reach.heard()
        self._backoff.reached()
        self._trouble = None
        self._risk_told = False
        self._journal.note("connected", len(self.members))

    def _drain(self, *, resumes: bool) -> None:
        if self._draining.awaited:
            self._hold()
        self._journal.note("draining", len(self.members))
        self._draining.begin(self)
        if self._options.reconnect_seconds:
            self.members.drain(resumes=resumes)

    def _hold(self) -> None:
        self._held = True
        if self._release is not None:
            self._release.cancel()
        self._release = asyncio.get_running_loop().call_later(HELD_SECONDS, self._hold_no_more)

    def _hold_no_more(self) -> None:
        if not self._moves:
            self._held = False
            self._finish_if_drained()

    def _finish_if_drained(self) -> None:
        if not self._draining.is_set() or self._moves or self._wire is None:
            return
        if self.members.try_to_finish(held=self._held):
            self._wire.finish()

    def _note_replay(self, sessions: int, steps: int) -> None:
        self._journal.note("replayed", sessions, steps=steps)

    def _note_risk(self) -> None:
        if not self._risk_told:
            self._risk_told = True
            self._journal.note("at risk", len(self.members))
