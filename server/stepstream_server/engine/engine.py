"""The engine: the one owner of a model's sessions and batches. One turn is cut, run, settle.

Synchronous and without any I/O: whoever calls `turn` again and again is its clockwork (`thread.EngineThread`, or a test).
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import numpy as np

from stepstream_server.config import EngineSettings
from stepstream_server.engine.admission import Admission
from stepstream_server.engine.answers import AnswerCache
from stepstream_server.engine.backlog import Backlog, Rows
from stepstream_server.engine.blocks import Blocks
from stepstream_server.engine.calls import Calls
from stepstream_server.engine.control import Control
from stepstream_server.engine.copies import Copies
from stepstream_server.engine.entrance import Entrance, Parcel
from stepstream_server.engine.express import Express
from stepstream_server.engine.finished import Finished
from stepstream_server.engine.ledger import Ledger
from stepstream_server.engine.lifecycle import Lifecycle
from stepstream_server.engine.outbox import Outbox, door_of, global_stream
from stepstream_server.engine.outcomes import Outcomes
from stepstream_server.engine.ports import (
    Acknowledge,
    Backend,
    CallersLeft,
    Command,
    Computed,
    Door,
    DoorLost,
    EngineStats,
    Export,
    Fork,
    Generate,
    Import,
    Inbox,
    Ints,
    Launch,
    Limits,
    Observer,
    Refuse,
    Reply,
    Reset,
    Sink,
    Statistics,
    StreamEnded,
    Tensor,
    Took,
    TurnReport,
)
from stepstream_server.engine.requests import Requests
from stepstream_server.engine.rollouts import Rollouts
from stepstream_server.engine.scheduler import MEASURED_STEPS, Group, Scheduler
from stepstream_server.engine.starts import Starts
from stepstream_server.engine.table import SessionTable
from stepstream_server.errors import Reason, ServerFault, StepStreamError
from stepstream_server.spec import ModelSpec

Clock = Callable[[], float]  # monotonic seconds
_NONE: Ints = np.zeros(0, np.int64)


@dataclass(frozen=True, slots=True)
class _Done:
    """A group that was computed."""

    positions: Ints
    rows: Rows  # as they were before the launch
    rolls: Ints  # rows of rollouts, behind the others in the launch
    length: int
    computed: Computed
    begun: float  # monotonic seconds of the launch


class Engine:
    """Sessions of one model on one device."""

    def __init__(
        self,
        spec: ModelSpec,
        backend: Backend,
        settings: EngineSettings,
        observer: Observer,
        clock: Clock = time.monotonic,
        inbox: Inbox | None = None,
    ) -> None:
        """inbox: where front doors put what they say; None: a queue for those of this process."""
        self.spec = spec
        self.inbox: Inbox = inbox or queue.SimpleQueue()
        self.clock = clock
        self._backend = backend
        self._observer = observer
        self._sinks: list[Sink] = []  # by door
        self._failure: StepStreamError | None = None
        self._table = SessionTable(settings.capacity, settings.tombstone_seconds)
        self._backlog = Backlog(spec.inputs, self._table)
        self._outbox = Outbox(spec.outputs, settings.rollout_hold_seconds)
        cache = AnswerCache(spec.outputs, settings.capacity, settings.window_steps)
        ledger = Ledger(self._table, self._backlog, cache, self._resolve)
        self._ledger = ledger
        admission = Admission(spec, settings, self._table, self._backlog, cache)
        self._blocks = Blocks(self._table, self._backlog, ledger, self._outbox, admission)
        self._outcomes = Outcomes(self._table, self._backlog, cache, ledger, self._outbox)
        requests = Requests(settings.tombstone_seconds)
        finished = Finished(settings.tombstone_seconds)
        self._lifecycle = Lifecycle(settings, backend, self._table, self._backlog, cache, ledger, self._outbox, finished)
        starts = Starts(self._table, self._backlog, admission, self._lifecycle)
        self._control = Control(self._table, self._backlog, ledger, self._outbox, self._outcomes, self._lifecycle, requests)
        self._rollouts = Rollouts(spec, settings, backend, self._table, ledger, self._outbox)
        self._copies = Copies(
            spec, settings, backend, self._table, cache, self._outbox, self._lifecycle, requests, self._rollouts
        )
        self.limits = _limits(settings, backend)
        self._scheduler = Scheduler(self.limits.max_batch, settings.turn_budget_seconds, settings.alone_budget_seconds)
        express = Express(settings, backend, self._scheduler, self._table, cache, self._outbox, admission, clock)
        calls = Calls(self._table, ledger, self._outbox, admission, starts, finished, self._backlog, express, self._outcomes)
        rooms = (self._table, self._backlog, self._outbox, self._outcomes, self._blocks, calls, self._copies, express)
        self._entrance = Entrance(settings, *rooms, self._carry_out, clock)
        self.max_wait = settings.max_wait_seconds
        self._alone_budget = settings.alone_budget_seconds
        self._turns = 0
        self._steps = 0

    def __repr__(self) -> str:
        stats = self.stats()
        return f"<Engine {stats.sessions}/{stats.slots} sessions | {stats.pending_steps} pending | turn {stats.turns}>"

    def connect(self, sink: Sink) -> Door:
        """Adds a front door. Call before the first turn, or from the thread that turns."""
        self._sinks.append(sink)
        return _Door(len(self._sinks) - 1, self)

    def stats(self) -> EngineStats:
        """The engine at this moment; safe from any thread."""
        sessions = len(self._table)
        return EngineStats(
            sessions=sessions,
            slots=self._backend.slots,
            streams=self._lifecycle.streams,
            pending_steps=self._backlog.steps + self._entrance.held_steps + self._rollouts.prompted,
            state_bytes=sessions * self._backend.state_bytes,
            turns=self._turns,
            steps=self._steps,
            rollouts=len(self._rollouts),
            rollout_slots=self._rollouts.slots,
        )

    def warm_up(self) -> None:
        """Warms the backend up, and learns how long steps take: the scheduler need not guess then. Before the first turn.

        Raises ServerFault if the backend does not compute as promised.
        """
        self._backend.warm_up()
        batch = 1
        while batch <= min(self.limits.max_batch, self._backend.slots) and self._measure(batch) < self._alone_budget:
            batch *= 2

    def _measure(self, batch: int) -> float:
        """Seconds of a launch of a few steps, on slots that no session has."""
        slots = self._backend.allocate(batch)
        inputs = tuple(np.zeros((batch, MEASURED_STEPS, *each.shape), each.dtype) for each in self.spec.inputs)
        begun = self.clock()
        self._backend.collect(self._backend.launch("step", slots, inputs, MEASURED_STEPS))
        launch = Launch(batch, MEASURED_STEPS, self.clock() - begun)
        self._scheduler.pace.learn(launch)
        self._backend.release(slots)
        return launch.seconds

    @property
    def busy(self) -> bool:
        """Whether another turn has something to do already."""
        return len(self._backlog) > 0 or not self._entrance.empty or self._rollouts.busy

    @property
    def next_deadline(self) -> float:
        """Monotonic seconds by which a turn is due though nobody has submitted anything; inf if never."""
        return self._table.next_deadline

    @property
    def failure(self) -> StepStreamError | None:
        """Why the engine no longer accepts commands, if it does not."""
        return self._failure

    def turn(self, parcels: Iterable[Parcel] = ()) -> None:
        """One round: takes commands in, then cut, run, settle, and hands each front door what is ready for it."""
        self._turns += 1
        report = TurnReport()
        self._entrance.take_in(parcels, report)
        self._lifecycle.expire(self.clock(), report)
        groups = self._cut(report)
        self._settle(self._run(groups, report), report)
        self._hand_over(report)

    def fail(self, error: StepStreamError) -> None:
        """Ends the engine: every front door is told, and nothing is accepted any more."""
        if self._failure is None:
            self._failure = error
            for sink in self._sinks:
                sink.fail(error)

    def _carry_out(self, door: int, command: Command, report: TurnReport) -> None:
        """All but blocks and calls."""
        match command:
            case Acknowledge():
                stream = global_stream(door, command.stream)
                current = self._table.current(command.sessions, command.generations, stream, command.tags)
                self._ledger.acknowledge(command.sessions[current], command.counts[current])
            case Reset():
                self._blocks.reset(command, global_stream(door, command.stream))
            case Refuse():
                self._blocks.refuse(command, global_stream(door, command.stream))
            case Fork() | Export() | Import() | Generate():
                self._copies.handle(door, command, self.clock(), report)
            case Took():
                self._rollouts.took(door, command)
            case Statistics():
                self._outbox.reply(door, Reply(command.request, self._observer.totals()))
            case _:
                if isinstance(command, CallersLeft | StreamEnded | DoorLost):
                    self._end_rollouts(door, command, report)
                self._control.handle(door, command, self.clock(), report)

    def _end_rollouts(self, door: int, command: CallersLeft | StreamEnded | DoorLost, report: TurnReport) -> None:
        """Those whose callers are gone, also if they have not begun."""
        if isinstance(command, DoorLost):
            self._copies.leave(partial(_is_of, door))
            self._rollouts.leave(self._rollouts.of_door(door), self.clock(), report)
        else:
            streams = command.streams if isinstance(command, CallersLeft) else [command.stream]
            gone = {global_stream(door, stream) for stream in streams}
            self._copies.leave(gone.__contains__)
            self._rollouts.leave(gone, self.clock(), report)

    def _cut(self, report: TurnReport) -> list[Group]:
        """Answers what needs no computing, and plans the launches for what does. Positions beyond the backlog's are rollouts'."""
        heads = lengths = served = _NONE
        if len(self._backlog):
            heads = self._resolve()
            rows = self._backlog.rows
            sessions = rows["session"][heads]
            lengths = np.minimum(rows["length"][heads], self._table.stop_at[sessions] - rows["first"][heads])
            served = self._table.served[sessions]
        if len(self._rollouts):
            rolls, steps, last = self._rollouts.plan(self.clock(), report)
            heads = np.concatenate([heads, len(self._backlog) + rolls])
            lengths, served = np.concatenate([lengths, steps]), np.concatenate([served, last])
        return self._scheduler.plan(heads, lengths, served, alone=not report.launches)

    def _resolve(self) -> Ints:
        """Answers what needs no computing. Returns the positions of the heads that do."""
        heads = self._outcomes.resolve(self.clock())
        self._backend.zero(self._outcomes.take_resets())
        return heads

    def _run(self, groups: list[Group], report: TurnReport) -> list[_Done]:
        """Computes the groups one after the other; a later one may go on where an earlier one of the same rows ended."""
        done = []
        for group in groups:
            end = int(np.searchsorted(group.positions, len(self._backlog)))
            positions, rolls = group.positions[:end], group.positions[end:] - len(self._backlog)
            rows = self._backlog.copy(positions)
            slots, inputs = self._gather(positions, rows, rolls, group.length)
            if group.length > 1:
                self._table.served[rows["session"]] = self._turns
            begun = self.clock()
            computed = self._backend.collect(self._backend.launch("step", slots, inputs, group.length))
            launch = Launch(len(slots), group.length, self.clock() - begun)
            report.launches.append(launch)
            self._scheduler.pace.learn(launch)
            done.append(_Done(positions, rows, rolls, group.length, computed, begun))
            fine = slice(None) if computed.finite is None else computed.finite[:end]
            self._backlog.advance(positions[fine], group.length)
            self._rollouts.advance(rolls, group.length, self._turns)
            if computed.finite is not None and not computed.finite.all():
                break  # what was planned for a session that failed must not run: the rest waits for the next turn
        return done

    def _gather(self, positions: Ints, rows: Rows, rolls: Ints, length: int) -> tuple[Ints, tuple[Tensor, ...]]:
        """Slots and next steps, [n, length, *shape] per input, of rows of the backlog and then of rollouts."""
        slots = self._table.slot[rows["session"]]
        if not len(rolls):
            return slots, self._backlog.gather(positions, length)
        inputs = self._rollouts.gather(rolls, length)
        if not len(positions):
            return self._rollouts.slots_of(rolls), inputs
        pairs = zip(self._backlog.gather(positions, length), inputs, strict=True)
        return np.concatenate([slots, self._rollouts.slots_of(rolls)]), tuple(np.concatenate(pair) for pair in pairs)

    def _settle(self, done: list[_Done], report: TurnReport) -> None:
        """Makes results known: counts, kept answers, answers; quarantines sessions that would no longer be finite."""
        now = self.clock()
        for result in done:
            if len(result.positions):
                self._settle_rows(result, now, report)
            if len(result.rolls):
                self._rollouts.settle(result.rolls, result.length, _part(result.computed, len(result.positions)), now, report)
        self._rollouts.end_turn(now, report)
        report.duplicates += self._outcomes.end_turn()
        self._copies.carry_out(now, report)
        if self._lifecycle.end_over(now, report):
            self._copies.carry_out(now, report)  # nobody else would tell those who wait for a step of what has ended
            self._rollouts.drop_ended(now, report)

    def _settle_rows(self, result: _Done, now: float, report: TurnReport) -> None:
        positions, rows, computed = result.positions, result.rows, _part(result.computed, 0, len(result.positions))
        if computed.finite is not None and not computed.finite.all():
            self._outcomes.quarantine(positions[~computed.finite])
            rows = rows[computed.finite]
            computed = Computed(tuple(values[computed.finite] for values in computed.outputs), None)
        if len(rows):
            self._outcomes.settle(rows, result.length, computed.outputs, result.begun, now, report)

    def _hand_over(self, report: TurnReport) -> None:
        idle = not self.busy
        if idle and not len(self._rollouts):  # one that has paused goes on
            self._control.answer_drains()
        for door, delivery in self._outbox.empty(self.clock(), idle=idle).items():
            for reason, length in zip(delivery.errors.reasons, delivery.errors.lengths, strict=True):
                report.failures[reason] = report.failures.get(reason, 0) + length
            self._sinks[door].deliver(delivery)
        self._steps += int(report.steps.sum())
        self._observer.turn(report)


def _is_of(door: int, stream: int) -> bool:
    return door_of(stream) == door


def _part(computed: Computed, start: int, end: int | None = None) -> Computed:
    """What a launch gave some of its rows."""
    finite = None if computed.finite is None else computed.finite[start:end]
    return Computed(tuple(values[start:end] for values in computed.outputs), finite)


def _limits(settings: EngineSettings, backend: Backend) -> Limits:
    """What these settings and this backend allow together."""
    return Limits(
        window_steps=settings.window_steps,
        window_bytes=settings.window_bytes,
        capacity=settings.capacity,
        max_batch=min(settings.max_batch, backend.max_batch),
        idle_ttl_seconds=settings.idle_ttl_seconds,
    )


class _Door:
    """One front door's way in."""

    def __init__(self, number: int, engine: Engine) -> None:
        self._number = number
        self._engine = engine

    def submit(self, *commands: Command) -> None:
        if self._engine.failure is not None:
            raise ServerFault(Reason.ENGINE_FAILED, self._engine.failure.message)
        self._engine.inbox.put((self._number, commands))
