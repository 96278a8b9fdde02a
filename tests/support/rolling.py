"""Generate of the fake server in `support.servicer`: rollouts of its adding models, whose draws tests decide and hold back.

A draw depends on seed and number only. Where there is a `text`, it is the token at that place of the text, whatever the seed, so
that a prompt which is the text's beginning is continued as the text is.
"""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
from google.rpc import status_pb2
from numpy.typing import NDArray

from stepstream_proto.v1 import inference_pb2 as pb
from support.status import abort, failed_call

if TYPE_CHECKING:
    from support.servicer import FakeServicer, FakeSession


class FakeRollouts:
    """The rollouts of a fake server."""

    def __init__(self, server: FakeServicer) -> None:
        self._server = server
        self.calls: list[pb.GenerateRequest] = []  # so far, as they came
        self.text: Sequence[int] | None = None  # what models of tokens draw, by number
        self.pieces = 1  # draws per message
        self.hold_at: int | None = None  # rollouts wait before the draw of this number
        self.break_at: list[int] = []  # the first calls break before the draws of these numbers, in order
        self.breaks_with = status_pb2.Status(code=14, message="cut")
        self.before_break: Callable[[FakeSession], Awaitable[None]] = _nothing  # done then
        self.ahead = 0  # draws that such a call applies and does not tell
        self.lose_endings = 0  # so many calls break in the place of their last message
        self.still_held = 0  # calls so many after one that broke find the session in use
        self.most_fed = 1000  # steps that a prompt may have
        self.linger = 0  # steps that go on being applied, one by each look at the session, once a call has been given up
        self.running = 0
        self.cancelled = 0

    def look(self, session: FakeSession) -> None:
        """Somebody looks at a session."""
        if self.linger:
            self.linger -= 1
            session.next_seq += 1

    async def generate(self, request: pb.GenerateRequest, context: Any) -> AsyncGenerator[pb.GenerateResponse, None]:
        """The Generate of the inference service."""
        self.calls.append(_copy(request))
        await self._server.tell()
        model = self._server.models[request.model]
        original = await self._begin(request, context)
        session = original if original is not None and request.commit == pb.COMMIT_EACH else self._server.unheld(model, original)
        commits = original is not None and request.commit != pb.COMMIT_NONE
        if original is not None and commits:
            original.rolling = True
            original.acknowledge(original.next_seq)
        self.running += 1
        try:
            async for response in self._roll(request, session, context):
                if response.ending and commits and original is not None:
                    _replace(original, session)
                if response.ending and self.lose_endings:
                    self.lose_endings -= 1
                    await abort(context, status_pb2.Status(code=14, message="lost on the way"))
                yield response
        except BaseException:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1
            if original is not None:
                original.rolling = False
            await self._server.tell()

    async def _begin(self, request: pb.GenerateRequest, context: Any) -> FakeSession | None:
        if not request.session_id:
            return None
        session = await self._server.unary.find(request, context, owned=True)
        admitted = session.next_seq + session.pending
        seq = request.seq if request.HasField("seq") else admitted
        if seq > admitted:
            await _fail(context, grpc.StatusCode.ABORTED, "SEQUENCE_MISMATCH", admitted)
        if seq < session.next_seq and (request.prompt or not session.durable or seq not in session.drawn):
            await _fail(context, grpc.StatusCode.FAILED_PRECONDITION, "SEQUENCE_PASSED", session.next_seq)
        await self._server.until(lambda: session.next_seq >= seq)
        held = self.still_held and len(self.calls) > 1
        if held:
            self.still_held -= 1
        if session.rolling or held:
            await _fail(context, grpc.StatusCode.FAILED_PRECONDITION, "SESSION_IN_USE")
        return session

    async def _roll(self, request: pb.GenerateRequest, session: FakeSession, context: Any) -> AsyncIterator[pb.GenerateResponse]:
        of_tokens = session.model.inputs[0].limit > 0
        break_at = self.break_at.pop(0) if self.break_at else None
        await self._feed(request, session, break_at, context)
        if request.paths > 1:
            async for response in self._fan(request, session, break_at, context):
                yield response
            return
        stops = [tuple(np.frombuffer(stop, "<i8").tolist()) for stop in request.stop]
        held: list[Any] = []
        number = request.seq if request.HasField("seq") and not request.prompt else session.next_seq
        for left in range(request.max_steps, 0, -1):
            if number == session.next_seq:
                await self._stand(session, break_at, request.seed, context)
                _keep(session, self._draw(request.seed, number, session))
            held.append(session.drawn[number])
            number += 1
            stopped = max((len(stop) for stop in stops if tuple(held[-len(stop) :]) == stop), default=0)
            unsaid = stopped or (max((_begun(held, stop) for stop in stops), default=0) if left > 1 else 0)
            told = held[: len(held) - unsaid]
            if stopped or left == 1 or (told and len(told) >= self.pieces):
                response = pb.GenerateResponse(first_seq=number - len(held), next_seq=number)
                if of_tokens:
                    response.tokens = np.array(told, "<i8").tobytes()
                else:
                    response.values = np.array(told, "<f4").tobytes()
                if stopped or left == 1:
                    response.ending = pb.ROLLOUT_ENDING_STOP if stopped else pb.ROLLOUT_ENDING_LENGTH
                del held[: len(told)]
                yield response
            if stopped:
                return

    async def _feed(self, request: pb.GenerateRequest, session: FakeSession, break_at: int | None, context: Any) -> None:
        if not request.prompt and not session.next_seq:
            await _fail(context, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT")
        if len(b"".join(request.prompt)) > self.most_fed * 8:
            await _fail(context, grpc.StatusCode.RESOURCE_EXHAUSTED, "BLOCK_TOO_LARGE")
        for column in request.prompt:
            for value in np.frombuffer(column, "<i8" if session.model.inputs[0].limit else "<f4").tolist():
                await self._stand(session, break_at, request.seed, context)
                session.drawn.clear()
                _step(session, value)

    async def _fan(
        self, request: pb.GenerateRequest, session: FakeSession, break_at: int | None, context: Any
    ) -> AsyncIterator[pb.GenerateResponse]:
        yield self._quantiles(request, session)
        if session.next_seq == self.hold_at:
            await self._server.until(lambda: self.hold_at is None)
        if break_at is not None:
            await abort(context, self.breaks_with)
        yield pb.GenerateResponse(next_seq=session.next_seq + request.max_steps, ending=pb.ROLLOUT_ENDING_LENGTH)

    async def _stand(self, session: FakeSession, break_at: int | None, seed: int, context: Any) -> None:
        """Holds or breaks the rollout before a draw, where a test wants that."""
        if session.next_seq == self.hold_at:
            await self._server.until(lambda: self.hold_at is None)
        if session.next_seq == break_at:
            for _ in range(self.ahead):
                _keep(session, self._draw(seed, session.next_seq, session) if session.durable else 0)
            await self.before_break(session)
            await abort(context, self.breaks_with)

    def _draw(self, seed: int, seq: int, session: FakeSession, path: int = 0) -> Any:
        limit = session.model.inputs[0].limit
        if limit and self.text is not None:
            return self.text[seq]
        chance = random.Random(f"{seed} {seq} {path}")
        return chance.randrange(limit) if limit else chance.random()

    def _quantiles(self, request: pb.GenerateRequest, session: FakeSession) -> pb.GenerateResponse:
        seqs = range(session.next_seq, session.next_seq + request.max_steps)
        draws = [[self._draw(request.seed, seq, session, path) for path in range(request.paths)] for seq in seqs]
        values: NDArray[np.float32] = np.quantile(np.array(draws), list(request.levels), axis=1).T.astype("<f4")
        return pb.GenerateResponse(first_seq=session.next_seq, next_seq=seqs.stop, values=values.tobytes())


async def _nothing(session: FakeSession) -> None:
    pass


def _copy(request: pb.GenerateRequest) -> pb.GenerateRequest:
    return pb.GenerateRequest.FromString(request.SerializeToString())


def _keep(session: FakeSession, value: Any) -> None:
    """Applies a draw, which can be told again."""
    session.drawn[session.next_seq] = value
    _step(session, value)


def _step(session: FakeSession, value: float) -> None:
    session.total += value
    session.count += 1
    session.next_seq += 1
    session.acked = session.next_seq
    session.remember()


def _replace(original: FakeSession, copy: FakeSession) -> None:
    original.total, original.count, original.next_seq, original.acked = copy.total, copy.count, copy.next_seq, copy.next_seq
    original.past, original.drawn = copy.past, copy.drawn


def _begun(held: Sequence[int], stop: tuple[int, ...]) -> int:
    return next((n for n in range(min(len(stop) - 1, len(held)), 0, -1) if tuple(held[-n:]) == stop[:n]), 0)


async def _fail(context: Any, code: grpc.StatusCode, reason: str, expected: int | None = None) -> None:
    metadata = {} if expected is None else {"expectedSeq": str(expected)}
    await abort(context, failed_call(code, reason, f"refused: {reason}", metadata=metadata))
