"""Flights: rows of one session that were sent and miss an outcome, in the order in which they were sent."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

from stepstream._errors import ProtocolError, StepStreamError
from stepstream._stream.calls import Harvest, Row
from stepstream._stream.history import History, Stretch


class Flight:
    """Rows in flight. `answered` counts the steps whose outcome has come, from the session's first on."""

    def __init__(self) -> None:
        self._rows: deque[Row] = deque()
        self.answered = 0
        self.bytes = 0  # of outputs that the rows may bring
        self.resent_below = 0  # answers of lower steps come by themselves, perhaps with fewer outputs than are asked for now
        self.history: History | None = None  # of a durable session: what was applied goes there

    def __len__(self) -> int:
        return len(self._rows)

    def has_below(self, seq: int) -> bool:
        """Tells whether a row of lower steps than `seq` has no complete outcome yet."""
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
            self._pop().fail(error())

    def close(self, harvest: Harvest) -> int:
        """Lets go of the oldest rows that miss nothing any more. Returns the bytes of their outputs."""
        closed = 0
        while self._rows and self._rows[0].missing == 0:
            row = self._pop()
            closed += row.output_bytes
            harvest.row_done(row)
        self.bytes -= closed
        return closed

    def applied_from(self, seq: int) -> Iterator[Stretch]:
        """The inputs of a durable session's steps from `seq` on that were answered."""
        if self.history is not None:
            yield from self.history.between(seq, self.answered)
        for row in self._rows:
            if max(row.first_seq, seq) < min(row.end, self.answered):
                yield Stretch(row.first_seq, row.end, row.inputs, row.offset).within(seq, self.answered)

    def _pop(self) -> Row:
        row = self._rows.popleft()
        if self.history is not None:
            self.history.keep(row.first_seq, min(row.end, self.answered), row.inputs, row.offset)
        return row

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
