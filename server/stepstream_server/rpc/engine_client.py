"""The front door's end of the engine port: one `EngineClient` per model takes deliveries from the engine to the event loop.

It knows who waits for what: streams and one-shot callers by number, questions by request number. What is said to the engine in
one round of the loop is passed in at its end.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from stepstream_server.engine.ports import (
    Answers,
    CallersLeft,
    Command,
    Delivery,
    Detached,
    Door,
    Durables,
    Limits,
    Rolled,
    RowErrors,
    StreamEnded,
)
from stepstream_server.errors import CallerError, Reason, ServerFault, StepStreamError
from stepstream_server.rpc.coalescing import Blocks, Calls, Steps
from stepstream_server.rpc.deliveries import Drawn, Encoding, Piece, split_by_stream, split_rolled
from stepstream_server.spec import ModelSpec

_CREDIT_BYTES = 2048  # the 8,192 credits of a stream stand for 16 MiB of outputs


class Listener(Protocol):
    """Who a number belongs to, under which an engine was asked for something. Called on the event loop; must not raise."""

    def refused(self, engine: EngineClient, errors: RowErrors, row: int) -> None:
        """A row was refused or failed. Follows the same turn's answers."""

    def durable(self, engine: EngineClient, durables: Durables, row: int) -> None:
        """More of a session is in the store. Precedes answers that have waited for it."""

    def failed(self, engine: EngineClient, error: StepStreamError) -> None:
        """The engine has crashed; nothing more will come."""


class StepListener(Listener, Protocol):
    """Who sends steps: a stream, or a one-shot caller."""

    def answered(self, engine: EngineClient, piece: Piece) -> None:
        """Rows were answered."""


class Holder(StepListener, Protocol):
    """Who holds sessions under handles: a stream."""

    def detached(self, engine: EngineClient, detached: Detached, row: int) -> None:
        """A handle no longer stands for a session."""


class RolloutListener(Listener, Protocol):
    """Who has asked for a rollout."""

    def rolled(self, drawn: Drawn) -> None:
        """The rollout goes on."""


class EngineClient:
    """A model as the services see it. All methods but `deliver` and `fail` are for the event loop's thread.

    Two steps to life, since an engine gives its door in return for a sink: the constructor, then `open`.
    """

    def __init__(self, spec: ModelSpec, limits: Limits, loop: asyncio.AbstractEventLoop) -> None:
        self.spec = spec
        self.limits = limits
        self._encoding = Encoding(spec)
        self.step_bytes = self._encoding.all_step_bytes
        self._input_bytes = [each.step_bytes for each in spec.inputs]  # of one step
        self._takes_any_bytes = all(each.dtype != "bool" for each in spec.inputs)
        self.step_credits = step_credits(spec)
        self.window_credits = window_credits(spec, limits.window_steps, limits.window_bytes)
        self._loop = loop
        self._loop_thread = threading.get_ident()
        self._inbox: deque[Delivery] = deque()
        self._awake = False  # whether the loop has been told of the inbox
        self._listeners: dict[int, StepListener] = {}  # of steps, by number
        self._holders: dict[int, Holder] = {}  # those of them that hold sessions
        self._rollouts: dict[int, RolloutListener] = {}
        self._questions: dict[int, Callable[[Any], None]] = {}  # of control messages; an entry goes with its reply or its asker
        self._requests = itertools.count()
        self._failure: StepStreamError | None = None
        self.envelope = 1  # the number of the envelope in which what is said now is passed in
        self.heard: float = 0  # of envelopes taken in by the engine; inf: it has failed, and takes in no more
        self._unheard: list[tuple[int, asyncio.Future[None]]] = []  # who waits until so many are
        # Since the loop began its round:
        self._said: list[Command] = []
        self._blocks = Blocks(spec.inputs)  # behind what was said
        self._calls = Calls(spec.inputs)
        self._hung_up: list[int] = []  # callers
        self._due = False  # whether they will be passed in at its end

    def open(self, door: Door) -> None:
        """Connects to the engine."""
        self._door = door

    def submit(self, command: Command) -> None:
        """Passes a command on, behind those before it, once the loop has been through all that is ready now: what came
        together is then together in a turn, where a command passed on at once would begin a turn of its own.

        Raises ServerFault(ENGINE_FAILED) once the engine has stopped.
        """
        self._pass_in_soon()
        self._close_blocks()
        self._said.append(command)

    def takes(self, inputs: Sequence[bytes], steps: int) -> bool:
        """Tells whether inputs of so many steps are as many and as long as the model declares, and any bytes would do."""
        sizes = self._input_bytes
        return self._takes_any_bytes and list(map(len, inputs)) == (sizes if steps == 1 else [steps * size for size in sizes])

    def block(self, stream: int, rows: bytes, inputs: Sequence[bytes]) -> None:
        """Passes on rows of one message of a stream, packed as ROW is, with their inputs as they came, as `submit` does."""
        if not self._due:
            self._pass_in_soon()
        if stream in self._blocks.streams:
            self._close_blocks()
        self._blocks.add(stream, rows, inputs)

    def call(self, stream: int, first_handle: int, steps: Steps) -> None:
        """Passes on one-shot steps of a caller, whose rows have handles from `first_handle` on, as `submit` does."""
        self._pass_in_soon()
        self._calls.add(stream, first_handle, steps)

    def listen(self, number: int, listener: StepListener) -> None:
        """From now on outcomes of steps that are asked for under this number go to the listener."""
        self._refuse_if_failed()
        self._listeners[number] = listener

    def hold(self, stream: int, holder: Holder) -> None:
        """From now on a stream's outcomes, and what becomes of sessions that it holds, go to the holder."""
        self.listen(stream, holder)
        self._holders[stream] = holder

    def follow(self, number: int, listener: RolloutListener) -> None:
        """From now on what is drawn in the rollout that is asked for under this number goes to the listener."""
        self._refuse_if_failed()
        self._rollouts[number] = listener

    def leave(self, stream: int) -> None:
        """Nothing more is wanted for this stream: its queued steps are dropped, its sessions detached."""
        self._holders.pop(stream, None)
        if self._listeners.pop(stream, None) is not None:
            with contextlib.suppress(StepStreamError):
                self.submit(StreamEnded(stream))
                self._pass_in()  # at once: what it drops shall not run meanwhile

    def hang_up(self, number: int) -> None:
        """Nothing more is wanted for this one-shot caller or rollout: its queued steps are dropped."""
        if self.forget(number):
            with contextlib.suppress(StepStreamError):
                self._pass_in_soon()
                self._hung_up.append(number)

    def forget(self, number: int) -> bool:
        """A one-shot caller or a rollout has all that it wants. Returns whether it was still listening."""
        return self._listeners.pop(number, None) is not None or self._rollouts.pop(number, None) is not None

    async def until_heard(self, envelope: int) -> None:
        """Waits until the engine has taken an envelope in, or never will."""
        if envelope > self.heard:
            future: asyncio.Future[None] = self._loop.create_future()
            self._unheard.append((envelope, future))
            await future

    def question(self, answer: Callable[[Any], None]) -> int:
        """A number for a command with a reply; `answer` gets the reply's value, or a StepStreamError if the engine crashes."""
        self._refuse_if_failed()
        request = next(self._requests)
        self._questions[request] = answer
        return request

    def withdraw(self, request: int) -> None:
        """The reply is not wanted any more."""
        self._questions.pop(request, None)

    async def ask(self, command: Callable[[int], Command]) -> Any:
        """Submits a command made for a request number and waits for its reply's value. Raises StepStreamError."""
        future: asyncio.Future[Any] = self._loop.create_future()
        request = self.question(lambda value: None if future.done() else future.set_result(value))
        try:
            self.submit(command(request))
            value = await future
        finally:
            self.withdraw(request)
        if isinstance(value, StepStreamError):
            raise value
        return value

    def deliver(self, delivery: Delivery) -> None:
        """On whatever thread turns the engine. One wake-up of the loop serves all deliveries that it finds when it comes."""
        self._inbox.append(delivery)
        if not self._awake:
            self._awake = True
            self._wake(self._distribute)

    def fail(self, error: StepStreamError) -> None:
        """On whatever thread turns the engine."""
        self._wake(lambda: self.give_up(error))

    def _refuse_if_failed(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _pass_in_soon(self) -> None:
        self._refuse_if_failed()
        if not self._due:
            self._due = True
            self._loop.call_soon(self._pass_in)

    def _pass_in(self) -> None:
        self._due = False
        self._close_blocks()
        if self._calls:
            self._said.append(self._calls.take())
        if self._hung_up:
            self._said.append(CallersLeft(self._hung_up))
            self._hung_up = []
        if self._said:
            said, self._said = self._said, []
            self.envelope += 1
            try:  # noqa: SIM105  # `suppress` is three calls more
                self._door.submit(*said)
            except ServerFault:  # all who wait are told by `fail`
                pass

    def _close_blocks(self) -> None:
        """What comes now must stay behind the rows that were gathered."""
        if self._blocks.streams:
            self._said.append(self._blocks.take())

    def _wake(self, callback: Callable[[], None]) -> None:
        if threading.get_ident() == self._loop_thread:
            self._loop.call_soon(callback)  # the loop turns the engine itself
            return
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to be told
            self._loop.call_soon_threadsafe(callback)

    def _distribute(self) -> None:
        self._awake = False  # first, so that a delivery that comes meanwhile wakes the loop again
        while self._inbox:
            self.hear(self._inbox.popleft())

    def hear(self, delivery: Delivery) -> None:
        """Passes a delivery on to whom it concerns."""
        for reply in delivery.replies:
            answer = self._questions.pop(reply.request, None)
            if answer is not None:
                answer(reply.value)
        if delivery.durables is not None:
            self._pass_durables(delivery.durables)
        if delivery.answers is not None:
            self._pass_answers(delivery.answers)
        if delivery.rolled is not None:
            self._pass_rolled(delivery.rolled)
        errors, detached = delivery.errors, delivery.detached
        if errors.streams or detached.streams:
            self._pass_errors(errors, unknown=False)
            for row, stream in enumerate(detached.streams):
                if (holder := self._holders.get(stream)) is not None:
                    holder.detached(self, detached, row)
            self._pass_errors(errors, unknown=True)  # after the news that their handles stand for nothing any more
        if delivery.heard > self.heard:  # not if it was none of the engine's
            self.heard = delivery.heard
            if self._unheard:
                self._let_speak()

    def _let_speak(self) -> None:
        waiting, self._unheard = self._unheard, []
        for envelope, future in waiting:
            if envelope > self.heard:
                self._unheard.append((envelope, future))
            elif not future.done():
                future.set_result(None)

    def _pass_errors(self, errors: RowErrors, *, unknown: bool) -> None:
        for row, (stream, reason) in enumerate(zip(errors.streams, errors.reasons, strict=True)):
            if (reason is Reason.HANDLE_UNKNOWN) is unknown and (listener := self._listener(stream)) is not None:
                listener.refused(self, errors, row)

    def _pass_durables(self, durables: Durables) -> None:
        for row, stream in enumerate(durables.streams):
            if (listener := self._listener(stream)) is not None:
                listener.durable(self, durables, row)

    def _pass_rolled(self, rolled: Rolled) -> None:
        for stream, drawn in split_rolled(rolled):
            if (follower := self._rollouts.get(stream)) is not None:
                follower.rolled(drawn)

    def _listener(self, number: int) -> Listener | None:
        """Who is told of rows under this number."""
        return self._listeners[number] if number in self._listeners else self._rollouts.get(number)

    def _pass_answers(self, answers: Answers) -> None:
        for stream, piece in split_by_stream(self._encoding.encode(answers)):
            if (listener := self._listeners.get(stream)) is not None:
                listener.answered(self, piece)

    def give_up(self, error: StepStreamError) -> None:
        """Nothing more will come from the engine: tells all who wait."""
        self._distribute()
        self._failure, self.heard = error, math.inf
        self._let_speak()
        questions, self._questions = self._questions, {}
        for answer in questions.values():
            answer(error)
        for listener in [*self._listeners.values(), *self._rollouts.values()]:
            listener.failed(self, error)


def decode_row_error(errors: RowErrors, row: int) -> StepStreamError:
    """A row's refusal as an exception, for a call that stands for one row."""
    return CallerError(errors.reasons[row], errors.messages[row], expected_seq=errors.expected_seqs[row])


def step_credits(spec: ModelSpec) -> int:
    """Credits of one step of a model."""
    return max(1, -(-spec.output_step_bytes // _CREDIT_BYTES))


def window_credits(spec: ModelSpec, steps: int, bytes: int) -> int:
    """Credits of all answers that one session may have unacknowledged, which an attach can bring."""
    return min(steps, max(1, bytes // max(1, spec.output_step_bytes))) * step_credits(spec)
