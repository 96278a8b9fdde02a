"""A momentary call: one step or chunk of one session, addressed by id, with one answer."""

from __future__ import annotations

import asyncio

import numpy as np

from stepstream_server.engine.ports import Call, Detached, RowErrors, Tensor
from stepstream_server.errors import StepStreamError
from stepstream_server.rpc.answers import Piece
from stepstream_server.rpc.convert.streams import decode_detached, decode_row_error
from stepstream_server.rpc.door import ModelDoor


class MomentaryCall:
    """Collects the outcomes of one call, which may come in several turns. A `Listener` of its model."""

    def __init__(self, steps: int) -> None:
        self._left = steps
        self._done = asyncio.Event()
        self._error: StepStreamError | None = None
        self._pieces: list[Piece] = []

    async def complete(self, door: ModelDoor, call: Call) -> None:
        """Submits the call and waits for all of its outcomes. Raises StepStreamError if a step was refused or failed."""
        door.listen(call.stream, self)
        try:
            door.submit(call)
            await self._done.wait()
        finally:
            if self._left > 0:
                door.leave(call.stream)  # given up: what is still queued is dropped
            else:
                door.forget(call.stream)
        if self._error is not None:
            raise self._error

    @property
    def seq(self) -> int:
        """The number of the first step applied."""
        first = self._pieces[0]
        return int(first.turn.answers.first_seqs[first.first])

    def outputs(self) -> list[Tensor]:
        """One [steps kept, *shape] per declared output."""
        parts = [[values[each.kept_first : each.kept_last] for values in each.turn.answers.outputs] for each in self._pieces]
        return [np.concatenate(of_output) for of_output in zip(*parts, strict=True)]

    def answered(self, door: ModelDoor, piece: Piece) -> None:
        self._pieces.append(piece)
        self._count(int(piece.turn.answers.lengths[piece.first : piece.last].sum()))

    def refused(self, door: ModelDoor, errors: RowErrors, row: int) -> None:
        self._error = self._error or decode_row_error(errors, row)
        self._count(errors.lengths[row])

    def detached(self, door: ModelDoor, detached: Detached, row: int) -> None:
        self.failed(decode_detached(detached, row))

    def failed(self, error: StepStreamError) -> None:
        self._error = error
        self._count(self._left)

    def _count(self, steps: int) -> None:
        self._left -= steps
        if self._left <= 0:
            self._done.set()
