"""Rollouts that leave their steps in a durable session: when a call breaks, or its server dies, they go on by themselves.

What has been delivered is the session's from then on, as inputs that its book keeps and tells a restored server again. What was
drawn and not delivered, a server tells once more from the number of the first such draw on, if it is still there, and else draws
it anew: draws depend on seed and number only.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Protocol

from stepstream._errors import (
    BlockTooLarge,
    ConnectionLost,
    ProtocolError,
    QueueFull,
    SequenceError,
    ServerDraining,
    SessionInUse,
    StepStreamError,
)
from stepstream._models import ModelInfo
from stepstream._options import Backoff
from stepstream._rollout import OpenCall, fed_of, one_call, steps_of
from stepstream._token import Token
from stepstream._translation import breaks, lost
from stepstream_proto.v1 import inference_pb2 as pb


class Book(Protocol):
    """The place where inputs of a durable session are kept."""

    def keep(self, first_seq: int, end: int, inputs: Sequence[bytes]) -> None:
        """Steps [first_seq, end) were applied."""

    def heed_durable(self, count: int) -> None:
        """Steps below the count survive the death of the server."""

    async def stands(self) -> None:
        """Waits until the server stands where the book says, or beyond. Raises why the session has ended."""


class Progress:
    """How far a rollout has come, and how to ask for the rest of it."""

    def __init__(self, request: pb.GenerateRequest, model: ModelInfo) -> None:
        """request: placed at a number."""
        self.request = pb.GenerateRequest()
        self.request.CopyFrom(request)
        self._model = model
        self._prompt = b"".join(request.prompt)
        self._start, self._most = request.seq, request.max_steps
        self._first = self._start + steps_of(model, [self._prompt])  # number of the first draw
        self._told = bytearray()
        self._skip = 0  # draws that the next messages tell again
        self._committed = False  # draws that were not delivered are the session's, as far as is known

    @property
    def each(self) -> bool:
        """Tells whether each step is the session's at once."""
        return self.request.commit == pb.COMMIT_EACH

    @property
    def told(self) -> int:
        """Draws delivered."""
        return len(self._told) // self._step_bytes

    def heed(self, message: pb.GenerateResponse, book: Book) -> pb.GenerateResponse:
        """Takes a message. Returns what of it has not been delivered yet."""
        count = steps_of(self._model, [fed_of(self._model, message)])
        again = min(self._skip, count)
        self._skip -= again
        for name in ("tokens", "values"):
            column = getattr(message, name)
            setattr(message, name, column[len(column) // max(count, 1) * again :])
        before, news = self._first + self.told, fed_of(self._model, message)
        self._told += news
        if self.each:
            book.keep(self._start, self._first, [self._prompt])
            book.keep(before, self._first + self.told, [news])
        book.heed_durable(message.durable_seq)
        return message

    def ask_again(self) -> None:
        """After a break: asks for what is missing, as if the session stood where the rollout was begun, or behind what was
        delivered if that is the session's."""
        if self._committed or (self.each and self.told):
            self._ask_for_draws()
        elif self.request.seq == self._start:
            self._ask_from_start()

    def ask_from(self, applied: int) -> None:
        """The session stands elsewhere than at the place that was asked for: asks for what is missing there."""
        if applied < self.request.seq and not self.each:
            self._ask_from_start()  # the end was not in the store yet
        elif self._start < applied < self._first and not self.told:
            self._place(applied, self._prompt[(applied - self._start) * self._step_bytes :], 0)
        elif applied > self.request.seq:
            self._ask_for_draws()

    def _ask_from_start(self) -> None:
        fed = min(self.told, self._most - 1)
        self._committed = False
        self._place(self._start, self._prompt + bytes(self._told[: fed * self._step_bytes]), fed)

    def _ask_for_draws(self) -> None:
        fed = min(self.told, self._most - 1)
        self._committed = True
        self._place(self._first + fed, b"", fed)

    def ended(self) -> pb.GenerateResponse | None:
        """The last message of a rollout all of whose draws were delivered, and are the session's: only its length can end it."""
        if not self.each or self.told < self._most:
            return None
        end = self._first + self.told
        return pb.GenerateResponse(first_seq=end, next_seq=end, ending=pb.ROLLOUT_ENDING_LENGTH)

    def _place(self, seq: int, prompt: bytes, fed: int) -> None:
        self.request.seq = seq
        self.request.prompt[:] = [prompt] if prompt else []
        self.request.max_steps = self._most - fed
        self._skip = self.told - fed

    @property
    def _step_bytes(self) -> int:
        return self._model.inputs[0].step_bytes


async def lasting_messages(
    open_call: OpenCall, request: pb.GenerateRequest, model: ModelInfo, book: Book, backoff: Backoff, token: Token
) -> AsyncGenerator[pb.GenerateResponse, None]:
    """The messages of a rollout that commits, in order and each draw once, from as many calls as it takes while patience lasts.
    All errors are this package's."""
    progress = Progress(request, model)
    broken: StepStreamError | None = None  # why it was called before the last time
    while True:
        shown = token.metadata()
        try:
            async with aclosing(one_call(open_call, progress.request, shown)) as source:
                async for message in source:
                    backoff.worked()
                    yield progress.heed(message, book)
            return
        except (ConnectionLost, ProtocolError):
            raise
        except StepStreamError as error:
            failure = error
        # It is this client's own stream that uses the session: it was attached anew while the call was on its way.
        if breaks(failure) or token.mends(failure, shown) or isinstance(failure, SessionInUse):
            if isinstance(failure, ServerDraining) and broken is None and not progress.told:
                raise failure  # it has not begun: whoever placed it knows better where to go on
            broken = failure
            progress.ask_again()
        elif broken is not None and (applied := _stands_at(failure)) is not None and _may_be_placed(applied, progress):
            progress.ask_from(applied)
        elif not isinstance(failure, QueueFull):
            raise lost(broken) if broken is not None and isinstance(failure, (SequenceError, BlockTooLarge)) else failure
        delay = backoff.delay(failure.retry_delay)
        if delay is None:
            raise lost(broken) if broken is not None else failure
        await asyncio.sleep(delay)
        await book.stands()
        if (ending := progress.ended()) is not None:
            yield ending
            return


def _stands_at(failure: StepStreamError) -> int | None:
    """Says where the session stands that was asked for something else."""
    expected = failure.metadata.get("expectedSeq")
    return int(expected) if expected and isinstance(failure, SequenceError) else None


def _may_be_placed(applied: int, progress: Progress) -> bool:
    """Tells whether a session may go on with a rollout from where it stands: behind, until it has been told again what was
    applied, or ahead by the rollout's own doing, unless it was just that which was asked for."""
    return applied < progress.request.seq or bool(progress.request.prompt)
