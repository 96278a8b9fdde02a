"""One session's numbering: what was sent, answered and acknowledged, what waits for the window, and going back after a failure.

Rules of the contract, no I/O. A row gets its number when it is sent, and is sent when the window has room for it and its
answer, so the server never has to refuse it for that. If step k fails, the server applies nothing from k on: everything
already sent gets an outcome, everything that waits is refused here, and only then numbering goes on, from k.

A number, once sent, stands for the same inputs until the server has refused it. That is why what is in flight can be sent
again, on the same stream or on another: whatever was applied already is answered and does not move the state twice.

A durable session may be restored from before what was answered: then its inputs from there on are told again, which no caller
hears of, before anything else is sent.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from typing import Literal, Protocol, cast

from stepstream._errors import AnswerDiscarded, AnswerNotKept, SequenceMismatch, SessionEnded, SessionLost, StepStreamError
from stepstream._models import ModelInfo
from stepstream._stream.calls import NOTHING, Call, Harvest, Keep, Row
from stepstream._stream.flight import Flight
from stepstream._stream.history import History

OnLag = Literal["wait", "serve"]


@dataclass(frozen=True, slots=True)
class Care:
    """The wishes of a durable session's owner for when its server's store, or its next server, falls short."""

    on_lag: OnLag = "wait"
    """The store does not keep up: steps wait for it, or go on at the risk that they cannot be told again."""
    require_bitwise: bool = False
    """A session that was restored from what other versions or another instruction set computed ends."""


class Post(Protocol):
    """Where a ledger puts what it has to say to the server. Order per session is kept."""

    def put_row(self, ledger: Ledger, row: Row, seq: int) -> None:
        """Sends a numbered row's steps from `seq` on and acknowledges what was answered."""

    def put_rows(self, ledgers: Sequence[Ledger], rows: Sequence[Row], inputs: Sequence[bytes]) -> bool:
        """Numbers and sends one row of each of many sessions in one message. False, and nothing done, if it cannot take them."""

    def put_acknowledgement(self, ledger: Ledger) -> None:
        """Acknowledges what was answered."""


class Pause:
    """A place among a session's inputs where all before have their outcome and those behind wait to be sent.

    `reached` tells the number of the next step.
    """

    def __init__(self, *, on_stream: bool = False, moves: bool = False) -> None:
        self.on_stream = on_stream  # reached only on a stream that goes on, so not while its server is about to stop
        self.moves = moves  # the session goes elsewhere: before all that waits, with what was refused for want of room
        self.aware_of = NOTHING  # steps before that may have failed, as its caller knew
        self.reached: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def fail(self, error: StepStreamError) -> None:
        """It will not be reached, since an input before it has failed or the session has ended."""
        if not self.reached.done():
            self.reached.set_exception(error)


class Ledger:
    """The client's book of one session, from stream to stream. It belongs to the event loop in which it is made."""

    def __init__(self, handle: int, post: Post, on_risk: Callable[[], None] = lambda: None) -> None:
        """on_risk: told once the oldest inputs of a durable session are let go of before they are durable."""
        self._loop = asyncio.get_running_loop()
        self.post = post
        self.handle = handle
        self.id = ""
        self.secret = b""
        self.served_as = ("", 0)  # name and version of the model, as the server calls it
        self.model: ModelInfo | None = None
        self.window_steps = 0
        self.window_bytes = 0
        self.next_seq = 0  # of the next row sent
        self.acknowledged = 0  # answers below have been acknowledged
        self.care = Care()
        self.durable_seq = 0  # steps below survive the death of the server
        self.epoch = 0
        self.bitwise: bool | None = None  # as the server said last; None: it did not say
        self.ended: StepStreamError | None = None  # why no more can be sent
        self.page = -1  # the message that the session's last row went into
        self._fault: StepStreamError | None = None  # what the server goes back for
        self._resume_at = 0
        self._halted = True  # nothing can be sent: there is no stream, or none for long
        self._overdue = NOTHING  # steps in flight that may have failed, as their callers were told: nothing is sent behind them
        self._foreign_below = 0  # lower steps were applied before this ledger began, perhaps with other outputs
        self._again_from: int | None = None  # what the server had no room for, and all behind it, is to be sent again
        self._refusals_due = 0  # steps of these whose refusal has not come
        self._waiting: deque[Row | Pause] = deque()
        self._pause: Pause | None = None  # that has been reached
        self._flight = Flight()
        self._unacknowledged_bytes = 0
        self._on_risk = on_risk
        self._at_risk = False
        self._most_kept = 0  # inputs in the history and in flight; 0: any number
        self._stands = asyncio.Event()  # set while the server stands where this book says
        self._replay: Ledger | None = None  # the book of inputs that are told again, which come before all else

    @property
    def answered(self) -> int:
        """Answers below this count have been received."""
        return self._flight.answered

    def begin(self, position: int, applied: int, window_steps: int, window_bytes: int) -> None:
        """The server knows the session from now on. The next row gets the number `position`; the server has applied `applied`
        steps, and sends kept answers of those from `position` on without being asked."""
        self.next_seq = self._flight.answered = self.acknowledged = position
        self._foreign_below = self._flight.resent_below = applied
        self.window_steps, self.window_bytes = window_steps, window_bytes
        self._halted = False
        self._stands.set()

    # Durable sessions ------------------------------------------------------------------------------------------------

    @property
    def durable(self) -> bool:
        """Tells whether the session survives the death of its server."""
        return self._flight.history is not None

    @property
    def replays(self) -> bool:
        """Tells whether inputs are told again just now."""
        return self._replay is not None

    def know(self, model: ModelInfo, replay_bytes: int) -> None:
        """Which model it is a session of, and how many bytes of inputs may be kept."""
        self.model = model
        most = max(replay_bytes // max(model.input_step_bytes, 1), 1)
        self._most_kept = min(self._most_kept or most, most)

    def endure(self, most_kept: int) -> None:
        """The session is durable: what is applied from now on is kept until it is told as durable. most_kept: steps; 0: any
        number."""
        self._most_kept = most_kept
        if self._flight.history is None:
            self._flight.history = History(self.answered)

    @property
    def replay_from(self) -> int | None:
        """From which number on inputs can be told again; None: none of them."""
        return None if self._flight.history is None else self._flight.history.first

    def heed_durable(self, count: int) -> None:
        """Steps below the count survive the death of the server."""
        self.durable_seq = max(self.durable_seq, count)
        history = self._flight.history
        if history is not None:
            history.let_go(self.durable_seq)
            self._at_risk = self._at_risk and self.durable_seq < history.first
            self._pump()

    def keep(self, first_seq: int, end: int, inputs: Sequence[bytes]) -> None:
        """During a pause the server has applied steps that were not rows of this book: numbering goes on behind them."""
        if self._flight.history is not None:
            self._flight.history.keep(first_seq, end, inputs)
        self.move_on(end)
        self._let_go()

    async def stands(self) -> None:
        """Waits until the server stands where this book says, or beyond. Raises why the session has ended."""
        await self._stands.wait()
        if self.ended is not None:
            raise self.ended.again()

    def _tell_again(self, applied: int) -> int:
        """Tells steps [applied, answered) once more, which callers do not hear of. Returns how many these are."""
        longest = max(self.window_steps // 2, 1)
        stretches = [
            each.within(first, first + longest)
            for each in self._flight.applied_from(applied)
            for first in range(each.first_seq, each.end, longest)
        ]
        replay = self._replay = Ledger(self.handle, self.post)
        replay.id = self.id
        replay.begin(applied, applied, self.window_steps, self.window_bytes)
        call = Call(cast(ModelInfo, self.model), len(stretches), 0, steps=0)  # known where anything was sent
        call.future.add_done_callback(partial(self._told_again, replay))
        for each in stretches:
            replay.submit(Row(call, 0, 0, each.end - each.first_seq, Keep.NONE, each.inputs, each.offset))
        return self.answered - applied

    def _told_again(self, replay: Ledger, done: asyncio.Future[object]) -> None:
        """The server stands where it stood, or cannot get there."""
        error = done.exception()
        if self._replay is not replay:
            return  # the stream has broken meanwhile
        self._replay = None
        if error is not None:
            lost = SessionLost(
                f"session {self.id!r} is lost from step {replay.answered} on, which could not be repeated: {error}",
                metadata={"since": str(replay.answered)},
            )
            lost.__cause__ = error
            self.end(lost)
            return
        self.acknowledged = replay.acknowledged
        self._stands.set()
        self._send_from(self.answered)

    # From stream to stream -------------------------------------------------------------------------------------------

    def halt(self) -> None:
        """Nothing more can be sent on this stream; outcomes may still come."""
        self._halted = True
        if self._replay is not None:
            self._replay.halt()

    def interrupt(self) -> None:
        """The stream is gone, and with it outcomes that were due. What had failed stays failed, with all behind it."""
        self._halted = True
        self._again_from = self._replay = None
        if self.ended is None:
            self._stands.clear()
        if self._fault is not None:
            fault, self._fault = self._fault, None
            self._flight.fail_all(lambda: self._behind(fault))
            self._overdue = NOTHING
            self.next_seq = max(self._resume_at, self.answered)

    def rejoin(self, applied: int) -> int:
        """Another stream stands for the session, attached with all that was answered. The server has applied `applied` steps
        and sends the answers of those by itself; the rest of what is in flight is sent again. If the server was restored from
        before what was answered, that is told again first. Returns how many steps are sent again.

        If inputs are missing for that, the session ends with SessionLost.
        """
        behind = applied < self.answered
        if behind and (self.replay_from is None or applied < self.replay_from):
            self.end(lost_since(self.id, applied))
            return 0
        self._unacknowledged_bytes = 0
        self._halted = False
        if behind:
            self.acknowledged, self._flight.resent_below = self.answered, 0
            return self._tell_again(applied) + sum(row.end - max(row.first_seq, self.answered) for row in self._flight)
        if not self._flight and self.answered >= self._foreign_below and not (self.durable and self._pause is not None):
            self.move_on(applied)  # who wants the answers of what was applied before repeats that first
        self.acknowledged = self.answered
        self._flight.resent_below = applied
        self._stands.set()
        return self._send_from(applied)

    @property
    def in_flight(self) -> bool:
        """Whether something that was sent has no outcome yet, on this stream."""
        if self._replay is not None:
            return self._replay.in_flight
        return bool(self._flight) and not self.refused

    @property
    def refused_some(self) -> bool:
        """Whether something in flight has been refused for want of room; all behind it is refused as well."""
        if self._replay is not None:
            return self._replay.refused_some
        return self._again_from is not None

    @property
    def refused(self) -> bool:
        """Whether everything in flight has been refused for want of room, so that it may be sent again."""
        if self._replay is not None:
            return self._replay.refused
        return self._again_from is not None and self._refusals_due <= 0

    def send_again(self) -> None:
        """Sends what was refused for want of room under its old numbers, unless another stream has come in between."""
        if self._replay is not None:
            self._replay.send_again()
        elif self._again_from is not None and self.refused and not self._halted and self._pause is None and self.ended is None:
            first, self._again_from = self._again_from, None
            self._send_from(first)

    def _send_from(self, seq: int) -> int:
        """Sends the steps in flight from `seq` on again, then what waits. Returns how many steps are sent again."""
        again = 0
        for row in self._flight:
            first = max(row.first_seq, self.answered if row.first_seq < self._foreign_below else seq)
            if first < row.end and row.missing:
                self.post.put_row(self, row, first)
                again += row.end - first
        self._pump()
        return again

    def change_places(self, other: Ledger, applied: int) -> None:
        """Each stands for the other's session from now on, at another server, with windows that are no smaller. What is in flight
        or waits here is sent there, where `applied` steps are applied."""
        for name in _OF_THE_SERVER:
            mine, theirs = getattr(self, name), getattr(other, name)
            setattr(self, name, theirs)
            setattr(other, name, mine)
        self.interrupt()
        self._flight.history = (self._flight.history or History(self.answered)) if other.durable else None
        self.heed_durable(self.durable_seq)
        self.rejoin(applied)

    # Sending ---------------------------------------------------------------------------------------------------------

    def submit(self, row: Row | Pause) -> None:
        """Sends the row, or lets it wait for the window or the end of a pause. A session that has ended fails it at once.

        Raises RuntimeError on another event loop than the session's.
        """
        self.check_loop()
        if self.ended is not None:
            row.fail(self.ended.again())
            return
        if self._waits_for_overdue:
            row.aware_of = self._overdue
        self._waiting.append(row)
        self._pump()

    def submit_first(self, pause: Pause) -> None:
        """Lets the pause be reached before all that waits, except for moves that were submitted before."""
        self.check_loop()
        if self.ended is not None:
            pause.fail(self.ended.again())
            return
        moves = takewhile(lambda each: isinstance(each, Pause) and each.moves, self._waiting)
        self._waiting.insert(sum(1 for _ in moves), pause)
        self._pump()

    def check_loop(self) -> None:
        """Raises RuntimeError on another event loop than the session's, on which waiting would never end."""
        if asyncio.get_running_loop() is not self._loop:
            raise RuntimeError("the session belongs to another event loop: open or attach it in the one that runs here")

    def clear_for(self, row: Row) -> bool:
        """Whether the row would be sent at once."""
        return self.ended is None and self._may_send and not self._waiting and self._has_room(row)

    def resume(self, pause: Pause) -> None:
        """The pause is over, reached or not: what is behind it is sent."""
        pause.reached.cancel()
        if self._pause is pause:
            self._pause = None
            self.send_again()
        self._pump()

    def move_on(self, applied: int) -> None:
        """The server has applied steps that were not rows of this ledger: numbering goes on behind them."""
        self.next_seq = self._flight.answered = self.acknowledged = max(self.next_seq, applied)
        if self._flight.history is not None and self._flight.history.end < self.answered:
            self._flight.history.let_go(self.answered)

    def number(self, row: Row) -> int:
        """Gives the row its number and counts it as sent."""
        row.first_seq = self.next_seq
        self.next_seq += row.length
        self._flight.add(row)
        if row.call.has_deadline:
            row.call.on_overdue(partial(self._on_overdue, row))
        return row.first_seq

    def acknowledge(self) -> int:
        """The count to acknowledge, which counts as done."""
        self.acknowledged = self.answered
        self._unacknowledged_bytes = 0
        return self.answered

    @property
    def _may_send(self) -> bool:
        if self._halted or self._fault is not None or self._again_from is not None or self._pause is not None:
            return False
        if self._replay is not None:
            return False
        return not (self._overdue and self._waits_for_overdue)

    @property
    def _waits_for_overdue(self) -> bool:
        return self._flight.has_below(self._overdue.stop)

    def _on_overdue(self, row: Row) -> None:
        """A caller has been told that time is over, and nobody knows yet what became of its steps. A step sent behind them now
        would fail with them, though its caller waited for the failure before: so it waits for their outcome."""
        if row.missing:
            first = min(self._overdue.start, row.first_seq) if self._overdue else row.first_seq
            self._overdue = range(first, max(self._overdue.stop, row.end))

    def _pump(self) -> None:
        while self._waiting and self._pause is None:
            row = self._waiting[0]
            if isinstance(row, Pause):
                if row.reached.done():  # given up
                    self._waiting.popleft()
                elif (
                    (self._flight and not (row.moves and self.refused))
                    or (row.on_stream and self._halted)
                    or (self.durable and not self._stands.is_set())
                ):
                    return
                else:
                    self._waiting.popleft()
                    self._pause = row
                    row.reached.set_result(self.next_seq)
            elif row.call.future.done():  # cancelled or out of time, and it was not sent: it never was
                self._waiting.popleft()
            elif self._may_send and self._has_room(row):
                self._waiting.popleft()
                self.post.put_row(self, row, self.number(row))
            else:
                return

    def _has_room(self, row: Row) -> bool:
        # Every row but a reset acknowledges all that was answered, so the window holds what is in flight; `put_row` of a reset
        # acknowledges first.
        steps = self.next_seq - self.answered + row.length
        if steps > self.window_steps or self._flight.bytes + row.output_bytes > self.window_bytes:
            return False
        history = self._flight.history
        if history is None or self.care.on_lag == "serve" or not self._most_kept:
            return True
        kept = self.next_seq - history.first
        return kept <= 0 or kept + row.length <= self._most_kept  # a longer one goes when nothing is left to be written

    def _let_go(self) -> None:
        """Lets go of the oldest inputs where the store does not keep up and the owner wants to go on all the same."""
        history = self._flight.history
        if history is None or not self._most_kept or self.answered - history.first <= self._most_kept:
            return
        if self.care.on_lag == "serve":
            history.let_go(self.answered - self._most_kept)
            if not self._at_risk:
                self._at_risk = True
                self._on_risk()

    # Outcomes --------------------------------------------------------------------------------------------------------

    def answer(self, first_seq: int, length: int, kept: int, source: int, harvest: Harvest) -> None:
        """Answers to steps [first_seq, first_seq + length); the last `kept` have outputs, at `source` of the harvest on.

        What was answered before is passed over, and so is what is sent again after attaching before it is asked for here.
        Raises ProtocolError if an input before these is still without an outcome.
        """
        if self._replay is not None:
            self._replay.answer(first_seq, length, kept, source, harvest)
            return
        self._flight.answer(first_seq, length, kept, source, harvest)
        self._unacknowledged_bytes += self._flight.close(harvest)
        self._go_on()

    def refuse(
        self, first_seq: int, length: int, error: StepStreamError, expected_seq: int, harvest: Harvest, *, again: bool = False
    ) -> None:
        """Steps [first_seq, first_seq + length) have failed; `again`: they are to be sent once more, with all behind them."""
        if self._replay is not None:
            self._replay.refuse(first_seq, length, error, expected_seq, harvest, again=again)
            return
        if isinstance(error, (AnswerDiscarded, AnswerNotKept)):  # concerns just these steps, which were applied long ago
            self._flight.fail(first_seq, length, error, error.again)
            self._flight.answered = max(self.answered, first_seq + length)
        elif self._fault is None and (again or self._again_from is not None):
            if self._again_from is None:
                self._again_from, self._refusals_due = first_seq, self.next_seq - first_seq
            self._refusals_due -= length
        elif self._fault is None:
            self._fault = error
            self._resume_at = self._after_failure(first_seq, expected_seq)
            self._flight.fail(first_seq, length, error, lambda: self._behind(error))
            self._fail_waiting(first_seq, error)
        else:
            self._resume_at = self._after_failure(self._resume_at, expected_seq)
            fault = self._fault
            self._flight.fail(first_seq, length, self._behind(fault), lambda: self._behind(fault))
        self._unacknowledged_bytes += self._flight.close(harvest)
        self._go_on()

    def _fail_waiting(self, first_seq: int, error: StepStreamError) -> None:
        """Step `first_seq` has failed, and with it all that waits: except moves, and what was begun by callers who knew of it."""
        waiting, self._waiting = self._waiting, deque()
        for each in waiting:
            if first_seq in each.aware_of or (isinstance(each, Pause) and each.moves):
                each.aware_of = NOTHING
                self._waiting.append(each)
            else:
                each.fail(self._behind(error))

    def leave(self, reason: StepStreamError) -> None:
        """No more is sent; what is in flight may still be answered."""
        self.ended = self.ended or reason
        self._stands.set()
        while self._waiting:
            self._waiting.popleft().fail(reason.again())

    def end(self, reason: StepStreamError) -> None:
        """The session is gone from this stream: whoever waits is told so."""
        self._replay = None
        self.leave(reason)
        self._flight.fail_all(reason.again)

    def _after_failure(self, first_seq: int, expected_seq: int) -> int:
        # Never beyond what failed, or the caller's next input would count as a later one; never below what was answered,
        # which has been applied.
        return max(min(first_seq, expected_seq), self.answered)

    def _behind(self, fault: StepStreamError) -> SequenceMismatch:
        error = SequenceMismatch(
            f"not applied: step {self._resume_at} of session {self.id!r}, sent before, has failed: {fault.message}",
            metadata={"expectedSeq": str(self._resume_at)},
        )
        error.__cause__ = fault
        return error

    def _go_on(self) -> None:
        if self._fault is not None and not self._flight:
            self.next_seq = max(self._resume_at, self.answered)
            self._fault = None
        if self._overdue and not self._flight:
            self._overdue = NOTHING
        self._let_go()
        if self._waiting:
            self._pump()
        if self.ended is not None:
            return
        steps = self.answered - self.acknowledged
        if 2 * steps >= self.window_steps or 2 * self._unacknowledged_bytes >= self.window_bytes > 0:
            self.post.put_acknowledgement(self)

    def __repr__(self) -> str:
        state = "ended" if isinstance(self.ended, SessionEnded) else "lost" if self.ended else f"{len(self._flight)} in flight"
        return f"<Ledger {self.id!r} at {self.next_seq} | {state}>"


_OF_THE_SERVER = (
    "handle", "post", "secret", "served_as", "model", "page", "durable_seq", "epoch", "bitwise", "_most_kept", "_on_risk",
)  # fmt: skip


def lost_since(id: str, since: int) -> SessionLost:
    """The end of a session that stands at a step from before all inputs that are left."""
    return SessionLost(
        f"session {id!r} is lost from step {since} on: its inputs from there on are gone, here and at the server",
        metadata={"since": str(since)},
    )
