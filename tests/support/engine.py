"""An engine that a test turns by hand, and a front door that remembers what it was told."""

from __future__ import annotations

import contextlib
import queue
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from stepstream_server.config import EngineSettings
from stepstream_server.engine.engine import Engine
from stepstream_server.engine.ports import (
    NO_SEQ,
    NO_STREAM,
    ROW,
    Acknowledge,
    Attach,
    Block,
    Call,
    CallersLeft,
    Close,
    Command,
    Commit,
    Delivery,
    Detach,
    DoorLost,
    Drain,
    Ending,
    Export,
    Fork,
    Generate,
    Get,
    Import,
    Ints,
    Keep,
    Open,
    Opened,
    Refuse,
    Reset,
    Rolled,
    RolloutEnding,
    StreamEnded,
    Tensor,
    Took,
)
from stepstream_server.errors import Reason, StepStreamError
from stepstream_server.snapshots import Snapshot
from stepstream_server.spec import ModelSpec
from support.backend import FakeBackend, counter_spec
from support.clock import FakeClock
from support.observer import Reports


@dataclass(frozen=True)
class Answer:
    """One answered row: sums [kept]."""

    stream: int
    handle: int
    first: int
    length: int
    sums: tuple[float, ...]


@dataclass(frozen=True)
class Refusal:
    """One refused row."""

    stream: int
    handle: int
    first: int
    length: int
    reason: Reason
    expected: int


@dataclass(frozen=True)
class Piece:
    """What a rollout told at once."""

    first: int
    next: int
    ending: RolloutEnding | None
    values: list[Any]  # what was drawn, flat
    outputs: tuple[list[Any], ...]  # per output: of each step


@dataclass
class Ear:
    """A sink that takes deliveries apart."""

    outcomes: list[Answer | Refusal] = field(default_factory=list)
    replies: dict[int, Any] = field(default_factory=dict)
    detached: list[tuple[int, int, Ending]] = field(default_factory=list)
    not_closed: list[tuple[int, int, StepStreamError]] = field(default_factory=list)  # of those detached, and why
    messages: list[str] = field(default_factory=list)  # of refusals
    durable: dict[tuple[int, int], int] = field(default_factory=dict)  # steps in the store, by stream and handle
    pieces: dict[int, list[Piece]] = field(default_factory=dict)  # of rollouts, by stream
    failure: StepStreamError | None = None
    before_hearing: Callable[[], None] = lambda: None  # called when a turn hands its outcomes over

    def deliver(self, delivery: Delivery) -> None:
        self.before_hearing()
        for reply in delivery.replies:
            self.replies[reply.request] = reply.value
        if delivery.answers is not None:
            answers, start = delivery.answers, 0
            for row in range(len(answers.streams)):
                end = start + int(answers.kept[row])
                columns = (answers.streams, answers.handles, answers.first_seqs, answers.lengths)
                stream, handle, first, length = (int(column[row]) for column in columns)
                self.outcomes.append(Answer(stream, handle, first, length, tuple(answers.outputs[0][start:end, 0].tolist())))
                start = end
        errors = delivery.errors
        self.messages += errors.messages
        self.outcomes += [
            Refusal(*row)
            for row in zip(
                errors.streams,
                errors.handles,
                errors.first_seqs,
                errors.lengths,
                errors.reasons,
                errors.expected_seqs,
                strict=True,
            )
        ]
        if delivery.rolled is not None:
            self._roll(delivery.rolled)
        if (durables := delivery.durables) is not None:
            self.durable.update(zip(zip(durables.streams, durables.handles, strict=True), durables.counts, strict=True))
        gone = delivery.detached
        self.detached += list(zip(gone.streams, gone.handles, gone.endings, strict=True))
        told = zip(gone.streams, gone.handles, gone.errors, strict=True)
        self.not_closed += [(stream, handle, error) for stream, handle, error in told if error is not None]

    def _roll(self, rolled: Rolled) -> None:
        value, kept = 0, 0
        for stream, first, steps, following, ending, size, outputs in rolled.pieces.tolist():
            assert outputs in (0, steps)
            values = rolled.values[value : value + size].tolist()
            told = tuple(each[kept : kept + outputs].tolist() for each in rolled.outputs)
            piece = Piece(first, following, RolloutEnding(ending) if ending else None, values, told)
            self.pieces.setdefault(stream, []).append(piece)
            value, kept = value + size, kept + outputs
        assert (value, kept) == (len(rolled.values), len(rolled.outputs[0]))

    def fail(self, error: StepStreamError) -> None:
        self.failure = error


class Harness:
    """One engine over the counting backend, or that of another `spec`, and one front door."""

    spec: ModelSpec = counter_spec()
    lands = True  # whether a turn waits for what its launches gave, whatever depth the backend has

    def __init__(self, backend: FakeBackend | None = None, **settings: float) -> None:
        self.clock = FakeClock()
        self.backend = backend or FakeBackend()
        self.reports = Reports()
        options = {"capacity": self.backend.slots, "rollout_hold_seconds": 0.0, **settings}
        self.engine = Engine(self.spec, self.backend, EngineSettings.model_validate(options), self.reports, self.clock)
        self.ear = Ear()
        self.door = self.engine.connect(self.ear)
        self._request = 0

    def turn(self, times: int = 1, *, seconds: float = float("-inf")) -> list[Answer | Refusal]:
        """Turns with what has been submitted; returns the outcomes since the last call.

        seconds: that a turn has for launches; by default the first is the only one.
        """
        for _ in range(times):
            envelopes = []
            with contextlib.suppress(queue.Empty):
                while True:
                    envelopes.append(self.engine.inbox.get_nowait())
            self.engine.turn([envelope for envelope in envelopes if envelope is not None], self.clock() + seconds)
            if self.lands:
                self.engine.land()
        outcomes, self.ear.outcomes = self.ear.outcomes, []
        return sorted(outcomes, key=lambda each: isinstance(each, Refusal)) if self.lands and times == 1 else outcomes

    def settle(self) -> list[Answer | Refusal]:
        """Turns until nothing is pending."""
        outcomes = self.turn()
        while self.engine.busy:
            outcomes += self.turn()
        return outcomes

    def ask(self, command: Command) -> Any:
        """Submits a command that has a request number, turns, and returns the reply."""
        self.door.submit(command)
        kept = self.turn()
        self.ear.outcomes = kept
        return self.ear.replies[self._request]

    def request(self) -> int:
        self._request += 1
        return self._request

    def open(
        self, count: int = 1, *, stream: int = 1, first_handle: int = 0, idle_ttl: float | None = None, request_id: str = ""
    ) -> list[Opened]:
        handles = np.arange(first_handle, first_handle + count, dtype=np.uint32)
        opened: list[Opened] = self.ask(Open(stream, self.request(), [""] * count, handles, idle_ttl, request_id))
        return opened

    def open_as(self, session_id: str) -> Any:
        """Opens one session of that id, attached to no stream: an Opened, or the error."""
        return self.ask(Open(NO_STREAM, self.request(), [session_id]))[0]

    def attach(self, session: Opened, *, stream: int, handle: int = 0, acked: int = 0, secret: bytes | None = None) -> Any:
        secrets = [session.secret if secret is None else secret]
        handles = np.array([handle], np.uint32)
        return self.ask(Attach(stream, self.request(), handles, [session.id], secrets, np.array([acked])))[0]

    def send(
        self,
        sessions: Sequence[Opened],
        first_seqs: Sequence[int],
        values: Sequence[Sequence[float]],
        *,
        stream: int = 1,
        handles: Sequence[int] | None = None,
        keep: Keep = Keep.ALL,
        acked: Sequence[int] | None = None,
        deadline: float = float("inf"),
    ) -> None:
        """Submits one block: a row per session with its values."""
        flat = [value for row in values for value in row]
        rows = np.zeros(len(sessions), ROW)
        rows["stream"], rows["handle"] = stream, range(len(sessions)) if handles is None else handles
        rows["session"] = [session.session for session in sessions]
        rows["generation"] = [session.generation for session in sessions]
        rows["first"], rows["length"] = first_seqs, [len(row) for row in values]
        rows["acked"], rows["keep"] = 0 if acked is None else acked, keep
        rows["arrival"], rows["deadline"] = self.clock(), deadline
        self.door.submit(Block(rows, self._inputs(flat)))

    def acknowledge(self, session: Opened, count: int, *, stream: int = 1, handle: int = 0) -> None:
        self.door.submit(Acknowledge(stream, *_column(session), np.array([handle], np.uint32), np.array([count], np.int64)))

    def reset(self, session: Opened, seq: int, *, stream: int = 1, handle: int = 0) -> None:
        handles = np.array([handle], np.uint32)
        self.door.submit(Reset(stream, *_column(session), handles, np.array([seq], np.int64), self.clock()))

    def detach(self, session: Opened, *, stream: int = 1, handle: int = 0, close: bool = False) -> None:
        self.door.submit(Detach(stream, *_column(session), np.array([handle], np.uint32), close))

    def call(
        self,
        session: Opened,
        seq: int,
        values: Sequence[float],
        *,
        stream: int,
        secret: bytes = b"",
        deadline: float = float("inf"),
    ) -> None:
        """Submits a one-shot step or chunk of one session."""
        secrets = [secret] if secret else []
        self.call_many([session.id], [seq], [values], stream=stream, handles=[0], secrets=secrets, deadline=deadline)

    def call_many(
        self,
        ids: Sequence[str],
        seqs: Sequence[int],
        values: Sequence[Sequence[float]],
        *,
        stream: int,
        handles: Sequence[int] | None = None,
        secrets: Sequence[bytes] = (),
        keep: Keep = Keep.ALL,
        deadline: float = float("inf"),
        starts: Sequence[bool] | None = None,
        ends: Sequence[bool] | None = None,
    ) -> None:
        """Submits one-shot steps or chunks in one command: a row per id with its values."""
        flat = [value for row in values for value in row]
        rows = np.zeros(len(ids), ROW)
        rows["stream"], rows["handle"] = stream, range(len(ids)) if handles is None else handles
        rows["first"], rows["unkept"], rows["keep"] = seqs, np.array(seqs) == NO_SEQ, keep
        rows["length"], rows["ends"] = [len(row) for row in values], False if ends is None else ends
        rows["arrival"], rows["deadline"] = self.clock(), deadline
        started = np.zeros(len(ids), np.bool_) if starts is None else np.array(starts, np.bool_)
        self.door.submit(Call(rows, ids, secrets, started, self._inputs(flat)))

    def refuse(self, session: Opened, first: int, length: int, message: str, *, stream: int = 1, handle: int = 0) -> None:
        """Submits a row that a door found unfit."""
        handles, column = np.array([handle], np.uint32), (np.array([first]), np.array([length]))
        self.door.submit(Refuse(stream, *_column(session), handles, *column, Reason.INVALID_ARGUMENT, message))

    def fork(
        self, session: Opened, at_seq: int = NO_SEQ, *, count: int = 1, secret: bytes | None = None, request_id: str = ""
    ) -> int:
        """Submits a fork; the reply lies in `ear.replies` under the number returned, once it is there."""
        request, secret = self.request(), session.secret if secret is None else secret
        self.door.submit(Fork(request, session.id, secret, at_seq, [""] * count, request_id))
        return request

    def export(
        self, session: Opened, at_seq: int = NO_SEQ, *, close: bool = False, most: int = 1 << 20, request_id: str = ""
    ) -> int:
        """The same for an export."""
        request = self.request()
        self.door.submit(Export(request, session.id, session.secret, at_seq, close, most, request_id))
        return request

    def load(self, snapshot: Snapshot, session_id: str = "", request_id: str = "") -> Any:
        """Imports: an Imported, or the error."""
        return self.ask(Import(self.request(), snapshot, session_id, request_id))

    def generate(
        self,
        session: Opened | None,
        max_steps: int,
        prompt: Sequence[float] = (),
        *,
        stream: int = 500,
        seq: int = NO_SEQ,
        commit: Commit = Commit.END,
        secret: bytes | None = None,
        **options: Any,
    ) -> int:
        """Submits a rollout, of the initial state without a session; what it tells lies in `ear.pieces` under its stream."""
        request = self.request()
        name, own = ("", b"") if session is None else (session.id, session.secret)
        fed = self._inputs(prompt) if prompt else ()
        self.door.submit(
            Generate(
                stream, request, name, own if secret is None else secret, seq, commit, fed, max_steps, self.clock(), **options
            )
        )
        return request

    def took(self, stream: int, draws: int) -> None:
        self.door.submit(Took(stream, draws))

    def lose_door(self) -> None:
        self.door.submit(DoorLost())

    def drawn(self, stream: int = 500) -> list[Any]:
        """All that a rollout has told so far."""
        return [value for piece in self.ear.pieces.get(stream, ()) for value in piece.values]

    def ending(self, stream: int = 500) -> RolloutEnding | None:
        """How a rollout has ended, as its caller was told."""
        pieces = self.ear.pieces.get(stream)
        return pieces[-1].ending if pieces else None

    def end_stream(self, stream: int) -> None:
        self.door.submit(StreamEnded(stream))

    def hang_up(self, caller: int) -> None:
        self.door.submit(CallersLeft([caller]))

    def get(self, session_id: str) -> Any:
        """A SessionInfo, or the error."""
        return self.ask(Get(self.request(), session_id))

    def close(self, session: Opened, secret: bytes = b"") -> Any:
        """How many steps the session had applied, or the error."""
        return self.ask(Close(self.request(), session.id, secret))

    def drain(self, *, until_let_go: bool = False) -> int:
        request = self.request()
        self.door.submit(Drain(request, until_let_go))
        return request

    def _inputs(self, values: Sequence[float]) -> tuple[Tensor, ...]:
        """Steps of the model's one input."""
        declared = self.spec.inputs[0]
        return (np.array(values, declared.dtype).reshape(-1, *declared.shape),)


def _column(session: Opened) -> tuple[Ints, Ints]:
    return np.array([session.session], np.int64), np.array([session.generation], np.int64)
