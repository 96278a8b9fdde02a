"""What `Answers` messages say, told to the ledgers: what became of rows, in the order in which each session sent them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Any

from grpc import StatusCode

from stepstream._errors import (
    HandleUnknown,
    Overloaded,
    QueueFull,
    ServerDraining,
    SessionEnded,
    StepStreamError,
)
from stepstream._options import Backoff, ClientOptions
from stepstream._stream.calls import Harvest
from stepstream._stream.ledger import Ledger
from stepstream._stream.members import Membership
from stepstream._tensors import numbers, unpack
from stepstream._translation import from_wire
from stepstream_proto.v1 import inference_pb2 as pb

_Row = tuple[int, int, int, int, int]  # handle, first_seq, length, kept, where its outputs lie in the message


class Outcomes:
    """Tells the sessions of a connection what became of their rows, and acknowledges for those that went quiet."""

    def __init__(self, options: ClientOptions, members: Membership) -> None:
        self._options = options
        self._members = members
        self._unacknowledged: set[Ledger] = set()
        self._quiet_timer: asyncio.TimerHandle | None = None
        self._crowded: dict[Ledger, tuple[Backoff, float]] = {}  # what the server has no room for, and when to try again

    def heed(self, answers: pb.Answers) -> None:
        """Takes one message. Raises ProtocolError for what no server that keeps the contract says."""
        handles, first_seqs = numbers(answers.handles, "<u4"), numbers(answers.first_seqs, "<u8")
        lengths = numbers(answers.lengths, "<u4") or [1] * len(handles)
        kept = numbers(answers.kept, "<u4") or lengths
        harvest = Harvest(self._outputs(answers, handles, sum(kept)))
        sources = accumulate(kept, initial=0)
        rows: Iterable[_Row] = zip(handles, first_seqs, lengths, kept, sources, strict=False)
        if answers.errors:
            self._heed_mixed(rows, answers.errors, harvest)
        else:
            for row in rows:
                self._heed_row(*row, harvest)
        harvest.finish()
        if self._unacknowledged and self._quiet_timer is None:
            loop = asyncio.get_running_loop()
            self._quiet_timer = loop.call_later(self._options.acknowledge_after_seconds, self._acknowledge_quiet)

    def interrupt(self) -> None:
        """The stream is gone, and nothing can be acknowledged: attaching again does."""
        if self._quiet_timer is not None:
            self._quiet_timer.cancel()
            self._quiet_timer = None
        self._unacknowledged.clear()
        self._crowded.clear()

    def _heed_mixed(self, rows: Iterable[_Row], errors: Iterable[pb.RowError], harvest: Harvest) -> None:
        """Answers and errors of one message, which lists them apart, in the order in which each session sent its inputs."""
        outcomes: list[_Row | pb.RowError] = [*rows, *errors]
        for each in sorted(outcomes, key=lambda each: each[1] if isinstance(each, tuple) else each.first_seq):
            if isinstance(each, tuple):
                self._heed_row(*each, harvest)
            else:
                self._heed_error(each, harvest)

    def _heed_row(self, handle: int, first_seq: int, length: int, kept: int, source: int, harvest: Harvest) -> None:
        ledger = self._members.ledgers.get(handle)
        if ledger is not None:
            ledger.answer(first_seq, length, kept, source, harvest)
            self._unacknowledged.add(ledger)
            if self._crowded:
                self._crowded.pop(ledger, None)

    def _heed_error(self, row: pb.RowError, harvest: Harvest) -> None:
        ledger = self._members.joined(row.handle)
        if ledger is None:
            return  # of a session that had this handle before
        error = from_wire(row.error, {"expectedSeq": str(row.expected_seq)})
        if isinstance(error, (HandleUnknown, SessionEnded)) or not row.length:
            ledger.end(error)  # without a length it concerns a message that the server could not read
            return
        again = not ledger.refused_some and self._worth_another_try(ledger, error)
        ledger.refuse(row.first_seq, row.length, error, row.expected_seq, harvest, again=again)
        if ledger.refused and ledger in self._crowded:
            asyncio.get_running_loop().call_later(self._crowded[ledger][1], ledger.send_again)

    def _worth_another_try(self, ledger: Ledger, error: StepStreamError) -> bool:
        """Whether it is only a matter of time: of the next stream if the server is about to stop, of room in its queue."""
        if isinstance(error, ServerDraining):
            return self._options.reconnect_seconds > 0
        told_again = ledger.replays and (isinstance(error, Overloaded) or error.code is StatusCode.UNAVAILABLE)
        if not told_again and not isinstance(error, QueueFull):
            return False
        backoff = self._crowded[ledger][0] if ledger in self._crowded else Backoff(self._options)
        delay = backoff.delay(error.retry_delay)
        if delay is None:
            self._crowded.pop(ledger, None)
            return False
        self._crowded[ledger] = (backoff, delay)
        return True

    def _outputs(self, answers: pb.Answers, handles: Sequence[int], steps: int) -> list[Any]:
        if steps == 0:
            return []
        for handle in handles:  # all of one model; the first session still known tells which
            ledger = self._members.ledgers.get(handle)
            if ledger is not None and ledger.model is not None:
                return unpack(ledger.model.outputs, answers.outputs, steps)
        return []

    def _acknowledge_quiet(self) -> None:
        self._quiet_timer = None
        for ledger in self._unacknowledged:
            if ledger.ended is None and ledger.acknowledged < ledger.answered:
                ledger.post.put_acknowledgement(ledger)
        self._unacknowledged.clear()
