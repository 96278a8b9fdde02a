"""One-shot calls: steps of sessions addressed by id, asked under a number at the engines' doors, and their outcomes.

One `Caller` stands for one call of the contract, or for a stream of requests. It holds no session and promises no order; what
is still queued when it leaves is dropped.
"""

from __future__ import annotations

import asyncio

from stepstream_server.engine.ports import Detached, RowErrors
from stepstream_server.errors import StepStreamError
from stepstream_server.rpc.answers import Piece
from stepstream_server.rpc.convert.rollouts import Drawn
from stepstream_server.rpc.convert.streams import decode_row_error
from stepstream_server.rpc.door import ModelDoor
from stepstream_server.rpc.gathering import Steps

_HANDLES = 1 << 32  # as many as there are


class Outcome:
    """What became of one row: its outputs, step after step, or why it was refused or failed."""

    __slots__ = ("error", "first_seq", "left", "outputs")

    def __init__(self, steps: int) -> None:
        self.left = steps  # without an outcome
        self.first_seq = -1  # number of the first step applied; -1: none was
        self.outputs: list[tuple[bytes, ...]] = []  # of its parts in order: one per declared output, little-endian
        self.error: StepStreamError | None = None

    def joined(self) -> tuple[bytes, ...]:
        """Outputs of all its steps: one per declared output."""
        parts = self.outputs
        return parts[0] if len(parts) == 1 else tuple(b"".join(of_output) for of_output in zip(*parts, strict=True))


class Asked:
    """One request: `done` is called when all of its rows have their outcomes."""

    __slots__ = ("_left", "outcomes")

    def __init__(self, rows: int, steps: int) -> None:
        """steps: of each row."""
        self.outcomes = [Outcome(steps) for _ in range(rows)]
        self._left = rows

    def done(self) -> None:
        """All outcomes are there. Must not raise."""

    def answered(self, row: int, first_seq: int, steps: int, outputs: tuple[bytes, ...]) -> bool:
        """Whether the row has all of its outcomes now."""
        outcome = self.outcomes[row]
        if not outcome.outputs:
            outcome.first_seq = first_seq
        outcome.outputs.append(outputs)
        return self._count(outcome, steps)

    def refused(self, row: int, steps: int, error: StepStreamError) -> bool:
        """Whether the row has all of its outcomes now that these steps were refused or failed."""
        outcome = self.outcomes[row]
        outcome.error = outcome.error or error
        return self._count(outcome, steps)

    def _count(self, outcome: Outcome, steps: int) -> bool:
        outcome.left -= steps
        if outcome.left > 0:
            return False
        self._left -= 1
        if not self._left:
            self.done()
        return True


class Caller:
    """On the event loop's thread. A `Listener` of every model that it asks; its handles count the rows it has asked for.

    An outcome may make its request leave, so that nothing is known of the rows behind it.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self._rows: dict[ModelDoor, dict[int, tuple[Asked, int]]] = {}  # by handle: rows without all of their outcomes
        self._next_handle = 0

    def ask(self, door: ModelDoor, steps: Steps, asked: Asked) -> None:
        """Asks for steps under this caller's number. Raises StepStreamError."""
        if door not in self._rows:
            door.listen(self.number, self)
            self._rows[door] = {}
        rows, handle = len(steps.ids), self._next_handle
        if handle + rows > _HANDLES:
            handle = 0  # those requests have been answered long ago
        door.call(self.number, handle, steps)
        self._next_handle = handle + rows
        waiting = self._rows[door]
        for row in range(rows):
            waiting[handle + row] = (asked, row)

    def leave(self) -> None:
        """Nothing more is wanted: what is still queued is dropped."""
        left, self._rows = self._rows, {}
        for door, waiting in left.items():
            if waiting:
                door.hang_up(self.number)
            else:
                door.forget(self.number)

    def answered(self, door: ModelDoor, piece: Piece) -> None:
        turn, start = piece.turn, piece.kept_first
        for handle, first_seq, length, kept in turn.rows()[piece.first : piece.last]:
            waiting = self._rows.get(door)
            if waiting is None:
                return
            end = start + kept
            outputs = tuple([data[size * start : size * end] for data, size in zip(turn.outputs, turn.step_bytes, strict=True)])
            start = end
            asked, row = waiting[handle]
            if asked.answered(row, first_seq, length, outputs):
                del waiting[handle]

    def refused(self, door: ModelDoor, errors: RowErrors, row: int) -> None:
        waiting = self._rows.get(door)
        if waiting is None:
            return
        handle = errors.handles[row]
        asked, place = waiting[handle]
        if asked.refused(place, errors.lengths[row], decode_row_error(errors, row)):
            del waiting[handle]

    def rolled(self, drawn: Drawn) -> None:
        """Never: it has no rollout."""

    def detached(self, door: ModelDoor, detached: Detached, row: int) -> None:
        """Never: it holds no session."""

    def failed(self, door: ModelDoor, error: StepStreamError) -> None:
        for asked, row in self._rows.pop(door, {}).values():
            asked.refused(row, asked.outcomes[row].left, error)


class _Awaited(Asked):
    """A request that somebody waits for."""

    __slots__ = ("_event",)

    def __init__(self, rows: int, steps: int) -> None:
        super().__init__(rows, steps)
        self._event = asyncio.Event()

    def done(self) -> None:
        self._event.set()

    async def wait(self) -> list[Outcome]:
        await self._event.wait()
        return self.outcomes


async def complete(door: ModelDoor, number: int, steps: Steps) -> list[Outcome]:
    """Asks by a caller of its own, under a number that no other has, and waits for the outcomes of all rows.

    Raises StepStreamError if it cannot be asked.
    """
    caller, asked = Caller(number), _Awaited(len(steps.ids), steps.length)
    try:
        caller.ask(door, steps, asked)
        return await asked.wait()
    finally:
        caller.leave()
