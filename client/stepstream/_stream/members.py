"""Which sessions the client holds, under which handles: opened, attached, let go, and attached anew on each new stream.

A session keeps its handle for life. What was asked and not answered when a stream ended is asked again on the next one.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

from grpc import StatusCode

from stepstream._errors import (
    ConnectionLost,
    HandleUnknown,
    NotBitwise,
    Overloaded,
    ProtocolError,
    SessionClosed,
    SessionDetached,
    SessionEnded,
    SessionNotFound,
    StepStreamError,
    StoreUnavailable,
)
from stepstream._options import Backoff, ClientOptions
from stepstream._stream.ledger import Care, Ledger, lost_since
from stepstream._stream.outbox import Outbox
from stepstream._tensors import numbers, uint32s
from stepstream._translation import BY_ENDING, from_wire
from stepstream_proto.v1 import inference_pb2
from stepstream_proto.v1 import inference_pb2 as pb


class Request:
    """Opening, attaching or letting go of some sessions, until the server has confirmed it for each.

    `message` asks for sessions, and may do so on one stream after the other: an opening has a request id.
    """

    def __init__(
        self,
        ledgers: Sequence[Ledger],
        message: inference_pb2.StreamRequest | None = None,
        *,
        opens: bool = False,
        closes: bool = False,
        acked: int | None = None,
    ) -> None:
        self.ledgers = ledgers
        self.message = message
        self.opens = opens  # rather than attaches
        self.closes = closes  # rather than detaches
        self.acked = acked  # attaching: answers below have been received; None: nothing is wanted again
        self.version = 0  # of the model, as the server answered
        self.asked = False  # on any stream: the server may know of it
        self.sent = False  # on this stream, and not answered
        self.backoff: Backoff | None = None  # while the server puts it off
        self.abandoned = False
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._missing = len(ledgers)
        self._error: StepStreamError | None = None

    @property
    def begun(self) -> bool:
        """Whether some sessions are done."""
        return self._missing < len(self.ledgers)

    def abandon(self) -> None:
        """Nobody waits for it any more."""
        self.abandoned = True
        self.done.cancel()

    def confirm(self, error: StepStreamError | None = None) -> None:
        """One session is done."""
        self._error = self._error or error
        self._missing -= 1
        if self._missing == 0:
            self.settle(self._error)

    def settle(self, error: StepStreamError | None) -> None:
        """The whole is done, or never will be."""
        if self.done.done():
            return
        if error is None:
            self.done.set_result(None)
        else:
            self.done.set_exception(error.again())
            self.done.exception()  # retrieved: asyncio must not log what nobody waits for any more


ATTACHED_AT_ONCE = 10_000  # sessions that one message may name
_UNAVAILABLE = int(StatusCode.UNAVAILABLE.value[0])


class Membership:
    """The sessions of one connection."""

    def __init__(
        self, options: ClientOptions, outbox: Outbox, on_replayed: Callable[[int, int], None], on_risk: Callable[[], None]
    ) -> None:
        """on_replayed: told how many sessions are attached anew and how many steps were sent again, once all are. on_risk: told
        when inputs of a durable session are let go of before they are durable."""
        self._options = options
        self._outbox = outbox
        self._on_replayed = on_replayed
        self._on_risk = on_risk
        self._replayed = [0, 0]  # sessions and steps on this stream so far
        self._joining: dict[int, Request] = {}  # by handle, as the others
        self._leaving: dict[int, Request] = {}
        self._rejoining: set[int] = set()
        self._crowded: dict[int, Backoff] = {}  # sessions that the server has no room for, to be attached again
        self._unasked: set[int] = set()  # those of them that it is not asked for just now
        self._free_handles: list[int] = []  # a heap
        self._handles_made = 0
        self._online = False  # there is a stream to write to
        self._draining = False
        self._resumes = False
        self.ledgers: dict[int, Ledger] = {}

    def __len__(self) -> int:
        return len(self.ledgers)

    def new_ledgers(self, count: int, care: Care) -> list[Ledger]:
        """Books with free handles of their own."""
        ledgers = [Ledger(self._take_handle(), self._outbox, self._on_risk) for _ in range(count)]
        for ledger in ledgers:
            ledger.care = care
        return ledgers

    def joined(self, handle: int) -> Ledger | None:
        """The session that the handle stands for on this stream."""
        return None if handle in self._joining or handle in self._rejoining else self.ledgers.get(handle)

    # What callers ask for --------------------------------------------------------------------------------------------

    def join(self, request: Request) -> None:
        """Asks for the request's sessions, now or as soon as there is a stream for it."""
        for ledger in request.ledgers:
            self.ledgers[ledger.handle] = ledger
            self._joining[ledger.handle] = request
        self._ask(request)

    def let_go(self, request: Request) -> None:
        """Nobody wants these sessions any more: what was opened is closed, now or when the server names it."""
        request.abandon()
        if request.asked:
            here = [each for each in request.ledgers if each.handle not in self._joining]
            self._leave_unwatched(here, close=request.opens)
        else:
            for ledger in request.ledgers:
                if self._joining.get(ledger.handle) is request:
                    self._forget(ledger)

    def leave(self, ledgers: Sequence[Ledger], *, close: bool) -> set[Request]:
        """Detaches sessions, or closes them; those that have ended are passed over. Returns what to wait for."""
        leaving = [ledger for ledger in ledgers if ledger.ended is None]
        if leaving:
            self._start_leaving(leaving, close=close)
        here = [ledger for ledger in ledgers if self.ledgers.get(ledger.handle) is ledger]
        return {self._leaving[ledger.handle] for ledger in here if ledger.handle in self._leaving}

    def _ask(self, request: Request) -> None:
        if self._online and not self._draining and not request.sent and request.message is not None:
            request.asked = request.sent = True
            self._outbox.put_message(request.message)

    def _leave_unwatched(self, ledgers: Sequence[Ledger], close: bool) -> None:
        leaving = [ledger for ledger in ledgers if ledger.ended is None]
        if leaving:
            self._start_leaving(leaving, close=close).abandon()

    def _start_leaving(self, leaving: Sequence[Ledger], *, close: bool, reason: StepStreamError | None = None) -> Request:
        request = Request(leaving, closes=close)
        for ledger in leaving:
            text = f"session {ledger.id!r} was {'closed' if close else 'detached'} by this client"
            ledger.leave(reason or (SessionClosed(text) if close else SessionDetached(text)))
            self._leaving[ledger.handle] = request
        if self._online:
            self._put_detach([ledger for ledger in leaving if ledger.handle not in self._rejoining], close)
        elif not close:
            self._part(leaving)
        return request

    def _put_detach(self, ledgers: Sequence[Ledger], close: bool) -> None:
        if ledgers:
            handles = uint32s([ledger.handle for ledger in ledgers])
            self._outbox.put_message(pb.StreamRequest(detach=pb.Detach(handles=handles, close=close)))

    def _part(self, ledgers: Iterable[Ledger]) -> None:
        """Detaches sessions that no stream stands for any more: there is nothing to ask the server for."""
        for ledger in ledgers:
            ledger.end(SessionDetached(f"session {ledger.id!r} was detached by this client"))
            self._leaving[ledger.handle].confirm()
            self._forget(ledger)

    # From stream to stream -------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """There is a new stream: attaches the sessions that live, and asks again for what was not answered."""
        self._online = True
        self._replayed = [0, 0]
        by_model: defaultdict[tuple[str, int], list[Ledger]] = defaultdict(list)
        for handle, ledger in self.ledgers.items():
            if handle not in self._joining:
                by_model[ledger.served_as].append(ledger)
                self._rejoining.add(handle)
        for ledgers in by_model.values():
            for first in range(0, len(ledgers), ATTACHED_AT_ONCE):
                self._attach(ledgers[first : first + ATTACHED_AT_ONCE])
        for request in dict.fromkeys(self._joining.values()):
            self._ask(request)

    def _attach(self, ledgers: Sequence[Ledger]) -> None:
        """Attaches sessions of one model again."""
        model, version = ledgers[0].served_as
        sessions = [
            pb.AttachSession(
                handle=each.handle, id=each.id, secret=each.secret, acked=each.answered, replay_from=each.replay_from
            )
            for each in ledgers
        ]
        self._outbox.put_message(pb.StreamRequest(attach=pb.Attach(model=model, version=version, sessions=sessions)))

    def drain(self, *, resumes: bool) -> None:
        """The stream will be ended: nothing more is begun on it. resumes: durable sessions will be found again."""
        self._draining, self._resumes = True, resumes
        for ledger in self.ledgers.values():
            ledger.halt()

    def try_to_finish(self, *, held: bool) -> bool:
        """Ends what is written to a stream that drains, once all that was begun on it is done and, where it is held, all its
        sessions that have to leave it have done so. Returns whether that is so."""
        busy = self._rejoining - self._unasked or self._leaving or any(request.sent for request in self._joining.values())
        if not self._draining or busy or any(ledger.in_flight for ledger in self.ledgers.values()):
            return False
        stay = [ledger for ledger in self.ledgers.values() if ledger.ended is None and not (self._resumes and ledger.durable)]
        if held and stay:
            return False
        self._online = False
        return True

    def interrupt(self) -> None:
        """The stream is gone."""
        self._online = self._draining = False
        self._rejoining.clear()
        self._unasked.clear()
        for request in dict.fromkeys(self._joining.values()):
            request.sent = False
            if request.begun:  # answered in part, so that it cannot be repeated
                for ledger in request.ledgers:
                    if self._joining.get(ledger.handle) is request:
                        self._refused(ledger, request, ConnectionLost("the connection broke before the server had answered"))
        for handle, ledger in list(self.ledgers.items()):
            if handle in self._leaving:
                if not self._leaving[handle].closes:
                    self._part([ledger])
            elif ledger.ended is not None:
                self._forget(ledger)
            elif handle not in self._joining:
                ledger.interrupt()

    def end(self, reason: StepStreamError) -> None:
        """There will be no more streams."""
        self._online = False
        for ledger in self.ledgers.values():
            ledger.end(reason.again())
        for request in (*self._joining.values(), *self._leaving.values()):
            request.settle(reason)
        for each in (self.ledgers, self._joining, self._leaving):
            each.clear()

    # What the server says --------------------------------------------------------------------------------------------

    def heed_attached(self, attached: pb.Attached) -> bool:
        """Returns whether something was achieved: callers have an answer, or all sessions are attached again and wait for none.

        Raises the error with which the server puts off attaching sessions again, if it does.
        """
        again = [each for each in attached.sessions if each.handle in self._rejoining and not self._attach_later(each)]
        news = [entry for entry in attached.sessions if entry.handle not in self._rejoining]
        put_off = next((from_wire(each.error) for each in (*again, *news) if each.error.code == _UNAVAILABLE), None)
        if again and put_off is not None:
            raise put_off
        leaving = [ledger for ledger in map(self._heed_rejoined, again) if ledger is not None]
        if again and not self._rejoining:
            self._on_replayed(*self._replayed)
        for close in (True, False):
            self._put_detach([each for each in leaving if self._leaving[each.handle].closes is close], close)
        for entry in news:
            request = self._joining.get(entry.handle)
            if request is None:
                raise ProtocolError(f"attached: expected a handle that was asked for, got {entry.handle}")
            if put_off is not None and self._put_off(request, put_off):
                return False
            self._heed_joined(entry, request, attached)
        return bool(news) or not (self._rejoining or any(ledger.in_flight for ledger in self.ledgers.values()))

    def heed_durable(self, durable: pb.Durable) -> None:
        for handle, count in zip(numbers(durable.handles, "<u4"), numbers(durable.counts, "<u8"), strict=False):
            ledger = self.joined(handle)
            if ledger is not None:
                ledger.heed_durable(count)

    def heed_detached(self, detached: pb.Detached) -> None:
        failed = from_wire(detached.error) if detached.HasField("error") else None
        for handle in numbers(detached.handles, "<u4"):
            request, ledger = self._leaving.get(handle), self.joined(handle)
            if ledger is None or (failed and not request):
                continue  # the server let it go by itself while this client asked for it: confirmed twice
            kind = BY_ENDING.get(detached.reason, SessionDetached)
            ledger.end(kind(f"session {ledger.id!r} is no longer attached here: {_why(kind)}"))
            self._forget(ledger)
            if request is not None:
                request.confirm(None if isinstance(failed, HandleUnknown) else failed)

    def _attach_later(self, entry: pb.AttachedSession) -> bool:
        """Tells whether the server has no room for a session just now that it is to attach again, so that it is asked later
        on."""
        error = from_wire(entry.error)
        if not isinstance(error, (Overloaded, StoreUnavailable)) or not self._options.reconnect_seconds:
            return False
        delay = self._crowded.setdefault(entry.handle, Backoff(self._options)).delay(error.retry_delay)
        if delay is None:
            return False
        self._unasked.add(entry.handle)
        asyncio.get_running_loop().call_later(delay, self._attach_again, entry.handle)
        return True

    def _attach_again(self, handle: int) -> None:
        if handle in self._unasked and self._online and not self._draining:
            self._unasked.remove(handle)
            self._attach([self.ledgers[handle]])

    def _heed_rejoined(self, entry: pb.AttachedSession) -> Ledger | None:
        """Returns the session if all that is still wanted of it is to leave it."""
        self._rejoining.remove(entry.handle)
        self._crowded.pop(entry.handle, None)
        ledger, leaving = self.ledgers[entry.handle], self._leaving.get(entry.handle)
        if entry.HasField("error"):
            error = from_wire(entry.error)
            if isinstance(error, SessionNotFound):  # the server has never heard of it, though it was held here
                error = lost_since(ledger.id, 0)
            ledger.end(error)
            self._forget(ledger)
            if leaving is not None:
                leaving.confirm(None if isinstance(error, SessionEnded) else error)
        elif leaving is None:
            self._heed_endurance(ledger, entry)
            self._replayed[1] += ledger.rejoin(entry.next_seq)
            self._replayed[0] += 1
            self._leave_unless_as_wanted(ledger, close=False)
        return ledger if leaving is not None and not entry.HasField("error") else None

    def _heed_joined(self, entry: pb.AttachedSession, request: Request, attached: pb.Attached) -> None:
        ledger = self.ledgers[entry.handle]
        ledger.id, ledger.served_as = entry.id, (attached.model, attached.version)
        request.sent, request.version = False, attached.version
        if entry.HasField("error"):
            self._refused(ledger, request, from_wire(entry.error))
            return
        del self._joining[entry.handle]
        ledger.secret = entry.secret or ledger.secret
        position = entry.next_seq if request.acked is None else min(request.acked, entry.next_seq)
        ledger.begin(position, entry.next_seq, attached.window.steps, attached.window.bytes)
        if entry.durable:
            ledger.endure(attached.window.replay_steps)
        self._heed_endurance(ledger, entry)
        self._leave_unless_as_wanted(ledger, close=request.opens)
        if request.abandoned:
            self._leave_unwatched([ledger], close=request.opens)
        request.confirm()

    def _heed_endurance(self, ledger: Ledger, entry: pb.AttachedSession) -> None:
        ledger.epoch = entry.epoch
        if entry.durable:
            ledger.bitwise = entry.bitwise
        ledger.heed_durable(entry.durable_seq)

    def _leave_unless_as_wanted(self, ledger: Ledger, *, close: bool) -> None:
        """Lets go of a session whose owner wants it to the bit or not at all."""
        if ledger.care.require_bitwise and ledger.bitwise is False and ledger.ended is None:
            error = NotBitwise(
                f"session {ledger.id!r}: expected one that computes to the bit what it did, got one that was restored from what"
                " other versions or another instruction set computed"
            )
            self._start_leaving([ledger], close=close, reason=error).abandon()
            ledger.end(error)

    def _refused(self, ledger: Ledger, request: Request, error: StepStreamError) -> None:
        ledger.end(error)
        self._forget(ledger)
        request.confirm()

    def _put_off(self, request: Request, error: StepStreamError) -> bool:
        """Asks later on, on this stream or the next one. False if that has gone on for too long."""
        request.backoff = request.backoff or Backoff(self._options)
        delay = request.backoff.delay(error.retry_delay)
        if delay is None:
            return False
        request.sent = False
        if not self._draining:
            asyncio.get_running_loop().call_later(delay, self._ask_again, request)
        return True

    def _ask_again(self, request: Request) -> None:
        if any(self._joining.get(ledger.handle) is request for ledger in request.ledgers):
            self._ask(request)

    def change_places(self, ledger: Ledger, there: Membership, other: Ledger, applied: int) -> None:
        """The ledger stands for the other's session from now on, over there, where `applied` steps are applied, and the other for
        the session here."""
        self.ledgers[ledger.handle], there.ledgers[other.handle] = other, ledger
        ledger.change_places(other, applied)

    def close_moved(self, ledger: Ledger, reason: StepStreamError) -> None:
        """Closes a session that goes on elsewhere, on this stream or the next one. Nobody waits for that."""
        self._start_leaving([ledger], close=True, reason=reason).abandon()
        ledger.end(reason)

    def _take_handle(self) -> int:
        if self._free_handles:
            return heapq.heappop(self._free_handles)
        self._handles_made += 1
        return self._handles_made - 1

    def _forget(self, ledger: Ledger) -> None:
        del self.ledgers[ledger.handle]
        self._joining.pop(ledger.handle, None)
        self._leaving.pop(ledger.handle, None)
        self._crowded.pop(ledger.handle, None)
        self._unasked.discard(ledger.handle)
        heapq.heappush(self._free_handles, ledger.handle)


def _why(kind: type[SessionEnded]) -> str:
    return (kind.__doc__ or kind.__name__).splitlines()[0]
