"""One session, as callers see it: steps, chunks, streams of readings."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Literal, cast, overload

import numpy as np
from numpy.typing import NDArray

from stepstream._calls import Call, Keep, Outputs, Row
from stepstream._closing import ClosesOnLeaving
from stepstream._connection import Connection
from stepstream._errors import InvalidArgument, SessionMoved, StepStreamError
from stepstream._ledger import Ledger, Pause
from stepstream._models import ModelInfo
from stepstream._rollout import Course, Piece, Rollout, pieces
from stepstream._rollout_request import Commit, Stop, address, forecast_request, rollout_request
from stepstream._rows import RowLimits
from stepstream._tensors import Values, pack
from stepstream._text import Writer
from stepstream_proto.v1 import inference_pb2 as pb

if TYPE_CHECKING:
    from stepstream._group import SessionGroup
    from stepstream._session_calls import SessionCalls

WhichOutputs = Literal["all", "last", "none"]
SETTLING_SECONDS = (0.005, 0.01, 0.02, 0.04, 0.08, 0.16)  # between looks at a session whose rollout was given up


def keep_of(outputs: WhichOutputs) -> Keep:
    """The contract's number for a word. Raises InvalidArgument for any other."""
    try:
        return {"all": Keep.ALL, "last": Keep.LAST, "none": Keep.NONE}[outputs]
    except KeyError:
        raise InvalidArgument(f"outputs: expected 'all', 'last' or 'none', got {outputs!r}") from None


class Session(ClosesOnLeaving):
    """A session of one model. As a context manager it closes the session at the server on leaving.

    Calls may overlap: their inputs are applied in the order in which the calls began. Cancelling a waiting call does not take
    its input back if that was sent already: it is applied, its answer is dropped, and numbering goes on behind it. What had not
    been sent yet is not sent. If a step fails, inputs sent behind it are not applied either and fail with SequenceMismatch;
    the session can be used on from there.
    """

    def __init__(self, connection: Connection, ledger: Ledger, model: ModelInfo, limits: RowLimits, calls: SessionCalls) -> None:
        self._connection = connection
        self._ledger = ledger
        self._limits = limits
        self._calls = calls
        self._begun = (0, b"")  # the beginning of a character that a rollout has left, and at which number
        self._settling: set[asyncio.Task[None]] = set()
        self.model = model
        self.bitwise: bool | None = None
        """Of a session made by `Client.import_session`: whether its outputs are to the bit what they would have been where it was
        exported. False where the two servers compute with other versions or another instruction set: it goes on all the same,
        a last bit may differ. None for every other session. A value rather than a warning: whether it matters, only the program
        knows, at the place where it imports, and it can refuse."""

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

    async def step(self, values: Values, *, timeout: float | None = None) -> Outputs:
        """Applies one step. values: [*shape] for a model with one input, else arrays by name. Returns arrays [*shape] by name.

        timeout: seconds after which the call fails with DeadlineExceeded. The server drops a step that it has not begun to
        compute by then; one that was on its way may yet be applied, and `next_seq` counts it until the server has said.
        Raises InvalidInput before anything is sent, and any other error of this package; but for DeadlineExceeded and
        ConnectionLost, the state has then not moved.
        """
        return await self._begin_step(values, timeout)

    async def chunk(self, values: Values, outputs: WhichOutputs = "all", *, timeout: float | None = None) -> Outputs:
        """Applies consecutive steps. values: [T, *shape], or such arrays by name, or text for models of text. Returns arrays by
        name: [T, *shape] for "all", [1, *shape] for "last", [0, *shape] for "none". timeout: seconds for all, as for a step.

        Steps are atomic, chunks are not: if one fails, some before it may have been applied: the error has their
        `outputs`, and `next_seq` is the number of the first that has not.
        """
        keep = keep_of(outputs)
        if isinstance(values, str) and self.model._codec:
            values = self.model._codec.tokens(values)
        (steps,), inputs = pack(self.model, values, (None,))
        rows = self._limits.cut(steps, keep)
        call = Call(self.model, len(rows), keep.of(steps), steps=keep.of(steps))
        call.limit(timeout)
        first = 0
        for length, part in rows:
            place = first if part is Keep.ALL else 0
            self._ledger.submit(Row(call, 0, place, length, part, inputs, first))
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

    def generate(
        self,
        prompt: Values | None = None,
        *,
        max_steps: int,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 0.0,
        greedy: bool = False,
        stop: Stop = (),
        seed: int | None = None,
        commit: Commit = "end",
    ) -> Rollout:
        """Steps the session on its own outputs: `async for piece in session.generate("def ", max_steps=200): print(piece)`.

        prompt: fed first: text for models of text, else inputs [T, *shape]; None or "": go on from the last output. max_steps:
        draws at most. temperature: 0 is greedy, 1 as the model predicts; greedy: the likeliest token or the median, whatever
        the temperature. top_k, top_p: tokens only: draw among so many of the likeliest, or among the fewest that have this share
        of the probability together; 0: no limit. stop: tokens only: up to 16 sequences of up to 64 tokens, one of which ends it;
        text for models of text. seed: 0 to 2**64 - 1, None: at random; the rollout's `seed` tells.

        commit: what is left of it. "end": all of its steps if it ends normally, else none. "each": each step at once. "none":
        nothing: it runs on a copy. Its place is that of a call that begins with the iteration: calls begun before have their
        outcome by then, and later ones wait until it has ended, with "none" only until it has begun.

        Text comes in whole characters. The beginning of one that `max_steps` cut off is kept for the next rollout if that goes on
        right there, without a prompt; at any other end it is U+FFFD, as are bytes that are no UTF-8.

        If the connection breaks, the rollout goes on in another call with what it would have drawn, and the caller notices
        nothing but the delay. It raises ConnectionLost if there is none in time, if the session has moved on meanwhile, and with
        "each" at once, since nobody knows what of it was not heard; `next_seq` is right in any case. Raises InvalidArgument and
        InvalidInput before anything is sent, and any other error of this package.
        """
        request = rollout_request(
            max_steps=max_steps, temperature=temperature, top_k=top_k, top_p=top_p, greedy=greedy, seed=seed, commit=commit
        )
        address(request, self.model, prompt, stop)
        return Rollout(request.seed, lambda course: self._roll(request, course))

    async def forecast(
        self,
        horizon: int,
        *,
        paths: int = 100,
        levels: Sequence[float] = (0.1, 0.5, 0.9),
        temperature: float = 1.0,
        seed: int | None = None,
        prompt: Values | None = None,
    ) -> NDArray[np.float32]:
        """What a model of numbers expects of the next `horizon` steps: quantiles over independent paths, each of which draws its
        next value from the model's prediction and goes on from it. Returns float32 [horizon, levels, *shape].

        With paths=1 it returns the one path, [horizon, *shape]. levels: ascending, between 0 and 1. temperature, seed, prompt: as
        in `generate`; 0 with one path is the path of medians. The session stays where it is, to the bit: a prompt leaves nothing
        behind. Errors are those of `generate`.
        """
        request = forecast_request(horizon, paths=paths, levels=levels, temperature=temperature, seed=seed)
        address(request, self.model, prompt)
        rollout = Rollout(request.seed, lambda course: self._roll(request, course))
        return cast(NDArray[np.float32], await rollout.whole())

    async def reset(self) -> None:
        """Puts the session back to its initial state, in order with its steps."""
        call = Call(self.model, 1, 0, steps=0)
        self._ledger.submit(Row(call, 0, 0, 1, Keep.NONE, None))
        await call.future

    @overload
    async def fork(self, count: None = None, *, at: int | None = None, ids: Sequence[str] | None = None) -> Session: ...
    @overload
    async def fork(self, count: int, *, at: int | None = None, ids: Sequence[str] | None = None) -> SessionGroup: ...
    async def fork(
        self, count: int | None = None, *, at: int | None = None, ids: Sequence[str] | None = None
    ) -> Session | SessionGroup:
        """New sessions that go on from where this one stands after every call begun before: one Session, or a SessionGroup of
        `count`. They belong to this session's client and are to be closed like sessions that were opened.

        The copy is made between two inputs: calls begun before have their outcome by then, later ones wait until it is made. If
        one begun before fails, it raises SequenceMismatch, as a step would. at: fork only if that many steps are applied then;
        raises SequencePassed or SequenceMismatch otherwise. More errors: `Client.fork_session`.
        """
        async with self._paused() as applied:
            where = applied if at is None else at
            name, version = self.model.name, self.model.version
            return await self._calls.fork_session(name, self.id, count, secret=self.secret, at=where, ids=ids, version=version)

    async def export(self, *, at: int | None = None, close: bool = False) -> bytes:
        """The session as bytes, for `Client.import_session` at any server with the same model, after every call begun before, as
        in `fork`. close: also end it here, so that it goes on in one place only: later calls raise SessionMoved."""
        async with self._paused() as applied:
            where = applied if at is None else at
            name, version = self.model.name, self.model.version
            snapshot = await self._calls.export_session(name, self.id, secret=self.secret, at=where, close=close, version=version)
            if close:
                self._ledger.leave(SessionMoved(f"session {self.id!r} was exported and closed by this client"))
            return snapshot

    async def close(self) -> None:
        """Closes the session at the server. Calls still waiting may fail with SessionClosed. Nothing happens if it has ended."""
        await self._connection.leave([self._ledger], close=True)

    async def detach(self) -> None:
        """Lets the session go without closing it; `Client.attach_session` with its id and secret finds it again."""
        await self._connection.leave([self._ledger], close=False)

    @asynccontextmanager
    async def _paused(self) -> AsyncIterator[int]:
        """Between two inputs: those before have their outcome, those behind wait. Gives the number of steps applied."""
        pause = Pause()
        self._ledger.submit(pause)
        try:
            yield await pause.reached
        finally:
            self._ledger.resume(pause)

    async def _roll(self, request: pb.GenerateRequest, course: Course) -> AsyncGenerator[Piece, None]:
        """A rollout in its place among the session's calls."""
        request.session_id, request.secret = self.id, self.secret
        commits = request.commit != pb.COMMIT_NONE
        pause, heard_of = Pause(), True
        self._ledger.submit(pause)
        try:
            request.seq = await pause.reached
            on_begun = (lambda: None) if commits else partial(self._ledger.resume, pause)
            drawn = pieces(
                self._calls._roll(request, self.model, on_begun),
                self.model,
                course,
                writer=self._writer(request),
                goes_on=commits,
                levels=len(request.levels),
            )
            async with aclosing(drawn):
                async for piece in drawn:
                    yield piece
        except (asyncio.CancelledError, GeneratorExit):
            heard_of = False
            raise
        finally:
            settling = asyncio.create_task(self._settle(request, course, pause), name="stepstream rollout")
            self._settling.add(settling)
            settling.add_done_callback(self._settling.discard)
            if heard_of:
                await asyncio.shield(settling)

    def _writer(self, request: pb.GenerateRequest) -> Writer | None:
        codec = self.model._codec
        if codec is None:
            return None
        where, begun = self._begun
        return codec.writer(begun if where == request.seq and not request.prompt else b"")

    async def _settle(self, request: pb.GenerateRequest, course: Course, pause: Pause) -> None:
        """Lets the calls behind a rollout go on, from where it has left the session."""
        try:
            if request.commit == pb.COMMIT_NONE or not request.HasField("seq"):
                return
            if course.ending is not None and course.next_seq is not None:
                self._begun = (course.next_seq, course.begun)
                self._ledger.move_on(course.next_seq)
            else:
                self._ledger.move_on(await self._applied())
        finally:
            self._ledger.resume(pause)

    async def _applied(self) -> int:
        """Steps that the server has applied, once a rollout that was given up moves the session no more; 0 if nobody can tell.

        It is given up in the server's next turn, which may come after a first question.
        """
        applied, before = 0, -1
        with suppress(StepStreamError, RuntimeError):  # the session has ended, or the client: later calls will say so
            for pause in SETTLING_SECONDS:
                info = await self._calls.get_session(self.model.name, self.id, version=self.model.version)
                applied = info.next_seq
                if applied == before:
                    break
                before = applied
                await asyncio.sleep(pause)
        return applied

    def _begin_step(self, values: Values, timeout: float | None = None) -> asyncio.Future[Outputs]:
        _, inputs = pack(self.model, values, ())
        self._limits.cut(1, Keep.ALL)  # raises if a single step is too large
        call = Call(self.model, 1, 1, steps=None)
        call.limit(timeout)
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
                    await self._feed_one(reading, answers)
            else:
                for reading in readings:
                    await self._feed_one(reading, answers)
        except Exception as error:  # the reader raises it, after the answers before it
            await answers.put(error)
        else:
            await answers.put(None)

    async def _feed_one(self, reading: Values, answers: asyncio.Queue[asyncio.Future[Outputs] | BaseException | None]) -> None:
        answer = self._begin_step(reading)
        try:
            await answers.put(answer)
        except asyncio.CancelledError:  # there was no room: whoever cancels what is in the queue would not find it
            answer.cancel()
            raise

    def __repr__(self) -> str:
        return f"<Session {self.id!r} of {self.model.name!r} at {self.next_seq}>"
