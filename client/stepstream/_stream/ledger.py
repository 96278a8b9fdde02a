"""One session's numbering: what was sent, answered and acknowledged, what waits for the window, and going back after a failure.

Rules of the contract, no I/O. A row gets its number when it is sent, and is sent when the window has room for it and its
answer, so the server never has to refuse it for that. If step k fails, the server applies nothing from k on: everything
already sent gets an outcome, everything that waits is refused here, and only then numbering goes on, from k.

A number, once sent, stands for the same inputs until the server has refused it. That is why what is in flight can be sent
again, on the same stream or on another: whatever was applied already is answered and does not move the state twice.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import takewhile
from typing import Protocol

from stepstream._errors import AnswerDiscarded, AnswerNotKept, ProtocolError, SequenceMismatch, SessionEnded, StepStreamError
from stepstream._models import ModelInfo
from stepstream._stream.calls import NOTHING, Harvest, Row


class Flight:
    """What is in flight. `answered` counts the steps whose outcome has come, from the session's first on."""

    def __init__(self) -> None:
        self._rows: deque[Row] = deque()
        self.answered = 0
        self.bytes = 0  # of outputs that the rows may bring
        self.resent_below = 0  # answers of lower steps come by themselves, perhaps with fewer outputs than are asked for now

    def __len__(self) -> int:
        return len(self._rows)

    def has_below(self, seq: int) -> bool:
        """Whether a row of lower steps than `seq` has no complete outcome yet."""
        return bool(self._rows) and self._rows[0].first_seq < seq

    def __iter__(self) -> Iterator[Row]:
        return iter(self._rows)

    def add(self, row: Row) -> None:
        """The row has been sent."""
        self._rows.append(row)
        self.bytes += row.output_bytes

    def answer(self, first_seq: int, length: int, kept: int, source: int, harvest: Harvest) -> None:
        """Answers to steps [first_seq, first_seq + length); the last `kept` have outputs, at `source` of the harvest on.

        Raises ProtocolError if an input before these is still without an outcome.
        """
        oldest = self._rows[0] if self._rows else None
        if oldest and oldest.first_seq == first_seq == self.answered and oldest.length == length and oldest.kept == kept:
            oldest.missing = 0  # the usual case: just what was asked for
            self.answered += length
            if kept:
                harvest.add(oldest.call, oldest.place, source, kept)
        else:
            self._answer_in_pieces(first_seq, first_seq + length, first_seq + length - kept, source, harvest)

    def fail(self, first_seq: int, length: int, error: StepStreamError, following: Callable[[], StepStreamError]) -> None:
        """Gives `error` to the first row of [first_seq, first_seq + length), and what `following` makes to the others."""
        for row in self._rows:
            overlap = min(first_seq + length, row.end) - max(first_seq, row.first_seq)
            if overlap > 0 and row.missing > 0:
                row.missing = max(row.missing - overlap, 0)
                row.call.fail(row.session, error)
                error = following()

    def fail_all(self, error: Callable[[], StepStreamError]) -> None:
        """Every row fails, with an error of its own."""
        self.bytes = 0
        while self._rows:
            self._rows.popleft().fail(error())

    def close(self, harvest: Harvest) -> int:
        """Lets go of the oldest rows that miss nothing any more. Returns the bytes of their outputs."""
        closed = 0
        while self._rows and self._rows[0].missing == 0:
            row = self._rows.popleft()
            closed += row.output_bytes
            harvest.row_done(row)
        self.bytes -= closed
        return closed

    def _answer_in_pieces(self, first_seq: int, end: int, with_outputs: int, source: int, harvest: Harvest) -> None:
        if first_seq > self.answered and self._rows and end > self.resent_below:
            raise ProtocolError(f"answers: expected step {self.answered}, got {first_seq}")
        for row in self._rows:
            start, stop = max(first_seq, self.answered), min(end, row.end)
            if start > self.answered or row.first_seq >= end:
                break
            if start >= stop:
                continue
            wanted = row.first_kept(start)
            if wanted < min(stop, with_outputs) and stop <= self.resent_below:
                break  # sent again, with fewer outputs than are asked for now: not the outcome of this row
            row.missing -= stop - start
            self.answered = stop
            wanted = max(wanted, with_outputs)
            if wanted < stop:
                harvest.add(row.call, row.place_of(wanted), source + wanted - with_outputs, stop - wanted)


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

    def __init__(self, handle: int, post: Post) -> None:
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

    # From stream to stream -------------------------------------------------------------------------------------------

    def halt(self) -> None:
        """Nothing more can be sent on this stream; outcomes may still come."""
        self._halted = True

    def interrupt(self) -> None:
        """The stream is gone, and with it outcomes that were due. What had failed stays failed, with all behind it."""
        self._halted = True
        self._again_from = None
        if self._fault is not None:
            fault, self._fault = self._fault, None
            self._flight.fail_all(lambda: self._behind(fault))
            self._overdue = NOTHING
            self.next_seq = max(self._resume_at, self.answered)

    def rejoin(self, applied: int) -> int:
        """Another stream stands for the session, attached with all that was answered. The server has applied `applied` steps
        and sends the answers of those by itself; the rest of what is in flight is sent again. Returns how many steps these are.

        If the server has forgotten steps that it had answered, the session ends with ProtocolError.
        """
        if applied < self.answered:
            error = ProtocolError(f"session {self.id!r}: expected at least {self.answered} steps applied, got {applied}")
            self.end(error)
            return 0
        if not self._flight:
            self.next_seq = self._flight.answered = max(self.next_seq, applied)
        self.acknowledged = self.answered
        self._unacknowledged_bytes = 0
        self._flight.resent_below = applied
        self._halted = False
        return self._send_from(applied)

    @property
    def in_flight(self) -> bool:
        """Whether something that was sent has no outcome yet, on this stream."""
        return bool(self._flight) and not self.refused

    @property
    def refused_some(self) -> bool:
        """Whether something in flight has been refused for want of room; all behind it is refused as well."""
        return self._again_from is not None

    @property
    def refused(self) -> bool:
        """Whether everything in flight has been refused for want of room, so that it may be sent again."""
        return self._again_from is not None and self._refusals_due <= 0

    def send_again(self) -> None:
        """Sends what was refused for want of room under its old numbers, unless another stream has come in between."""
        if self._again_from is not None and self.refused and not self._halted and self._pause is None and self.ended is None:
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
        for name in ("handle", "post", "secret", "served_as", "model", "page"):
            mine, theirs = getattr(self, name), getattr(other, name)
            setattr(self, name, theirs)
            setattr(other, name, mine)
        self.interrupt()
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
        """During a pause the server has applied steps that were not rows of this ledger: numbering goes on behind them."""
        self.next_seq = self._flight.answered = self.acknowledged = max(self.next_seq, applied)

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
                elif (self._flight and not (row.moves and self.refused)) or (row.on_stream and self._halted):
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
        return steps <= self.window_steps and self._flight.bytes + row.output_bytes <= self.window_bytes

    # Outcomes --------------------------------------------------------------------------------------------------------

    def answer(self, first_seq: int, length: int, kept: int, source: int, harvest: Harvest) -> None:
        """Answers to steps [first_seq, first_seq + length); the last `kept` have outputs, at `source` of the harvest on.

        What was answered before is passed over, and so is what is sent again after attaching before it is asked for here.
        Raises ProtocolError if an input before these is still without an outcome.
        """
        self._flight.answer(first_seq, length, kept, source, harvest)
        self._unacknowledged_bytes += self._flight.close(harvest)
        self._go_on()

    def refuse(
        self, first_seq: int, length: int, error: StepStreamError, expected_seq: int, harvest: Harvest, *, again: bool = False
    ) -> None:
        """Steps [first_seq, first_seq + length) have failed; `again`: they are to be sent once more, with all behind them."""
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
        while self._waiting:
            self._waiting.popleft().fail(reason.again())

    def end(self, reason: StepStreamError) -> None:
        """The session is gone from this stream: whoever waits is told so."""
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
