"""What callers wait for: a call, the rows it travels as, and the gathering of answers into arrays.

Knows nothing of windows, numbering or messages.
"""

from __future__ import annotations

import asyncio
import enum
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stepstream._errors import DeadlineExceeded, GroupError, ProtocolError, StepStreamError
from stepstream._models import ModelInfo
from stepstream._tensors import Array, blank, duration, slices
from stepstream_proto.v1 import common_pb2

Outputs = Mapping[str, NDArray[Any]]
"""Answers by output name."""


NOTHING = range(0)  # no steps


class Keep(enum.IntEnum):
    """Which steps of a row come back with outputs: the contract's numbers."""

    ALL = common_pb2.OUTPUTS_ALL
    LAST = common_pb2.OUTPUTS_LAST
    NONE = common_pb2.OUTPUTS_NONE

    def of(self, length: int) -> int:
        """How many of `length` steps have outputs."""
        if self is Keep.ALL:
            return length
        return int(self is Keep.LAST)


class Call:
    """One awaited call with one future, whatever the number of its rows.

    `sessions` is the number of sessions in a group's call and None for a session's own. `steps` is the length of the time axis
    of the result, None if it has none.
    """

    __slots__ = (
        "_arrays",
        "_deadline",
        "_done",
        "_filled",
        "_overdue",
        "_places",
        "_rows",
        "errors",
        "future",
        "has_deadline",
        "model",
        "sessions",
        "steps",
    )

    def __init__(self, model: ModelInfo, rows: int, places: int, *, steps: int | None, sessions: int | None = None) -> None:
        self.model = model
        self.steps = steps
        self.sessions = sessions
        self.future: asyncio.Future[Outputs] = asyncio.get_running_loop().create_future()
        self.errors: dict[int, StepStreamError] = {}  # by session
        self._rows = rows  # without a complete outcome
        self._places = places  # steps with outputs, over all sessions
        self._filled = 0
        self._arrays: list[Array] | None = None  # [places, *shape] each
        self.has_deadline = False
        self._deadline: float | None = None  # by the event loop's clock
        self._done: Counter[int] = Counter()  # rows by session, where there is a deadline
        self._overdue: list[Callable[[], None]] = []  # to be called at the deadline

    def limit(self, seconds: float | None) -> None:
        """Lets the call fail with DeadlineExceeded unless it has its outcome in time; None: it may take any time.

        What was sent by then keeps its place among the session's steps: whether it was applied, its outcome tells, which its
        session waits for before it sends more. Raises InvalidArgument unless positive.
        """
        if seconds is None:
            return
        loop = asyncio.get_running_loop()
        self.has_deadline = True
        self._deadline = loop.time() + duration("timeout", seconds).total_seconds()
        timer = loop.call_at(self._deadline, self._expire, seconds)
        self.future.add_done_callback(lambda _: timer.cancel())

    def on_overdue(self, tell: Callable[[], None]) -> None:
        """Has `tell` called if the deadline passes without an outcome."""
        self._overdue.append(tell)

    def milliseconds_left(self) -> int | None:
        """What the server is told: at least 1, since it decides what becomes of a step that was sent. None: any time."""
        if self._deadline is None:
            return None
        return max(math.ceil((self._deadline - asyncio.get_running_loop().time()) * 1000), 1)

    def put(self, place: int, outputs: Sequence[Array], source: int, count: int) -> None:
        """Takes `count` steps of a message's outputs, from `source` on, as the call's steps from `place` on."""
        if self.future.done():
            return  # its caller has been told something else and may hold the arrays
        if count == self._places:
            self._arrays = [np.array(each[source : source + count], each.dtype.newbyteorder("=")) for each in outputs]
        else:
            if self._arrays is None:
                self._arrays = [blank(spec, self._places) for spec in self.model.outputs]
            for mine, theirs in zip(self._arrays, outputs, strict=True):
                mine[place : place + count] = theirs[source : source + count]
        self._filled += count

    def fail(self, session: int, error: StepStreamError) -> None:
        """Notes why a session's part of the call fails; the first reason stands."""
        self.errors.setdefault(session, error)

    def row_done(self, session: int) -> None:
        """One row of a session has its outcome; the last one ends the call."""
        self._rows -= 1
        if self._deadline is not None:
            self._done[session] += 1
        if self._rows == 0 and not self.future.done():
            self._finish()

    def _expire(self, seconds: float) -> None:
        if self.future.done():
            return
        for tell in self._overdue:
            tell()
        sessions = self.sessions or 1
        rows = (self._rows + self._done.total()) // sessions
        for session in range(sessions):
            if self._done[session] < rows:
                self.fail(session, DeadlineExceeded(f"no outcome within {seconds} s; what was sent may yet be applied"))
        self._finish()

    def _finish(self) -> None:
        if not self.errors and self._filled != self._places:
            self.fail(0, ProtocolError(f"answers: expected outputs of {self._places} steps, got {self._filled}"))
        if not self.errors:
            self.future.set_result(self._outputs())
        elif self.sessions is None:
            if self.steps is not None and self._places:
                answered = {name: array[: self._filled] for name, array in self._outputs().items()}
                self.errors[0].outputs = answered  # they have been acknowledged, and nobody else has them
            self.future.set_exception(self.errors[0])
        else:
            ok = np.ones(self.sessions, bool)
            ok[list(self.errors)] = False
            self.future.set_exception(GroupError(dict(sorted(self.errors.items())), ok, self._outputs()))
        if self.errors:
            self.future.exception()  # retrieved: asyncio must not log what nobody waits for any more

    def _outputs(self) -> Outputs:
        arrays = self._arrays or [blank(spec, self._places) for spec in self.model.outputs]
        lead = [size for size in (self.sessions, self.steps) if size is not None]
        return {spec.name: array.reshape((*lead, *spec.shape)) for spec, array in zip(self.model.outputs, arrays, strict=True)}


class Row:
    """Consecutive steps of one session that travel together and have one place in their call's outputs.

    inputs: the call's, one piece of bytes per input of the model, in which the row's steps begin with step `offset`; None: a
    reset. first_seq is set when the row is sent.
    """

    __slots__ = (
        "aware_of",
        "call",
        "first_seq",
        "inputs",
        "keep",
        "kept",
        "length",
        "missing",
        "offset",
        "output_bytes",
        "place",
        "session",
    )

    def __init__(
        self, call: Call, session: int, place: int, length: int, keep: Keep, inputs: Sequence[bytes] | None, offset: int = 0
    ) -> None:
        self.call = call
        self.session = session  # index in the call's group
        self.place = place  # of the first step with outputs
        self.length = length
        self.keep = keep
        self.inputs = inputs
        self.offset = offset
        self.kept = keep.of(length)  # steps with outputs
        self.output_bytes = self.kept * call.model.output_step_bytes
        self.first_seq = 0
        self.missing = length  # steps without an outcome
        self.aware_of = NOTHING  # steps before that may have failed, as its caller knew

    @property
    def end(self) -> int:
        """The number after the row's last step."""
        return self.first_seq + self.length

    def pieces(self, seq: int) -> Sequence[bytes | memoryview]:
        """The inputs of the row's steps from `seq` on; none of a reset."""
        return slices(self.call.model, self.inputs or (), self.offset + seq - self.first_seq, self.end - seq)

    def first_kept(self, seq: int) -> int:
        """The first step from `seq` on whose outputs are asked for; `end` if there is none."""
        if self.keep is Keep.ALL:
            return seq
        return self.end - (self.keep is Keep.LAST)

    def place_of(self, seq: int) -> int:
        """Where the outputs of step `seq` belong."""
        return self.place + (seq - self.first_seq if self.keep is Keep.ALL else 0)

    def fail(self, error: StepStreamError) -> None:
        """Ends the row at once, whatever it still misses."""
        self.missing = 0
        self.call.fail(self.session, error)
        self.call.row_done(self.session)


class Harvest:
    """One message's outputs on their way into calls. Neighbours in the message that are neighbours in a call are copied at once:
    a group's block that is answered as a whole is one copy per output.
    """

    def __init__(self, outputs: Sequence[Array]) -> None:
        self._outputs = outputs
        self._call: Call | None = None
        self._place = self._source = self._count = 0
        self._done: list[Row] = []

    def add(self, call: Call, place: int, source: int, count: int) -> None:
        """The message's steps [source, source + count) are the call's from `place` on."""
        if call is self._call and place == self._place + self._count and source == self._source + self._count:
            self._count += count
            return
        self._copy()
        self._call, self._place, self._source, self._count = call, place, source, count

    def row_done(self, row: Row) -> None:
        """Remembers that a row has its outcome, which its call may hear of once its outputs are copied."""
        self._done.append(row)

    def finish(self) -> None:
        """Copies what is left and ends the calls that are complete."""
        self._copy()
        for row in self._done:
            row.call.row_done(row.session)

    def _copy(self) -> None:
        if self._call is not None and self._count:
            self._call.put(self._place, self._outputs, self._source, self._count)
        self._call = None
