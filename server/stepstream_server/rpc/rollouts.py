"""Rollouts: one `RolloutCaller` for each Generate, which asks the engine and passes on what is drawn.

What the engine tells while a message is being written leaves with the next one: whoever reads slowly gets fewer and longer
messages. The engine in turn waits for callers that have not taken what they were told.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections import deque
from collections.abc import AsyncIterator

from stepstream_proto.v1 import inference_pb2
from stepstream_server.engine.ports import TAKEN_AT_ONCE, Detached, Generate, RowErrors, Took
from stepstream_server.errors import CallerError, StepStreamError
from stepstream_server.rpc.answers import Piece
from stepstream_server.rpc.convert.rollouts import Drawn, encode_drawn, most_draws
from stepstream_server.rpc.convert.streams import decode_row_error
from stepstream_server.rpc.door import ModelDoor


class RolloutCaller:
    """On the event loop's thread. The `Listener` of its model under a number that no other has."""

    def __init__(self, number: int, door: ModelDoor, max_message_bytes: int) -> None:
        self._number = number
        self._door = door
        self._most_bytes = max_message_bytes
        self._told: deque[Drawn] = deque()
        self._error: StepStreamError | None = None
        self._woken = asyncio.Event()
        self._taken = 0  # draws that the engine does not know to be taken

    async def run(self, wanted: Generate) -> AsyncIterator[inference_pb2.GenerateResponse]:
        """The messages of one rollout, whose stream and request are filled in here. Raises StepStreamError."""
        self._door.listen(self._number, self)
        try:
            await self._begin(wanted)
            most = most_draws(self._door.spec, wanted, self._most_bytes)
            ended = False
            while not ended:
                for drawn in await self._take(most):
                    yield encode_drawn(drawn, self._door.spec)
                    self._count(drawn.steps)
                    ended = drawn.ending is not None
            self._door.forget(self._number)
        finally:
            self.leave()

    def leave(self) -> None:
        """Nothing more is wanted: the rollout, if it has not ended, is cancelled. To be called as soon as the call is over, since
        a generator that nobody reads on is told late."""
        self._door.hang_up(self._number)

    async def _begin(self, wanted: Generate) -> None:
        """Returns once the rollout has begun. Raises StepStreamError."""
        try:
            await self._door.ask(lambda request: dataclasses.replace(wanted, stream=self._number, request=request))
        except CallerError as error:
            if error.field == "id":
                error.field = "session_id"  # as the contract has it here
            raise

    async def _take(self, most: int) -> list[Drawn]:
        """What has been told since, at least something, as messages of at most so many draws. Raises StepStreamError."""
        while not self._told:
            if self._error is not None:
                raise self._error
            self._woken.clear()
            await self._woken.wait()
        told, self._told = self._told, deque()
        return list(Drawn.joined(told).cut(most))

    def _count(self, draws: int) -> None:
        """gRPC has taken a message."""
        self._taken += draws
        if self._taken >= TAKEN_AT_ONCE:
            self._door.submit(Took(self._number, self._taken))
            self._taken = 0

    def rolled(self, drawn: Drawn) -> None:
        self._told.append(drawn)
        self._woken.set()

    def refused(self, door: ModelDoor, errors: RowErrors, row: int) -> None:
        self._fail(decode_row_error(errors, row))

    def failed(self, door: ModelDoor, error: StepStreamError) -> None:
        self._fail(error)

    def answered(self, door: ModelDoor, piece: Piece) -> None:
        """Never: it sends no steps."""

    def detached(self, door: ModelDoor, detached: Detached, row: int) -> None:
        """Never: it holds no session."""

    def _fail(self, error: StepStreamError) -> None:
        self._error = error
        self._woken.set()
