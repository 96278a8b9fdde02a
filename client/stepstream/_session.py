"""One session, as callers see it: steps, chunks, streams of readings."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Iterable
from typing import Literal

from stepstream._calls import Call, Keep, Outputs, Row
from stepstream._closing import ClosesOnLeaving
from stepstream._connection import Connection
from stepstream._ledger import Ledger
from stepstream._models import ModelInfo
from stepstream._rows import RowLimits, slices
from stepstream._tensors import Values, pack

WhichOutputs = Literal["all", "last", "none"]


def keep_of(outputs: WhichOutputs) -> Keep:
    """The contract's number for a word. Raises ValueError for any other."""
    try:
        return {"all": Keep.ALL, "last": Keep.LAST, "none": Keep.NONE}[outputs]
    except KeyError:
        raise ValueError(f"outputs: expected 'all', 'last' or 'none', got {outputs!r}") from None


class Session(ClosesOnLeaving):
    """A session of one model. As a context manager it closes the session at the server on leaving.

    Calls may overlap: their inputs are applied in the order in which the calls began. Cancelling a waiting call does not take
    its input back if that was sent already: it is applied, its answer is dropped, and numbering goes on behind it. What had not
    been sent yet is not sent. If a step fails, inputs sent behind it are not applied either and fail with SequenceMismatch;
    the session can be used on from there.
    """

    def __init__(self, connection: Connection, ledger: Ledger, model: ModelInfo, limits: RowLimits) -> None:
        self._connection = connection
        self._ledger = ledger
        self._limits = limits
        self.model = model

    @property
    def id(self) -> str:
        """The session's name at the server."""
        return self._ledger.id

    @property
    def secret(self) -> bytes:
        """Proves that the session is the caller's: needed to attach it again."""
        return self._ledger.secret

    @property
    def next_seq(self) -> int:
        """The number of the next step to be sent: steps and resets sent so far, less those that failed."""
        return self._ledger.next_seq

    @property
    def acked(self) -> int:
        """Answers of steps below this number have been received. After a lost connection, attach with it and repeat the inputs
        from there on."""
        return self._ledger.answered

    async def step(self, values: Values) -> Outputs:
        """Applies one step. values: [*shape] for a model with one input, else arrays by name. Returns arrays [*shape] by name.

        Raises InvalidInput before anything is sent, and any other error of this package; the state has then not moved.
        """
        return await self._begin_step(values)

    async def chunk(self, values: Values, outputs: WhichOutputs = "all") -> Outputs:
        """Applies consecutive steps. values: [T, *shape], or such arrays by name. Returns arrays by name: [T, *shape] for "all",
        [1, *shape] for "last", [0, *shape] for "none".

        Steps are atomic, chunks are not: if one fails, those before it have been applied: the error has their
        `outputs`, and `next_seq` is the number of the failed one.
        """
        keep = keep_of(outputs)
        (steps,), inputs = pack(self.model, values, (None,))
        rows = self._limits.cut(steps, keep)
        call = Call(self.model, len(rows), keep.of(steps), steps=keep.of(steps))
        first = 0
        for length, part in rows:
            place = first if part is Keep.ALL else 0
            self._ledger.submit(Row(call, 0, place, length, part, slices(self.model, inputs, first, length)))
            first += length
        return await call.future

    async def stream(self, readings: Iterable[Values] | AsyncIterable[Values]) -> AsyncGenerator[Outputs, None]:
        """Applies a step for each reading and yields its outputs as `step` returns them, in order, each as soon as it is there.

        Readings are taken ahead of the answers as far as the session's window reaches. An error ends the iteration after the
        answers before it.
        """
        answers: asyncio.Queue[asyncio.Future[Outputs] | BaseException | None] = asyncio.Queue(self._ledger.window_steps)
        feeder = asyncio.create_task(self._feed(readings, answers))
        try:
            while (answer := await answers.get()) is not None:
                if isinstance(answer, BaseException):
                    raise answer
                yield await answer
        finally:
            feeder.cancel()
            await asyncio.wait([feeder])
            while not answers.empty():
                if isinstance(left := answers.get_nowait(), asyncio.Future):
                    left.cancel()

    async def reset(self) -> None:
        """Puts the session back to its initial state, in order with its steps."""
        call = Call(self.model, 1, 0, steps=0)
        self._ledger.submit(Row(call, 0, 0, 1, Keep.NONE, None))
        await call.future

    async def close(self) -> None:
        """Closes the session at the server. Calls still waiting may fail with SessionClosed. Nothing happens if it has ended."""
        await self._connection.leave([self._ledger], close=True)

    async def detach(self) -> None:
        """Lets the session go without closing it; `Client.attach_session` with its id and secret finds it again."""
        await self._connection.leave([self._ledger], close=False)

    def _begin_step(self, values: Values) -> asyncio.Future[Outputs]:
        _, inputs = pack(self.model, values, ())
        self._limits.cut(1, Keep.ALL)  # raises if a single step is too large
        call = Call(self.model, 1, 1, steps=None)
        self._ledger.submit(Row(call, 0, 0, 1, Keep.ALL, inputs))
        return call.future

    async def _feed(
        self,
        readings: Iterable[Values] | AsyncIterable[Values],
        answers: asyncio.Queue[asyncio.Future[Outputs] | BaseException | None],
    ) -> None:
        try:
            if isinstance(readings, AsyncIterable):
                async for reading in readings:
                    await answers.put(self._begin_step(reading))
            else:
                for reading in readings:
                    await answers.put(self._begin_step(reading))
        except Exception as error:  # the reader raises it, after the answers before it
            await answers.put(error)
        else:
            await answers.put(None)

    def __repr__(self) -> str:
        return f"<Session {self.id!r} of {self.model.name!r} at {self.next_seq}>"
