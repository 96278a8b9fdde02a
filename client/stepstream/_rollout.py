"""Rollouts: a session stepped on its own outputs at the server, and what comes of it piece by piece.

One call of its own per rollout. When it breaks, the same rollout goes on in another call: what has been delivered is fed rather
than drawn again, and what follows is drawn as it would have been, since draws depend on seed and number only.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Literal, cast

import grpc
import numpy as np
from numpy.typing import NDArray

from stepstream._backoff import Backoff
from stepstream._errors import (
    BlockTooLarge,
    ConnectionLost,
    ProtocolError,
    QueueFull,
    SequenceError,
    SessionInUse,
    StepStreamError,
)
from stepstream._models import ModelInfo
from stepstream._rollout_request import is_of_tokens
from stepstream._status import lost
from stepstream._text import Writer
from stepstream._translation import from_rpc
from stepstream_proto.v1 import inference_pb2 as pb

Piece = str | NDArray[Any]
"""Of what a rollout draws: text, or int64 tokens [n, *shape], or float32 numbers [n, *shape]."""
Ending = Literal["stop", "length"]

_ENDINGS: dict[int, Ending] = {pb.ROLLOUT_ENDING_STOP: "stop", pb.ROLLOUT_ENDING_LENGTH: "length"}

OpenCall = Callable[[pb.GenerateRequest], grpc.aio.UnaryStreamCall[pb.GenerateRequest, pb.GenerateResponse]]


@dataclass
class Course:
    """How far a rollout is. Apart from the rollout, so that one that nobody refers to any more is freed, and ended, at once."""

    ending: Ending | None = None
    next_seq: int | None = None
    nothing: Piece = ""  # as a piece
    begun: bytes = b""  # of a character that its end has cut off


class Rollout(AsyncIterator[Piece]):
    """What is being generated, to be iterated once: whatever has come since the last piece, never empty.

    Pieces are str for models of text, int64 tokens [n, *shape] for others of tokens, float32 numbers [n, *shape] for those of
    numbers. It begins with the iteration, and leaving the loop early ends it at the server: at once if nothing else refers to
    it, else by `aclose`.
    """

    def __init__(self, seed: int, run: Callable[[Course], AsyncGenerator[Piece, None]]) -> None:
        self._seed = seed
        self._course = Course()
        self._pieces = run(self._course)

    @property
    def seed(self) -> int:
        """What decides its draws: given again, it gives the same ones, from the same state by the same settings."""
        return self._seed

    @property
    def ending(self) -> Ending | None:
        """`stop`: one of the stop sequences was drawn; `length`: `max_steps` were. None: it has not ended, or not so."""
        return self._course.ending

    @property
    def next_seq(self) -> int | None:
        """Steps that it has applied so far, from its session's first on: with its prompt, and with a stop sequence, which is fed
        and no part of any piece. None before its first piece."""
        return self._course.next_seq

    async def whole(self) -> Piece:
        """All pieces that are left in one, which may be empty. Raises what the iteration would raise."""
        return self._joined([piece async for piece in self])

    async def aclose(self) -> None:
        """Ends it at the server, unless it has ended."""
        await self._pieces.aclose()

    async def __anext__(self) -> Piece:
        return await anext(self._pieces)

    def _joined(self, pieces: Sequence[Piece]) -> Piece:
        nothing = self._course.nothing
        if isinstance(nothing, str):
            return nothing.join(cast(Sequence[str], pieces))
        return np.concatenate([nothing, *cast(Sequence[NDArray[Any]], pieces)])


async def pieces(
    messages: AsyncGenerator[pb.GenerateResponse, None],
    model: ModelInfo,
    course: Course,
    *,
    writer: Writer | None = None,
    goes_on: bool = False,
    levels: int = 0,
) -> AsyncGenerator[Piece, None]:
    """What a rollout draws, as its caller wants it, from its messages; none is empty.

    writer: of a model of text. goes_on: what has begun of a character may be completed by the next rollout. levels: of quantiles,
    if they are asked for.
    """
    course.nothing = "" if writer else _drawn(model, pb.GenerateResponse(), levels)
    async with aclosing(messages):
        async for message in messages:
            course.next_seq = message.next_seq
            course.ending = _ENDINGS.get(message.ending)
            drawn = _drawn(model, message, levels)
            piece: Piece = drawn
            if writer is not None:
                finished = course.ending == "stop" or (course.ending is not None and not goes_on)
                piece = writer.text(drawn) + (writer.end() if finished else "")
                course.begun = writer.begun
            if len(piece):
                yield piece


async def messages(
    open_call: OpenCall, request: pb.GenerateRequest, model: ModelInfo, backoff: Backoff, on_begun: Callable[[], None]
) -> AsyncGenerator[pb.GenerateResponse, None]:
    """A rollout's messages, from as many calls as it takes while patience lasts. All errors are this package's. on_begun: called
    when there is something from the server.

    One that commits each step is not called again, nor one whose place among its session's steps is not known: it might be
    applied twice. Quantiles over paths cannot be fed: they come once they are all there, and are asked for anew until then.
    """
    broken: StepStreamError | None = None
    together: list[pb.GenerateResponse] = []
    while True:
        told: list[bytes] = []  # by this call, in steps to be fed
        ended = False
        call = open_call(request)
        try:
            async for message in call:
                backoff.worked()
                on_begun()
                ended = ended or message.ending != pb.ROLLOUT_ENDING_UNSPECIFIED
                if request.paths > 1:
                    together.append(message)
                    continue
                if request.session_id and not request.HasField("seq"):
                    request.seq = message.first_seq - _steps(model, request.prompt)
                told.append(message.tokens or message.values)
                yield message
            if not ended:
                raise ProtocolError("rollout: expected a last message that says how it ended, got none")
            for message in together:
                yield message
            return
        except grpc.aio.AioRpcError as error:
            failure = from_rpc(error)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            raise ConnectionLost("the client was closed") from None
        finally:
            call.cancel()
        if ended and not together:
            return
        together.clear()
        delay = _delay(request, failure, broken, backoff, _steps(model, told))
        if failure.code is grpc.StatusCode.UNAVAILABLE:
            broken = failure
        _feed(request, model, told)
        await asyncio.sleep(delay)


def _delay(
    request: pb.GenerateRequest, failure: StepStreamError, broken: StepStreamError | None, backoff: Backoff, told: int
) -> float:
    """Seconds after which to call again, having been told so many steps. Raises what to tell the caller instead.

    broken: why it was called before this time. A call that the server has not missed yet may hold the session for a while; one
    that has ended there unheard has moved it on; and there may be more to feed by now than one message holds.
    """
    if broken is not None and isinstance(failure, (SequenceError, BlockTooLarge)):
        raise lost(broken)
    refused = isinstance(failure, QueueFull) or (broken is not None and isinstance(failure, SessionInUse))  # it did not begin
    if failure.code is not grpc.StatusCode.UNAVAILABLE and not refused:
        raise failure
    placed = request.commit == pb.COMMIT_END and request.HasField("seq")
    repeatable = refused or ((placed or request.commit == pb.COMMIT_NONE) and told < request.max_steps)
    delay = backoff.delay(failure.retry_delay) if repeatable else None
    if delay is not None:
        return delay
    raise lost(failure) if told or broken is not None or request.commit == pb.COMMIT_EACH else failure


def _feed(request: pb.GenerateRequest, model: ModelInfo, told: Sequence[bytes]) -> None:
    """Has what was told fed, as a part of the prompt, rather than drawn again."""
    steps = _steps(model, told)
    if steps:
        prompt = b"".join((*request.prompt, *told))
        request.prompt[:] = [prompt]
        request.max_steps -= steps


def _steps(model: ModelInfo, columns: Sequence[bytes]) -> int:
    """How many steps of the model's one input there are."""
    return sum(map(len, columns)) // model.inputs[0].step_bytes


def _drawn(model: ModelInfo, message: pb.GenerateResponse, levels: int) -> NDArray[Any]:
    """What was drawn: [n, *shape], or with levels float32 [n, levels, *shape]."""
    spec = model.inputs[0]
    column = message.tokens if is_of_tokens(model) else message.values
    size = spec.step_bytes * max(levels, 1)
    if len(column) % size:
        raise ProtocolError(f"rollout: expected whole steps of {size} bytes, got {len(column)} bytes")
    shape = (levels, *spec.shape) if levels else spec.shape
    return np.frombuffer(column, spec.dtype.newbyteorder("<")).astype(spec.dtype).reshape(-1, *shape)
