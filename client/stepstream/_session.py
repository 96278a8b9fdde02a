"""Sessions as callers see them: one by one, or many of one model that are stepped by one call.

A group is one message and one future per call, whatever its size. Both stand on `Service` and on their ledgers.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
    Sequence,
)
from contextlib import AbstractAsyncContextManager, ExitStack, aclosing, asynccontextmanager, suppress
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, Unpack, cast, overload

import numpy as np
from numpy.typing import NDArray

from stepstream._errors import (
    BlockTooLarge,
    GroupError,
    InvalidArgument,
    NotBitwise,
    SequencePassed,
    ServerDraining,
    SessionMoved,
    StepStreamError,
    WindowFull,
    shown,
)
from stepstream._models import ModelInfo
from stepstream._options import ClientOptions
from stepstream._rollout import Asked, Course, Piece, Rollout, Sampling, ask, ask_forecast, pieces
from stepstream._service import Attached, Service, one
from stepstream._stream.calls import Call, Keep, Outputs, Row
from stepstream._stream.connection import Connection
from stepstream._stream.ledger import Care, Ledger, OnLag, Pause
from stepstream._stream.outbox import MESSAGE_BYTES, ROW_BYTES
from stepstream._tensors import Values, pack
from stepstream._text import Writer
from stepstream_proto.v1 import inference_pb2 as pb
from stepstream_proto.v1.session_pb2 import ImportSessionResponse


class ClosesOnLeaving(ABC):
    """An async context manager over `close`: sessions and groups are closed at the server on leaving."""

    @abstractmethod
    async def close(self) -> None:
        """Closes at the server."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            await self.close()
            return
        with suppress(StepStreamError):  # what went wrong first is what the caller should hear of
            await self.close()


class RowLimits:
    """How long a row of a model's session may be. The same for all sessions that were opened together."""

    def __init__(self, model: ModelInfo, window_steps: int, window_bytes: int, options: ClientOptions) -> None:
        self._model = model
        self._window_bytes = window_bytes
        self._message_bytes = options.max_message_bytes - MESSAGE_BYTES - ROW_BYTES
        self._message = min(options.max_block_steps, self._message_bytes // max(model.input_step_bytes, 1))
        kept = window_bytes // max(model.output_step_bytes, 1)  # steps whose outputs the window holds
        self._window = {
            Keep.ALL: min(window_steps, kept),
            Keep.LAST: window_steps if kept else 0,
            Keep.NONE: window_steps,
        }

    def cut(self, steps: int, keep: Keep) -> list[tuple[int, Keep]]:
        """Lengths of the rows that `steps` steps travel as, and what each keeps: all but the last nothing if LAST is wanted.

        One row if that fits at all, else rows of half a window, so that one is computed while the next one is on its way.
        Raises WindowFull if the outputs of a single step exceed the window, BlockTooLarge if its inputs exceed a message.
        """
        window = self._window[keep]
        if steps <= window and steps <= self._message:
            return [(steps, keep)]
        self._check(window)
        length = max(min(window // 2, self._message), 1)
        lengths = [length] * (steps // length) + [steps % length] * (steps % length > 0)
        early = Keep.NONE if keep is Keep.LAST else keep
        return [(each, early) for each in lengths[:-1]] + [(lengths[-1], keep)]

    def within(self, others: RowLimits) -> bool:
        """Whether every row that these limits let pass is let pass by the others."""
        return self._message <= others._message and all(self._window[keep] <= others._window[keep] for keep in Keep)

    def _check(self, window: int) -> None:
        if window < 1:
            raise WindowFull(
                f"outputs of one step: expected at most the window of {self._window_bytes} bytes,"
                f" got {self._model.output_step_bytes}"
            )
        if self._message < 1:
            raise BlockTooLarge(
                f"inputs of one step: expected at most {self._message_bytes} bytes, got {self._model.input_step_bytes}"
            )


S = TypeVar("S")  # a session, also a blocking one
T = TypeVar("T")
WhichOutputs = Literal["all", "last", "none"]
NOTICE_SECONDS = 0.02  # until the stream tells what a call heard: that the server is about to stop
MOVES_AT_ONCE = 32  # a move is a few short calls: so many keep both servers busy, and a few messages of memory
SETTLING_SECONDS = (0.005, 0.01, 0.02, 0.04, 0.08, 0.16)  # between looks at a session whose rollout was given up


def keep_of(outputs: WhichOutputs) -> Keep:
    """The contract's number for a word. Raises InvalidArgument for any other."""
    try:
        return {"all": Keep.ALL, "last": Keep.LAST, "none": Keep.NONE}[outputs]
    except (KeyError, TypeError):
        raise InvalidArgument(f"outputs: expected 'all', 'last' or 'none', got {outputs!r}") from None


def cared_for(on_lag: OnLag, require_bitwise: bool) -> Care:
    """Gives what the owner of a durable session wants. Raises InvalidArgument for other words."""
    if on_lag not in ("wait", "serve"):
        raise InvalidArgument(f"on_lag: expected 'wait' or 'serve', got {shown(on_lag)}")
    return Care(on_lag, require_bitwise)


class Place:
    """A place among a session's inputs: all before have their outcome, and those behind wait until it is left."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._pause = Pause(on_stream=True)
        ledger.submit(self._pause)

    async def reached(self) -> int:
        """Waits until it is reached. Returns the number of steps applied."""
        return await self._pause.reached

    def give_way(self) -> None:
        """It is to be reached once more, on the next stream; the session may be moved before."""
        again = Pause(on_stream=True)
        self._ledger.submit_first(again)
        self._ledger.resume(self._pause)
        self._pause = again

    def leave(self) -> None:
        """Lets what is behind it go on."""
        self._ledger.resume(self._pause)


class Session(ClosesOnLeaving):
    """A session of one model. As a context manager it closes the session at the server on leaving.

    Calls may overlap: their inputs are applied in the order in which the calls began. Cancelling a waiting call does not take
    its input back if that was sent already: it is applied, its answer is dropped, and numbering goes on behind it. What had not
    been sent yet is not sent. If a step fails, inputs sent behind it are not applied either and fail with SequenceMismatch;
    the session can be used on from there.
    """

    def __init__(self, attached: Attached, ledger: Ledger, limits: RowLimits) -> None:
        self._service = attached.service
        self._connection = attached.connection
        self._ledger = ledger
        self._limits = limits
        self._begun = (0, b"")  # the beginning of a character that a rollout has left, and at which number
        self._settling: set[asyncio.Task[None]] = set()
        self.model = attached.model

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

    @property
    def bitwise(self) -> bool | None:
        """Of a durable session, or one made by `Client.import_session`: whether its outputs are to the bit what they would have
        been where it was opened. False where it was restored or imported from what other versions or another instruction set
        computed: it goes on all the same, unless `require_bitwise` was given; a last bit may differ. None for every other
        session."""
        return self._ledger.bitwise

    @property
    def durable(self) -> bool:
        """Tells whether it survives the death of its server, because it was opened so or the server makes it so."""
        return self._ledger.durable

    @property
    def durable_seq(self) -> int:
        """Steps below this number are in the server's store, as far as it has told. It stands still while the store is away."""
        return self._ledger.durable_seq

    @property
    def epoch(self) -> int:
        """How often it was restored from the store, as of the last attach."""
        return self._ledger.epoch

    async def step(self, values: Values, *, timeout: float | None = None) -> Outputs:
        """Applies one step. values: [*shape] for a model with one input, else arrays by name; text of one token for an input of
        text. Returns arrays [*shape] by name.

        timeout: seconds after which the call fails with DeadlineExceeded. The server drops a step that it has not begun to
        compute by then; one that was on its way may yet be applied, and `next_seq` counts it until the server has said.
        Raises InvalidInput before anything is sent, and any other error of this package; but for DeadlineExceeded,
        ConnectionLost and Unauthenticated, the state has then not moved.
        """
        return await self._begin_step(values, timeout)

    async def chunk(self, values: Values, outputs: WhichOutputs = "all", *, timeout: float | None = None) -> Outputs:
        """Applies consecutive steps. values: [T, *shape], or such arrays by name, or text for models of text. Returns arrays by
        name: [T, *shape] for "all", [1, *shape] for "last", [0, *shape] for "none". timeout: seconds for all, as for a step.

        Steps are atomic, chunks are not: if one fails, some before it may have been applied: the error has their
        `outputs`, and `next_seq` is the number of the first that has not.
        """
        keep = keep_of(outputs)
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

    @overload
    def generate(self, prompt: str, **sampling: Unpack[Sampling]) -> Rollout[str]: ...  # type: ignore[overload-overlap]
    @overload
    def generate(self, prompt: None = None, **sampling: Unpack[Sampling]) -> Rollout[Any]: ...
    @overload
    def generate(self, prompt: Values, **sampling: Unpack[Sampling]) -> Rollout[NDArray[Any]]: ...
    def generate(self, prompt: Values | None = None, **sampling: Unpack[Sampling]) -> Rollout[Any]:
        """Steps the session on its own outputs: `async for piece in session.generate("def ", max_steps=200): print(piece)`.

        prompt: fed first: text for models of text, else inputs [T, *shape]; None or "": go on from the last output. sampling: how
        it draws, when it ends and what is left of it; see `Sampling`. Pieces are str for models of text.

        Its place is that of a call that begins with the iteration: calls begun before have their outcome by then, and later ones
        wait until it has ended, with commit="none" only until it has begun.

        Text comes in whole characters. The beginning of one that `max_steps` cut off is kept for the next rollout if that goes on
        right there, without a prompt; at any other end it is U+FFFD, as are bytes that are no UTF-8.

        If the connection breaks, the rollout goes on in another call with what it would have drawn, and the caller notices
        nothing but the delay. It raises ConnectionLost if there is none in time, if the session has moved on meanwhile, and with
        commit="each" at once, since nobody knows what of it was not heard; `next_seq` is right in any case. Raises
        InvalidArgument and InvalidInput before anything is sent, and any other error of this package.
        """
        return self._rollout(ask(**sampling), prompt)

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
        asked = ask_forecast(horizon, paths=paths, levels=levels, temperature=temperature, seed=seed)
        return cast(NDArray[np.float32], await self._rollout(asked, prompt).whole())

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
        place = Place(self._ledger)
        try:
            while True:
                where = await place.reached()
                forking = forked(
                    self._service,
                    self.model.name,
                    self.id,
                    count,
                    secret=self.secret,
                    at=where if at is None else at,
                    ids=ids,
                    version=self.model.version,
                    care=self._ledger.care,
                    waits_for_successor=False,
                )
                try:
                    return await forking
                except ServerDraining as draining:
                    await self._give_way(place, draining)
        finally:
            place.leave()

    async def export(self, *, at: int | None = None, close: bool = False) -> bytes:
        """The session as bytes, for `Client.import_session` at any server with the same model, after every call begun before, as
        in `fork`. close: also end it here, so that it goes on in one place only: later calls raise SessionMoved. `Client.move`
        does both at once, and keeps the session object."""
        pause = Pause()
        self._ledger.submit(pause)
        async with self._paused(pause) as applied:
            snapshot = await self._export(at=applied if at is None else at, close=close)
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
    async def _paused(self, pause: Pause) -> AsyncIterator[int]:
        """The time between two inputs, during which a stream that drains is held. Gives the number of steps applied."""
        try:
            applied = await pause.reached
            with self._connection.on_its_way():
                yield applied
        finally:
            self._ledger.resume(pause)

    def _paused_first(self) -> AbstractAsyncContextManager[int]:
        """The next time between two inputs, before all that wait; what was refused for want of room waits, too."""
        pause = Pause(moves=True)
        self._ledger.submit_first(pause)
        return self._paused(pause)

    async def _export(self, *, at: int | None = None, close: bool = False) -> bytes:
        name, version = self.model.name, self.model.version
        return await self._service.export(name, self.id, secret=self.secret, at=at, close=close, version=version)

    async def _move(self, to: Service) -> None:
        """Goes on at another server. It is copied and attached there first, so that nothing is lost if that fails, then closed
        here. What was refused here for want of room is sent there."""
        async with self._paused_first():
            if self._service is to:
                return
            answered = self.acked
            copying = self._copied(to, await self._export(), answered)
            there, made = await self._unless_cancelled(copying, lambda copied: copied[0].close())
            if reason := self._why_it_stays(there, answered):
                await there.close()
                raise reason
            here, there_ledger = self._connection, there.ledgers[0]
            here.members.change_places(self._ledger, there.connection.members, there_ledger, made.session.next_seq)
            here.members.close_moved(there_ledger, self._moved())
            self._service, self._connection, self.model = to, there.connection, there.model
            self._ledger.bitwise = made.bitwise

    async def _copied(self, to: Service, snapshot: bytes, answered: int) -> tuple[Attached, ImportSessionResponse]:
        """A copy at another server, attached."""
        made = await to.import_snapshot(snapshot, self.id, durable=self.durable)
        key, care = (made.session.id, made.secret), self._ledger.care
        return await one(to.attach(made.session.model, made.session.version, [key], answered, care=care, made=True)), made

    async def _came_as(self, *, bitwise: bool) -> None:
        """Notes what an import has told. Raises NotBitwise, once it is closed, where that is not as wanted."""
        if self._ledger.care.require_bitwise and not bitwise:
            await self.close()
            raise NotBitwise(f"session {self.id!r}: expected a snapshot that goes on to the bit, got one of another machine")
        self._ledger.bitwise = bitwise

    async def _unless_cancelled(self, making: Coroutine[Any, Any, T], undo: Callable[[T], Awaitable[None]]) -> T:
        """Returns what is made. If nobody waits for it any more, it is undone as soon as it is there."""
        task = asyncio.create_task(making, name="stepstream copy")

        async def take_back() -> None:
            with suppress(StepStreamError):
                await undo(await task)

        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            self._settle_later(take_back())
            raise

    def _end_as_moved(self) -> None:
        """The session goes on as another object, on another event loop. Calls without an answer were not applied: they raise
        SessionMoved."""
        self._connection.members.close_moved(self._ledger, self._moved())

    def _moved(self) -> SessionMoved:
        return SessionMoved(f"session {self.id!r} goes on at another server")

    def _why_it_stays(self, there: Attached | None, answered: int) -> StepStreamError | None:
        """The reason not to go on with a copy that was made when so many answers had been received; None without any. there: the
        copy, if it is of this event loop."""
        ended = self._ledger.ended or (there and there.ledgers[0].ended)
        if ended:
            return ended.again()
        if there is not None and not self._limits.within(limits_of(there)):
            return WindowFull("window and messages at the other server: expected no smaller ones than here, got smaller ones")
        if self._ledger.in_flight or self._ledger.answered != answered:
            return SequencePassed(f"session {self.id!r} has moved on while it was copied, since its stream broke: move it again")
        return None

    def _rollout(self, asked: Asked, prompt: Values | None) -> Rollout[Any]:
        asked.address(self.model, prompt)
        return Rollout(asked.request.seed, lambda course: self._roll(asked.request, course))

    async def _roll(self, request: pb.GenerateRequest, course: Course) -> AsyncGenerator[Piece, None]:
        """A rollout in its place among the session's calls."""
        place, heard_of = Place(self._ledger), True
        try:
            while True:
                request.seq = await place.reached()
                try:
                    async with aclosing(self._drawn(request, course, place)) as drawn:
                        async for piece in drawn:
                            yield piece
                    return
                except ServerDraining as draining:
                    await self._give_way(place, draining)
        except (asyncio.CancelledError, GeneratorExit):
            heard_of = False
            raise
        finally:
            settling = self._settle_later(self._settle(request, course, place))
            if heard_of:
                await asyncio.shield(settling)

    def _settle_later(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Has done what nobody may wait for any more."""
        settling = asyncio.create_task(work, name="stepstream settling")
        self._settling.add(settling)
        settling.add_done_callback(self._settling.discard)
        return settling

    def _drawn(self, request: pb.GenerateRequest, course: Course, place: Place) -> AsyncGenerator[Piece, None]:
        """The draws of a rollout that has come to its place, by the server where the session is now."""
        request.model, request.version = self.model.name, self.model.version
        request.session_id, request.secret = self.id, self.secret
        commits = request.commit != pb.COMMIT_NONE
        if commits and self.durable:
            roll = self._service.roll_on(request, self.model, self._ledger)
        elif commits:
            roll = self._service.roll(request, self.model)
        else:
            roll = self._service.roll(request, self.model, place.leave, self._ledger.stands if self.durable else None)
        writer, levels = self._writer(request), len(request.levels)
        return pieces(roll, self.model, course, writer=writer, goes_on=commits, levels=levels)

    async def _give_way(self, place: Place, draining: ServerDraining) -> None:
        """Waits for the next stream, or until the session is moved. Raises what the server said if there will be none."""
        if not self._service.options.reconnect_seconds:
            raise draining
        await asyncio.sleep(NOTICE_SECONDS)
        place.give_way()

    def _writer(self, request: pb.GenerateRequest) -> Writer | None:
        text = self.model.text
        if text is None:
            return None
        where, begun = self._begun
        return text.writer(begun if where == request.seq and not request.prompt else b"")

    async def _settle(self, request: pb.GenerateRequest, course: Course, place: Place) -> None:
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
            place.leave()

    async def _applied(self) -> int:
        """Steps that the server has applied, once a rollout that was given up moves the session no more; 0 if nobody can tell.

        It is given up in the server's next turn, which may come after a first question.
        """
        applied, before = 0, -1
        with suppress(StepStreamError, RuntimeError):  # the session has ended, or the client: later calls will say so
            for pause in SETTLING_SECONDS:
                info = await self._service.get_session(self.model.name, self.id, self.model.version)
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


class SessionGroup(Sequence[Session], ClosesOnLeaving):
    """N sessions of one model, in a fixed order. `group[i]` is a session like any other.

    If some of them fail, a call raises GroupError once all have their outcome: it says who failed and why, and holds the
    outputs of the others, whose states have moved on. Cancelling a call works as for a session.
    """

    def __init__(self, sessions: Sequence[Session]) -> None:
        self._sessions = sessions
        self._ledgers = [each._ledger for each in sessions]
        self._limits = sessions[0]._limits  # the others' are equal

    @property
    def model(self) -> ModelInfo:
        """The model that all of them are sessions of."""
        return self._sessions[0].model

    async def step(self, values: Values, *, timeout: float | None = None) -> Outputs:
        """Applies one step to each session. values: [N, *shape], or such arrays by name. Returns arrays [N, *shape] by name.

        timeout: as for a session's step; those without an outcome by then fail with DeadlineExceeded.
        """
        _, inputs = pack(self.model, values, (len(self),))
        return await self._submit(inputs, 1, Keep.ALL, None, timeout)

    async def chunk(self, values: Values, outputs: WhichOutputs = "all", *, timeout: float | None = None) -> Outputs:
        """Applies T consecutive steps to each session. values: [N, T, *shape], or such arrays by name. Returns arrays by name:
        [N, T, *shape] for "all", [N, 1, *shape] for "last", [N, 0, *shape] for "none". timeout: as for `step`."""
        keep = keep_of(outputs)
        (_, steps), inputs = pack(self.model, values, (len(self), None))
        return await self._submit(inputs, steps, keep, keep.of(steps), timeout)

    async def reset(self) -> None:
        """Puts every session back to its initial state, in order with its steps."""
        call = Call(self.model, len(self), 0, steps=0, sessions=len(self))
        for index, ledger in enumerate(self._ledgers):
            ledger.submit(Row(call, index, 0, 1, Keep.NONE, None))
        await call.future

    async def close(self) -> None:
        """Closes the sessions at the server; those that have ended are passed over."""
        await self._leave(close=True)

    async def detach(self) -> None:
        """Lets the sessions go without closing them."""
        await self._leave(close=False)

    async def _leave(self, *, close: bool) -> None:
        leaving = [
            connection.leave([each._ledger for each in self._sessions if each._connection is connection], close=close)
            for connection in dict.fromkeys(each._connection for each in self._sessions)  # more than one where some were moved
        ]
        await asyncio.gather(*leaving)

    async def _submit(self, inputs: Sequence[bytes], steps: int, keep: Keep, axis: int | None, timeout: float | None) -> Outputs:
        count, per_session = len(self), keep.of(steps)
        parts = self._limits.cut(steps, keep)
        call = Call(self.model, count * len(parts), count * per_session, steps=axis, sessions=count)
        call.limit(timeout)
        first = 0
        for length, part in parts:
            places = first if part is Keep.ALL else 0
            rows = [
                Row(call, index, index * per_session + places, length, part, inputs, index * steps + first)
                for index in range(count)
            ]
            if len(parts) > 1 or not self._send_at_once(rows, inputs):
                for ledger, row in zip(self._ledgers, rows, strict=True):
                    ledger.submit(row)
            first += length
        return await call.future

    def _send_at_once(self, rows: Sequence[Row], inputs: Sequence[bytes]) -> bool:
        """The usual case, without a slice of the inputs per session: nobody has to wait and all fit into one message."""
        post = self._ledgers[0].post
        self._ledgers[0].check_loop()
        for ledger, row in zip(self._ledgers, rows, strict=True):
            if ledger.post is not post or not ledger.clear_for(row):
                return False
        return post.put_rows(self._ledgers, rows, inputs)

    def __len__(self) -> int:
        return len(self._sessions)

    @overload
    def __getitem__(self, index: int) -> Session: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Session]: ...
    def __getitem__(self, index: int | slice) -> Session | Sequence[Session]:
        return self._sessions[index]

    def __iter__(self) -> Iterator[Session]:
        return iter(self._sessions)

    def __repr__(self) -> str:
        return f"<SessionGroup of {len(self)} sessions of {self.model.name!r}>"


def limits_of(attached: Attached) -> RowLimits:
    """How long rows of these sessions may be."""
    first = attached.ledgers[0]  # a model's sessions have equal windows
    return RowLimits(attached.model, first.window_steps, first.window_bytes, attached.service.options)


def grouped(attached: Attached) -> SessionGroup:
    """Session objects for ledgers."""
    limits = limits_of(attached)
    return SessionGroup([Session(attached, ledger, limits) for ledger in attached.ledgers])


async def forked(
    service: Service,
    model: str,
    id: str,
    count: int | None,
    *,
    secret: bytes | None,
    at: int | None,
    ids: Sequence[str] | None,
    version: int | None,
    care: Care,
    waits_for_successor: bool = True,
) -> Session | SessionGroup:
    """One Session for None, a SessionGroup of `count` else, that go on from where the session stands."""
    forking = service.fork(
        model,
        id,
        1 if count is None else count,
        secret=secret,
        at=at,
        ids=ids,
        version=version,
        care=care,
        waits_for_successor=waits_for_successor,
    )
    attached = await (one(forking) if count is None else forking)
    group = grouped(attached)
    return group[0] if count is None else group


async def move(sessions: Sequence[S], move_one: Callable[[S], Awaitable[None]], connections: Iterable[Connection]) -> None:
    """Moves sessions, a few at a time, while the connections that hold them now are kept. Raises GroupError once all have been
    tried."""
    at_once = asyncio.Semaphore(MOVES_AT_ONCE)

    async def try_it(session: S) -> StepStreamError | None:
        async with at_once:
            try:
                await move_one(session)
            except StepStreamError as error:
                return error
        return None

    with ExitStack() as held:
        for connection in set(connections):
            held.enter_context(connection.on_its_way())
        outcomes = await asyncio.gather(*map(try_it, sessions))
    errors = {index: error for index, error in enumerate(outcomes) if error is not None}
    if errors:
        raise GroupError(errors, np.array([error is None for error in outcomes]))
