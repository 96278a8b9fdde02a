"""The connection to a server: one multiplexed stream, and another one whenever it breaks, for as long as patience lasts.

Sessions and what is in flight outlive the stream; only the stream itself is made anew. What is put into the outbox during one
turn of the event loop leaves together in the next. A client makes a new connection only when this one has given up.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress

import grpc

from stepstream._errors import ConnectionLost, DeadlineExceeded, ServerDraining, StepStreamError, Unavailable
from stepstream._options import Backoff, ClientOptions
from stepstream._stream.ledger import Ledger
from stepstream._stream.members import Membership, Request
from stepstream._stream.outbox import Outbox
from stepstream._stream.outcomes import Outcomes
from stepstream._translation import Status, StreamCall, defect, lasting, lost
from stepstream_proto.v1 import inference_pb2 as pb


class Wire:
    """Writes what is put into the outbox, and has what the server says heeded. `changed` is set with everything new to write."""

    def __init__(
        self, call: StreamCall, outbox: Outbox, changed: asyncio.Event, heed: Callable[[pb.StreamResponse], None]
    ) -> None:
        self._call = call
        self._outbox = outbox
        self._changed = changed
        self._heed = heed
        self._finishing = False
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
        self._finishing = True
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
                if self._finishing:
                    await self._call.done_writing()
                    return
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            return  # the stream is over; reading it tells why


class Connection:
    """A stream and the sessions attached to it. `draining` is set while the server that it leads to is about to stop."""

    def __init__(self, options: ClientOptions, draining: asyncio.Event) -> None:
        self._options = options
        self._draining = draining
        self._changed = asyncio.Event()  # there is something to write
        self._wanted = asyncio.Event()  # there is a use for a stream
        self.outbox = Outbox(options, self._changed.set)
        self._members = Membership(options, self.outbox)
        self._outcomes = Outcomes(options, self._members, self.outbox)
        self._backoff = Backoff(options)
        self._name = uuid.uuid4().hex
        self._streams = 0  # so far
        self._wire: Wire | None = None
        self._guard: asyncio.Timeout | None = None  # until the server has been heard
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

    # Sessions --------------------------------------------------------------------------------------------------------

    def new_ledgers(self, count: int) -> list[Ledger]:
        """Books with free handles of their own."""
        return self._members.new_ledgers(count)

    async def join(self, request: Request) -> None:
        """Opens or attaches the request's sessions. Those that the server refused have `ended` set.

        If nobody waits for it any more, what was opened is closed again as soon as the server names it.
        """
        if self.ended is not None:
            raise self.ended.again()
        if self._draining.is_set() and not self._options.reconnect_seconds:
            raise ServerDraining("the server is about to stop and opens no sessions")
        self._members.join(request)
        self._wanted.set()
        try:
            await self._confirmed(request)
        except BaseException:
            self.let_go(request)
            raise

    def let_go(self, request: Request) -> None:
        """Nobody wants these sessions any more: what was opened is closed, now or when the server names it."""
        self._members.let_go(request)

    async def leave(self, ledgers: Sequence[Ledger], *, close: bool) -> None:
        """Detaches sessions, or closes them. Those that have ended are passed over."""
        for request in self._members.leave(ledgers, close=close):
            await self._confirmed(request)

    async def _confirmed(self, request: Request) -> None:
        try:
            async with asyncio.timeout(self._options.call_timeout_seconds):
                await asyncio.shield(request.done)
        except TimeoutError:
            if self._trouble is not None:
                raise lost(self._trouble) from None
            raise DeadlineExceeded(f"no answer within {self._options.call_timeout_seconds} s") from None

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
            self._end(lost(defect(error)))

    async def _serve(self, open_stream: Callable[..., StreamCall]) -> float | None:
        """One stream's life. Returns the seconds after which to try another; None: there will be none."""
        self._streams += 1
        metadata = (("stepstream-client", self._name), ("stepstream-stream", str(self._streams)))
        self._members.begin()
        wire = self._wire = Wire(open_stream(metadata=metadata), self.outbox, self._changed, self._heed)
        reason = await self._guarded(wire)
        self._wire = None
        self._trouble = reason
        self.outbox.clear()
        self._members.interrupt()
        self._outcomes.interrupt()
        delay = None if lasting(reason) else self._backoff.delay(reason.retry_delay)
        if delay is None:
            refused = not wire.heard and type(reason) is not Unavailable  # the stream as such, with a reason of its own
            self._end(reason if refused else lost(reason))
        elif not self._members:  # nobody waits: the next one to join finds all patience
            self._wanted.clear()
            self._backoff.worked()
        return delay

    async def _guarded(self, wire: Wire) -> StepStreamError:
        """Why the stream has ended. A server that is never heard is waited for as long as patience lasts."""
        patience = self._backoff.left() if self._options.reconnect_seconds else None
        try:
            async with asyncio.timeout(patience) as self._guard:
                return await wire.run()
        except TimeoutError:
            return self._trouble or Unavailable("the server does not answer")
        finally:
            self._guard = None

    def _end(self, reason: StepStreamError) -> None:
        self.ended = reason
        self._members.end(reason)
        self._outcomes.interrupt()

    def _heed(self, response: pb.StreamResponse) -> None:
        if self._guard is not None:  # the first of this stream
            self._guard.reschedule(None)
            self._guard = None
            self._backoff.reached()
            self._trouble = None
            self._draining.clear()
        match response.WhichOneof("message"):
            case "answers":
                self._outcomes.heed(response.answers)
                self._backoff.worked()
            case "attached":
                if self._members.heed_attached(response.attached):
                    self._backoff.worked()
            case "detached":
                self._members.heed_detached(response.detached)
            case "drain":
                self._draining.set()
                if self._options.reconnect_seconds:
                    self._members.drain()
        if self._draining.is_set() and self._wire is not None and self._members.drained():
            self._wire.finish()
