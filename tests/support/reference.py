"""Exactly once, written for reading: one session of the counting model with no queue, no batch and no time.

Inputs are evaluated one after the other, and each method yields the outcomes of its steps as it applies them: who stops asking
midway has dropped the rest, as a stream does that loses its session while steps are queued.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

from stepstream_server.engine.ports import Keep, Kind
from stepstream_server.errors import Reason

# One step's outcome: (seq, sum or None where none was asked for), or (seq, reason, expected seq) if it was refused.
Outcome = tuple[int, float | None] | tuple[int, Reason, int]


@dataclass
class ReferenceSession:
    """What a session must do by the rules of exactly once. `poison` is the input that makes a step's sum non-finite."""

    window_steps: int
    window_kept: float = math.inf  # outputs that may be kept at once
    poison: float = math.inf
    sum: float = 0.0
    next_seq: int = 0
    acked: int = 0
    quarantined: bool = False
    kept: dict[int, float | None] = field(default_factory=dict)  # by seq from acked on; None: applied without keeping outputs
    sums: dict[int, float] = field(default_factory=lambda: {0: 0.0})  # by next_seq: the sum after so many steps

    def copy(self) -> Self:
        """Another session that stands where this one does, with the same kept answers."""
        return replace(self, kept=dict(self.kept), sums=dict(self.sums))

    def fork(self, at_seq: int) -> Self:
        """A session that begins where this one stood after so many steps, with nothing kept."""
        total = self.sums[at_seq]
        return replace(self, sum=total, next_seq=at_seq, acked=at_seq, quarantined=False, kept={}, sums={at_seq: total})

    def moved(self, at_seq: int) -> Self:
        """What a snapshot taken after so many steps becomes: answers that were not acknowledged go along."""
        kept = {seq: value for seq, value in self.kept.items() if self.acked <= seq < at_seq}
        return replace(self.fork(at_seq), acked=self.acked, kept=kept)

    def send(
        self, first: int, values: Sequence[float], keep: Keep, *, cached: bool = True, failed_from: int | None = None
    ) -> Iterator[Outcome]:
        """One row of a block, or a one-shot step (`cached` unless it had no seq).

        Where a chunk is cut into launches is the server's choice: `failed_from` is the first step of the launch that the
        poison was in, by default the poisoned step itself.
        """
        end = first + len(values)
        if first > self.next_seq:
            yield from self.refuse(first, end, Reason.SEQUENCE_MISMATCH)
            return
        new = max(first, self.next_seq)
        yield from self.refuse(first, min(end, self.acked), Reason.ANSWER_DISCARDED)
        for seq in range(max(first, self.acked), min(end, new)):
            yield self._repeat(seq, keep, seq == end - 1)
        if end <= new:
            return
        if (refusal := self._refusal(first, values, new, keep if cached else Keep.NONE)) is not None:
            yield from self.refuse(new, end, refusal)
            return
        poisoned = next((new + at for at, value in enumerate(values[new - first :]) if value == self.poison), end)
        failed = poisoned if failed_from is None or poisoned == end else min(max(new, failed_from), poisoned)
        for seq in range(new, failed):
            wanted = keep == Keep.ALL or (keep == Keep.LAST and seq == end - 1)
            yield self._apply(self.sum + values[seq - first], wanted, cached)
        if failed < end:
            self.quarantined = True
            yield from self.refuse(failed, end, Reason.NON_FINITE_STATE)

    def reset(self, seq: int) -> Iterator[Outcome]:
        """A step without input and output, which heals."""
        if seq > self.next_seq:
            yield from self.refuse(seq, seq + 1, Reason.SEQUENCE_MISMATCH)
        elif seq < self.acked:
            yield from self.refuse(seq, seq + 1, Reason.ANSWER_DISCARDED)
        elif seq < self.next_seq:
            yield (seq, None)
        elif seq + 1 - self.acked > self.window_steps:
            yield from self.refuse(seq, seq + 1, Reason.WINDOW_FULL)
        else:
            self.quarantined = False
            yield self._apply(0.0, wanted=False, cached=True)

    def acknowledge(self, count: int) -> None:
        """Cumulative: lower counts than before change nothing, higher ones than next_seq are clamped."""
        self.acked = max(self.acked, min(count, self.next_seq))

    def resend(self) -> Iterator[Outcome]:
        """What attaching again brings."""
        for seq in range(self.acked, self.next_seq):
            yield (seq, self.kept[seq])

    def _apply(self, total: float, wanted: bool, cached: bool) -> Outcome:
        seq = self.next_seq
        self.sum, self.next_seq = total, seq + 1
        self.sums[seq + 1] = total
        self.kept[seq] = total if wanted and cached else None
        if not cached:  # nobody has a number to ask for it again with
            self.acked += self.acked == seq
        return (seq, total if wanted else None)

    def _refusal(self, first: int, values: Sequence[float], new: int, keep: Keep) -> Reason | None:
        """Why the steps from `new` on cannot be admitted."""
        end = first + len(values)
        kept = sum(self.kept[seq] is not None for seq in range(self.acked, self.next_seq))
        if self.quarantined:
            return Reason.SESSION_QUARANTINED
        if any(math.isnan(value) for value in values):
            return Reason.NON_FINITE_INPUT
        if end - self.acked > self.window_steps:
            return Reason.WINDOW_FULL
        if kept + {Keep.ALL: end - new, Keep.LAST: 1, Keep.NONE: 0}[keep] > self.window_kept:
            return Reason.WINDOW_FULL
        return None

    def _repeat(self, seq: int, keep: Keep, last: bool) -> Outcome:
        wanted = keep == Keep.ALL or (keep == Keep.LAST and last)
        if not wanted:
            return (seq, None)
        kept = self.kept[seq]
        return (seq, Reason.ANSWER_NOT_KEPT, self.next_seq) if kept is None else (seq, kept)

    def refuse(self, first: int, end: int, reason: Reason) -> Iterator[Outcome]:
        """Nothing comes of steps [first, end)."""
        for seq in range(first, end):
            yield (seq, reason, self.next_seq)


@dataclass(frozen=True)
class Sent:
    """Something sent to a session before anything was heard of it: steps, or a reset, which has no values."""

    caller: int
    seq: int | None  # None: its caller names no number
    values: tuple[float, ...]
    keep: Keep = Keep.ALL
    late: bool = False  # its time is over before it can run

    @property
    def steps(self) -> int:
        """Numbers that it takes."""
        return max(1, len(self.values))


class ReferenceLine:
    """A line of what waits for a session. The meaning of a number is decided on arrival, what runs when its turn comes.

    A step that fails, or whose caller has left, takes along whatever has a number and is behind it. What has none takes the next
    one and runs.
    """

    def __init__(self, session: ReferenceSession) -> None:
        self.point = session.next_seq  # the admission point
        self._session = session
        self._line: list[tuple[Sent, int, int, Kind, Reason]] = []  # steps [first, end), their fate, why they are refused
        self._quarantined = session.quarantined
        self._failed_from: int | None = None  # the first number that has failed

    def take(self, sent: Sent) -> None:
        """Something arrives."""
        first = self.point if sent.seq is None else sent.seq
        new, end = max(first, self.point), first + sent.steps
        reason = Reason.SEQUENCE_MISMATCH if first > self.point else self._why_not(sent)
        if first < new:
            self._line.append((sent, first, min(end, new), Kind.REPEAT, Reason.SEQUENCE_MISMATCH))
        if new < end and reason is not None:
            self._line.append((sent, new, end, Kind.REFUSE, reason))
        elif new < end:
            self._line.append((sent, new, end, Kind.APPLY, Reason.SEQUENCE_MISMATCH))
            self.point = end
            self._quarantined = self._quarantined and bool(sent.values)

    def run(self, left: int | None) -> Iterator[tuple[Sent, Outcome]]:
        """Every outcome in its order. left: a caller who has left before any turn."""
        for sent, first, end, kind, reason in self._line:
            if sent.caller == left:
                self._note(failed=kind is Kind.APPLY)
            else:
                yield from ((sent, outcome) for outcome in self._outcomes(sent, first, end, kind, reason))

    def _why_not(self, sent: Sent) -> Reason | None:
        if self._quarantined and sent.values:
            return Reason.SESSION_QUARANTINED
        return Reason.NON_FINITE_INPUT if any(map(math.isnan, sent.values)) else None

    def _note(self, *, failed: bool) -> None:
        if failed and self._failed_from is None:
            self._failed_from = self._session.next_seq

    def _outcomes(self, sent: Sent, first: int, end: int, kind: Kind, reason: Reason) -> Iterator[Outcome]:
        session = self._session
        if kind is Kind.REPEAT:
            there = end if self._failed_from is None else max(first, min(end, self._failed_from))
            yield from self._repeat(sent, first, there)
            yield from session.refuse(there, end, reason)
        elif kind is Kind.REFUSE or (sent.seq is not None and self._failed_from is not None):
            yield from session.refuse(first, end, reason)
        else:
            goal = session.next_seq + end - first
            yield from self._run(sent, end - first)
            self._note(failed=session.next_seq < goal)

    def _repeat(self, sent: Sent, first: int, end: int) -> Iterator[Outcome]:
        keep = Keep.NONE if sent.keep is Keep.LAST and end - first < sent.steps else sent.keep
        if first < end:
            yield from self._session.send(first, [0.0] * (end - first), keep) if sent.values else self._session.reset(first)

    def _run(self, sent: Sent, steps: int) -> Iterator[Outcome]:
        session, first = self._session, self._session.next_seq
        if not sent.values:
            yield from session.reset(first)
        elif sent.late and not session.quarantined:
            yield from session.refuse(first, first + steps, Reason.DEADLINE_EXCEEDED)
        else:
            yield from session.send(first, sent.values[-steps:], sent.keep, cached=sent.seq is not None)
