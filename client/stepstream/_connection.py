"""One multiplexed stream: handles and ledgers of its sessions, one task that reads and one that writes.

What is put into the outbox during one turn of the event loop leaves together in the next. When the stream ends, for whatever
reason, every ledger ends with it and the connection is done for good; a client makes a new one.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from itertools import accumulate
from typing import Any

import grpc

from stepstream._calls import Harvest
from stepstream._errors import (
    ConnectionLost,
    DeadlineExceeded,
    HandleUnknown,
    ProtocolError,
    ServerDraining,
    SessionClosed,
    SessionDetached,
    SessionEnded,
    StepStreamError,
    Unavailable,
)
from stepstream._ledger import Ledger
from stepstream._options import ClientOptions
from stepstream._outbox import Outbox
from stepstream._requests import Request
from stepstream._status import Status, StreamCall, defect, lost
from stepstream._tensors import numbers, uint32s, unpack
from stepstream._translation import BY_ENDING, from_wire
from stepstream_proto.v1 import inference_pb2 as pb


class Connection:
    """A stream and the sessions attached to it."""

    def __init__(self, options: ClientOptions, on_drain: Callable[[], None]) -> None:
        self._options = options
        self._on_drain = on_drain
        self._something_to_write = asyncio.Event()
        self._ledgers: dict[int, Ledger] = {}  # by handle
        self._free_handles: list[int] = []  # a heap
        self._handles_made = 0
        self._joining: dict[int, Request] = {}
        self._leaving: dict[int, Request] = {}
        self._unacknowledged: set[Ledger] = set()
        self._quiet_timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._heard = False  # anything from the server
        self.outbox = Outbox(options, self._something_to_write.set)
        self.draining = False
        self.ended: StepStreamError | None = None  # why the stream is over

    def start(self, open_stream: Callable[[], StreamCall]) -> None:
        """Opens the stream and begins to read and write."""
        self._task = asyncio.create_task(self._run(open_stream()), name="stepstream connection")

    async def close(self) -> None:
        """Ends the stream. Sessions still attached stay open at the server until they expire."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    # Sessions --------------------------------------------------------------------------------------------------------

    def new_ledgers(self, count: int) -> list[Ledger]:
        """Books with free handles of their own."""
        return [Ledger(self._take_handle(), self.outbox) for _ in range(count)]

    async def join(self, request: Request, message: pb.StreamRequest) -> None:
        """Opens or attaches the request's sessions. Those that the server refused have `ended` set.

        If nobody waits for it any more, what was opened is closed again as soon as the server names it.
        """
        for ledger in request.ledgers:
            self._ledgers[ledger.handle] = ledger
            self._joining[ledger.handle] = request
        if self.ended is not None or self.draining:
            for ledger in request.ledgers:
                self._forget(ledger)
            raise self.ended.again() if self.ended else ServerDraining("the server is about to stop and opens no sessions")
        self.outbox.put_message(message)
        try:
            await self._confirmed(request)
        except BaseException:
            self.let_go(request)
            raise

    def let_go(self, request: Request) -> None:
        """Nobody wants these sessions any more: what was opened is closed, now or when the server names it."""
        request.abandon()
        here = [each for each in request.ledgers if each.handle not in self._joining]
        self._leave_unwatched(here, close=request.opens)

    async def leave(self, ledgers: Sequence[Ledger], *, close: bool) -> None:
        """Detaches sessions, or closes them. Those that have ended are passed over."""
        leaving = [ledger for ledger in ledgers if ledger.ended is None]
        if leaving:
            self._start_leaving(leaving, close)
        here = [ledger for ledger in ledgers if self._ledgers.get(ledger.handle) is ledger]
        for request in {self._leaving[ledger.handle] for ledger in here if ledger.handle in self._leaving}:
            await self._confirmed(request)

    def _leave_unwatched(self, ledgers: Sequence[Ledger], close: bool) -> None:
        leaving = [ledger for ledger in ledgers if ledger.ended is None]
        if leaving:
            self._start_leaving(leaving, close).abandon()

    def _start_leaving(self, leaving: Sequence[Ledger], close: bool) -> Request:
        request = Request(leaving)
        for ledger in leaving:
            text = f"session {ledger.id!r} was {'closed' if close else 'detached'} by this client"
            ledger.leave(SessionClosed(text) if close else SessionDetached(text))
            self._leaving[ledger.handle] = request
        handles = uint32s([ledger.handle for ledger in leaving])
        self.outbox.put_message(pb.StreamRequest(detach=pb.Detach(handles=handles, close=close)))
        return request

    async def _confirmed(self, request: Request) -> None:
        try:
            async with asyncio.timeout(self._options.call_timeout_seconds):
                await asyncio.shield(request.done)
        except TimeoutError:
            raise DeadlineExceeded(f"no answer within {self._options.call_timeout_seconds} s") from None

    def _take_handle(self) -> int:
        if self._free_handles:
            return heapq.heappop(self._free_handles)
        self._handles_made += 1
        return self._handles_made - 1

    def _forget(self, ledger: Ledger) -> None:
        del self._ledgers[ledger.handle]
        self._joining.pop(ledger.handle, None)
        self._unacknowledged.discard(ledger)
        heapq.heappush(self._free_handles, ledger.handle)

    # The two directions ----------------------------------------------------------------------------------------------

    async def _run(self, call: StreamCall) -> None:
        status = Status(call)
        writer = asyncio.create_task(self._write(call), name="stepstream writer")
        try:
            reason = await self._read(call, status)
        except asyncio.CancelledError:
            self._end(ConnectionLost("the client was closed"))
            raise
        except Exception as error:  # a defect on either side must not leave callers waiting
            reason = error if isinstance(error, StepStreamError) else defect(error)
        finally:
            call.cancel()
            writer.cancel()
            await asyncio.wait([writer])
        refused = not self._heard and type(reason) is not Unavailable  # the stream as such, with a reason of its own
        self._end(reason if refused else lost(reason))

    async def _read(self, call: StreamCall, status: Status) -> StepStreamError:
        """Heeds what the server says until it ends the stream. Returns why it did."""
        with suppress(grpc.aio.AioRpcError):
            async for response in call:
                self._heard = True
                self._heed(response)
        return await status.reason()

    async def _write(self, call: StreamCall) -> None:
        try:
            while True:
                await self._something_to_write.wait()
                self._something_to_write.clear()
                while (message := self.outbox.pop()) is not None:
                    await call.write(message)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            return  # the stream is over; reading it tells why

    def _end(self, reason: StepStreamError) -> None:
        self.ended = reason
        for ledger in self._ledgers.values():
            ledger.end(reason.again())
        for request in (*self._joining.values(), *self._leaving.values()):
            request.settle(reason)
        if self._quiet_timer is not None:
            self._quiet_timer.cancel()
        self._ledgers.clear()
        self._joining.clear()
        self._leaving.clear()

    # What the server says --------------------------------------------------------------------------------------------

    def _heed(self, response: pb.StreamResponse) -> None:
        match response.WhichOneof("message"):
            case "answers":
                self._heed_answers(response.answers)
            case "attached":
                self._heed_attached(response.attached)
            case "detached":
                self._heed_detached(response.detached)
            case "drain":
                self.draining = True
                self._on_drain()

    def _heed_answers(self, answers: pb.Answers) -> None:
        handles, first_seqs = numbers(answers.handles, "<u4"), numbers(answers.first_seqs, "<u8")
        lengths = numbers(answers.lengths, "<u4") or [1] * len(handles)
        kept = numbers(answers.kept, "<u4") or lengths
        harvest = Harvest(self._outputs(answers, handles, sum(kept)))
        sources = accumulate(kept, initial=0)
        rows: Iterable[tuple[int, int, int, int, int]] = zip(handles, first_seqs, lengths, kept, sources, strict=False)
        if answers.errors:
            self._heed_mixed(rows, answers.errors, harvest)
        else:
            for handle, first_seq, length, count, source in rows:
                self._heed_row(handle, first_seq, length, count, source, harvest)
        harvest.finish()
        if self._unacknowledged and self._quiet_timer is None:
            loop = asyncio.get_running_loop()
            self._quiet_timer = loop.call_later(self._options.acknowledge_after_seconds, self._acknowledge_quiet)

    def _heed_mixed(
        self, rows: Iterable[tuple[int, int, int, int, int]], errors: Iterable[pb.RowError], harvest: Harvest
    ) -> None:
        """Answers and errors of one message, which lists them apart, in the order in which each session sent its inputs."""
        outcomes: list[tuple[int, int, int, int, int] | pb.RowError] = [*rows, *errors]
        for each in sorted(outcomes, key=lambda each: each[1] if isinstance(each, tuple) else each.first_seq):
            if isinstance(each, tuple):
                self._heed_row(*each, harvest)
            else:
                self._heed_error(each, harvest)

    def _heed_row(self, handle: int, first_seq: int, length: int, kept: int, source: int, harvest: Harvest) -> None:
        ledger = self._ledgers.get(handle)
        if ledger is not None:
            ledger.answer(first_seq, length, kept, source, harvest)
            self._unacknowledged.add(ledger)

    def _outputs(self, answers: pb.Answers, handles: Sequence[int], steps: int) -> list[Any]:
        if steps == 0:
            return []
        for handle in handles:  # all of one model; the first session still known tells which
            ledger = self._ledgers.get(handle)
            if ledger is not None and ledger.model is not None:
                return unpack(ledger.model.outputs, answers.outputs, steps)
        return []

    def _acknowledge_quiet(self) -> None:
        self._quiet_timer = None
        for ledger in self._unacknowledged:
            if ledger.ended is None and ledger.acknowledged < ledger.answered:
                self.outbox.put_acknowledgement(ledger)
        self._unacknowledged.clear()

    def _heed_error(self, row: pb.RowError, harvest: Harvest) -> None:
        ledger = self._ledgers.get(row.handle)
        if ledger is None or row.handle in self._joining:
            return  # of a session that had this handle before
        error = from_wire(row.error, {"expectedSeq": str(row.expected_seq)})
        if isinstance(error, (HandleUnknown, SessionEnded)) or not row.length:
            ledger.end(error)  # without a length it concerns a message that the server could not read
        else:
            ledger.refuse(row.first_seq, row.length, error, row.expected_seq, harvest)

    def _heed_attached(self, attached: pb.Attached) -> None:
        for entry in attached.sessions:
            request = self._joining.pop(entry.handle, None)
            if request is None:
                raise ProtocolError(f"attached: expected a handle that was asked for, got {entry.handle}")
            ledger = self._ledgers[entry.handle]
            ledger.id = entry.id
            if entry.HasField("error"):
                ledger.end(from_wire(entry.error))
                self._forget(ledger)
            else:
                ledger.secret = entry.secret or ledger.secret
                position = entry.next_seq if request.acked is None else min(request.acked, entry.next_seq)
                ledger.begin(position, entry.next_seq, attached.window.steps, attached.window.bytes)
                if request.abandoned:
                    self._leave_unwatched([ledger], close=request.opens)
            request.version = attached.version
            request.confirm()

    def _heed_detached(self, detached: pb.Detached) -> None:
        failed = from_wire(detached.error) if detached.HasField("error") else None
        for handle in numbers(detached.handles, "<u4"):
            request, ledger = self._leaving.pop(handle, None), self._ledgers.get(handle)
            if ledger is None or handle in self._joining or (failed and not request):
                continue  # the server let it go by itself while this client asked for it: confirmed twice
            kind = BY_ENDING.get(detached.reason, SessionDetached)
            ledger.end(kind(f"session {ledger.id!r} is no longer attached here: {_why(kind)}"))
            self._forget(ledger)
            if request is not None:
                request.confirm(None if isinstance(failed, HandleUnknown) else failed)


def _why(kind: type[SessionEnded]) -> str:
    return (kind.__doc__ or kind.__name__).splitlines()[0]
