"""The engine: the one owner of a model's sessions and batches. A turn takes in, then cuts, runs and settles launch by launch.

Synchronous and without any I/O: whoever calls `turn` again and again is its driver (`thread.EngineThread`, or a test).
"""

from __future__ import annotations

import itertools
import queue
import time
from collections import deque
from collections.abc import Callable, Iterable
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np

from stepstream_server.config import EngineSettings
from stepstream_server.engine.books import Books
from stepstream_server.engine.durable.questions import Keeping, Questions
from stepstream_server.engine.durable.tails import Tails
from stepstream_server.engine.durable.writing import Writing
from stepstream_server.engine.outbox import Outbox, door_of, global_stream
from stepstream_server.engine.ports import (
    STORE_DOOR,
    Acknowledge,
    Attach,
    Backend,
    Block,
    Call,
    CallersLeft,
    Close,
    Command,
    Computed,
    Copying,
    CountTenants,
    Detach,
    Door,
    DoorLost,
    Drain,
    EngineStats,
    Envelope,
    Export,
    Flush,
    Fork,
    Generate,
    Get,
    Import,
    Inbox,
    Ints,
    Launch,
    Limits,
    LimitTenants,
    List,
    Observer,
    Open,
    Refuse,
    Reply,
    Reset,
    RowErrors,
    Sink,
    Statistics,
    StoreDone,
    StreamEnded,
    TenantUse,
    Took,
    TurnReport,
)
from stepstream_server.engine.rollouts.rollouts import NOBODY_WAITS, Rollouts
from stepstream_server.engine.sessions.browsing import Browsing
from stepstream_server.engine.sessions.commands import Commands
from stepstream_server.engine.sessions.copies import Copies
from stepstream_server.engine.sessions.endings import Endings
from stepstream_server.engine.sessions.finding import Finding
from stepstream_server.engine.sessions.idempotency import Requests
from stepstream_server.engine.sessions.lifecycle import Kept, Lifecycle
from stepstream_server.engine.sessions.registering import Openings, Registering
from stepstream_server.engine.sessions.restoring import Loading, Restoring
from stepstream_server.engine.steps.admission import Admission
from stepstream_server.engine.steps.one_shot import OneShot
from stepstream_server.engine.steps.rehearsal import rehearse
from stepstream_server.engine.steps.scheduler import MEASURED_STEPS, Batch, Cut, Scheduler
from stepstream_server.engine.steps.settlement import Settlement
from stepstream_server.errors import Reason, ServerFault, StepStreamError
from stepstream_server.spec import ModelSpec

Clock = Callable[[], float]  # monotonic seconds
_AT_ONCE = float("-inf")  # a time that is over
_KEPT_GROUPS = 4  # of `every_steps`: one is being written, one waits for that, and as many are on their way


class Turned(NamedTuple):
    """How a turn ended."""

    work_left: bool  # whether another turn has something to do already
    plain: bool  # whether all that was taken in were steps and acknowledgements


class _Flight(NamedTuple):
    """A launch that has not been collected."""

    batch: Batch
    ticket: Any
    begun: float  # monotonic seconds


class _Durable(NamedTuple):
    """Everything that keeps durable sessions."""

    questions: Questions
    writing: Writing
    finding: Finding
    endings: Endings
    kept: Kept

    @property
    def awaited(self) -> bool:
        """Tells whether somebody is to hear what the store has been asked, or is about to be."""
        return len(self.questions) > 0 or len(self.writing.withheld) > 0

    @property
    def settled(self) -> bool:
        """Tells whether the store has all."""
        return self.writing.settled and not len(self.questions) and self.endings.settled


_AboutAll = Statistics | LimitTenants | CountTenants | Drain | Flush | StoreDone


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
        keeping: Keeping | None = None,
        wall_clock: Clock = time.time,
    ) -> None:
        """inbox: where front doors put what they say; None: a queue for those of this process. keeping: how durable sessions are
        kept; None: there are none. wall_clock: unix seconds."""
        self.spec = spec
        self.inbox: Inbox = inbox or queue.SimpleQueue()
        self.clock = clock
        self.limits = _limits(settings, backend, keeping)
        self.turn_budget = settings.turn_budget_seconds
        self.max_wait = settings.max_wait_seconds
        self._alone_budget = settings.alone_budget_seconds
        self._backend = backend
        self._observer = observer
        self._sinks: list[Sink] = []  # by door
        self._drains: list[tuple[int, Drain]] = []  # waiting until nothing is pending
        self._flushes: list[tuple[int, Flush]] = []  # waiting until the store has all
        self._flights: deque[_Flight] = deque()
        self._failure: StepStreamError | None = None
        self._turns = 0
        self._steps = 0
        self.books = books = Books(spec, settings)
        self._outbox = outbox = Outbox(spec, settings.rollout_hold_seconds)
        self._scheduler = Scheduler(self.limits.max_batch, settings.turn_budget_seconds, settings.alone_budget_seconds)
        self._cut = Cut(books, self._scheduler, settings.capacity + settings.max_rollout_paths)
        self._admission = Admission(spec, books, outbox)
        self._tails = tails = Tails(books.table)
        self._durable = durable = self._keep(keeping, tails, wall_clock) if keeping is not None else None
        writing = durable.writing if durable is not None else None
        self._settlement = Settlement(books, backend, outbox, writing)
        self._rollouts = Rollouts(spec, settings, backend, books, outbox, tails, writing)
        self._lifecycle = Lifecycle(settings, backend, books, outbox, durable.kept if durable is not None else None)
        loading, registering = Loading(spec, backend, books), None
        if durable is not None:
            restoring = Restoring(settings, backend, books, self._lifecycle, loading, durable.kept, tails.put_stored, wall_clock)
            durable.finding.restore = restoring.restore
            registering = Registering(
                books.table, durable.questions, durable.writing, durable.finding, self._lifecycle, restoring, wall_clock
            )
        self._one_shot = OneShot(books, outbox, self._admission, self._lifecycle)
        openings = Openings(registering, always=keeping is not None and keeping.always)
        questions, finding = (durable.questions, durable.finding) if durable is not None else (None, None)
        browsing = Browsing(books.table, self._lifecycle, questions, finding, wall_clock)
        requests = Requests(settings.tombstone_seconds)
        self._commands = Commands(
            books, outbox, self._settlement.resend, self._take_over, self._lifecycle, requests, openings, browsing, self._touch
        )
        self._copies = Copies(spec, backend, books, outbox, self._lifecycle, requests, self._rollouts, openings, loading)

    def _keep(self, keeping: Keeping, tails: Tails, wall_clock: Clock) -> _Durable:
        questions = Questions(keeping.store)
        writing = Writing(self._backend, self.books, self._outbox, questions, keeping.settings, tails, wall_clock)
        finding = Finding(self.books.table, questions, self._refuse)
        endings = Endings(self.books, questions, writing, finding, self.clock(), wall_clock)
        return _Durable(questions, writing, finding, endings, Kept(writing, endings, keeping.always))

    def __repr__(self) -> str:
        stats = self.stats()
        return f"<Engine {stats.sessions}/{stats.capacity} sessions | {stats.pending_steps} pending | turn {stats.turns}>"

    def connect(self, sink: Sink) -> Door:
        """Adds a front door. Call before the first turn, or from the thread that turns."""
        self._sinks.append(sink)
        return _Door(len(self._sinks) - 1, self)

    def stats(self) -> EngineStats:
        """The engine at this moment; safe from any thread."""
        sessions = len(self.books.table)
        return EngineStats(
            sessions=sessions,
            capacity=self.limits.capacity,
            streams=self._lifecycle.streams,
            pending_steps=self.books.pending_steps + self._rollouts.prompted,
            state_bytes=sessions * self._backend.state_bytes,
            turns=self._turns,
            steps=self._steps,
            rollouts=len(self._rollouts),
            rollout_slots=self._rollouts.slots,
            batching=self.limits.batching,
            durable_sessions=self._durable.writing.sessions if self._durable is not None else 0,
            lag_seconds=self._durable.writing.lag(self.clock()) if self._durable is not None else 0.0,
        )

    def warm_up(self) -> None:
        """Has the rules and the backend ready, and learns how long steps take: the scheduler need not guess then. To be called
        before the first turn.

        Raises ServerFault if the backend does not compute as promised.
        """
        rehearse()
        self._backend.warm_up()
        batch = 1
        while batch <= min(self.limits.max_batch, self._backend.slots) and self._measure(batch) < self._alone_budget:
            batch *= 2

    def _measure(self, batch: int) -> float:
        """Seconds of a launch of a few steps, on slots that no session has; one of a single step is measured first."""
        slots = self._backend.allocate(batch)
        for length in (1, MEASURED_STEPS):
            inputs = tuple(np.zeros((batch, length, *each.shape), each.dtype) for each in self.spec.inputs)
            begun = self.clock()
            self._backend.collect(self._backend.launch("step", slots, inputs, length))
            seconds = self.clock() - begun
            self._scheduler.learn(Launch(batch, length, seconds), seconds)
        self._backend.release(slots)
        return seconds

    @property
    def depth(self) -> int:
        """Launches that may be under way at once."""
        return self._backend.depth

    @property
    def busy(self) -> bool:
        """Tells whether another turn has something to do already."""
        return bool(self.books.counters.queued[0]) or len(self._flights) > 0 or self._rollouts.busy

    @property
    def calm(self) -> bool:
        """Tells whether the next turn has nothing to do but what is queued and what it takes in."""
        waits = self._flights or self._drains or self._flushes or self._copies.waiting or len(self._rollouts)
        now = self.clock()
        light = self._durable is None or now < self._durable.writing.next_deadline or self._durable.writing.light
        return not waits and light and now < self._next_look

    @property
    def queued(self) -> tuple[int, int]:
        """Rows that wait, and steps that are to be computed."""
        return int(self.books.counters.queued[0]), self.books.pending_steps

    def expected_seconds(self, rows: int) -> float:
        """The time that a launch of one step of so many rows is expected to take, its settlement included; inf if none of about
        that size has been measured."""
        return self._scheduler.expected_seconds(rows)

    def held_by(self, door: int, stream: int) -> int:
        """How many sessions a door's stream holds."""
        return self._lifecycle.held_by(global_stream(door, stream))

    @property
    def next_deadline(self) -> float:
        """Monotonic seconds by which a turn is due though nobody has submitted anything; inf if never."""
        return min(self._next_look, self._durable.writing.next_deadline) if self._durable is not None else self._next_look

    @property
    def _next_look(self) -> float:
        """Monotonic seconds by which it is to be seen what is over."""
        endings = self._durable.endings.next_deadline if self._durable is not None else float("inf")
        return min(self.books.table.next_deadline, self._rollouts.next_deadline, endings)

    @property
    def failure(self) -> StepStreamError | None:
        """Why the engine no longer accepts commands, if it does not."""
        return self._failure

    def turn(self, envelopes: Iterable[Envelope] = (), until: float = _AT_ONCE) -> Turned:
        """One round: takes in what front doors said, computes, and hands each of them what is ready for it.

        until: monotonic seconds after which no launch begins, except the first.
        """
        self._turns += 1
        report = TurnReport()
        self.books.begin_turn()
        self._scheduler.begin_turn()
        plain = self._take_in(envelopes, report)
        self._expire(report)
        self._compute(until, report)
        self._end_sessions(report)
        return Turned(self._hand_over(report), plain)

    def land(self) -> None:
        """Settles what is in flight and hands it over, without another launch: before the engine is given up."""
        if self._flights:
            report = TurnReport()
            self._collect_all(report)
            self._end_sessions(report)
            self._hand_over(report)

    def fail(self, error: StepStreamError) -> None:
        """Ends the engine: every front door is told, and nothing is accepted any more."""
        if self._failure is None:
            self._failure = error
            for sink in self._sinks:
                sink.fail(error)

    # Take in ---------------------------------------------------------------------------------------------------------

    def _take_in(self, envelopes: Iterable[Envelope], report: TurnReport) -> bool:
        """Carries commands out, in their order. Returns whether all of them were steps and acknowledgements."""
        plain = True
        blocks: list[tuple[int, Block]] = []
        calls: list[tuple[int, Call]] = []  # blocks may overtake them: those are of other streams
        for door, commands in envelopes:
            if door != STORE_DOOR:
                self._outbox.heard(door)
            for each in commands:
                command = self._durable.finding.admit(door, each) if self._durable is not None else each
                if command is not None:
                    plain = self._take(door, command, blocks, calls, report) and plain
                for one, released in self._durable.finding.released() if self._durable is not None else ():
                    self._take(one, released, blocks, calls, report)
        self._admit(blocks, calls, report)
        if self._durable is not None:
            self._durable.finding.end_turn()
        return plain

    def _take(
        self, door: int, command: Command, blocks: list[tuple[int, Block]], calls: list[tuple[int, Call]], report: TurnReport
    ) -> bool:
        """Carries a command out, or keeps it for those beside it. Returns whether it was about steps."""
        if isinstance(command, Block):
            blocks.append((door, command))
        elif isinstance(command, Call):
            calls.append((door, command))
        else:
            self._admit(blocks, calls, report)
            self._carry_out(door, command, self.clock(), report)
            self._settlement.tell(report)
            return isinstance(command, Acknowledge | StoreDone)
        return True

    def _refuse(self, door: int, command: Command, error: StepStreamError) -> None:
        """A command that names sessions is not carried out."""
        if isinstance(command, Call):
            self._one_shot.refuse(door, command, error)
        elif isinstance(command, Open | Attach | Get | Close | Copying | Import):
            self._outbox.reply(door, Reply(command.request, error))

    def _touch(self, sessions: Ints, now: float) -> None:
        """The store is to be told of durable sessions, though nothing was applied to them."""
        if self._durable is not None:
            self._durable.writing.touch(sessions, now)

    def _admit(self, blocks: list[tuple[int, Block]], calls: list[tuple[int, Call]], report: TurnReport) -> None:
        """Admits steps, those that neighbours of one door bring together: each admission costs as much as many rows. None is
        left."""
        for door, some in itertools.groupby(blocks, key=itemgetter(0)):
            self._admission.blocks(door, [block for _, block in some], self.clock())
            self._settlement.tell(report)
        if len(self._rollouts) and any(call.starts.any() for _, call in calls):
            self._collect_all(report)  # a session ends in whose slot a rollout may be computed now
        for door, others in itertools.groupby(calls, key=itemgetter(0)):
            self._one_shot.admit(door, [call for _, call in others], self.clock(), report)
            self._settlement.tell(report)
        blocks.clear()
        calls.clear()

    def _carry_out(self, door: int, command: Command, now: float, report: TurnReport) -> None:
        """Carries out a command that is not about steps to compute. Those about sessions find none in flight."""
        if not isinstance(command, Acknowledge | Took):
            self._collect_all(report)
        match command:
            case Acknowledge():
                self._acknowledge(global_stream(door, command.stream), command, now)
            case Reset():
                self._admission.reset(door, command, now)
            case Refuse():
                self._admission.refuse(door, command, now)
            case Open() | Attach() | Get() | List() | Close():
                self._commands.answer(door, command, now, report)
            case Detach():
                self._commands.detach(door, command, now, report)
            case Fork() | Export() | Import() | Generate():
                self._copies.handle(door, command, now, report)
            case Took():
                self._rollouts.took(door, command, now)
            case CallersLeft() | StreamEnded() | DoorLost():
                self._leave(door, command, now, report)
            case Statistics() | LimitTenants() | CountTenants() | Drain() | Flush() | StoreDone():
                self._heed(door, command, now, report)
            case _:
                raise TypeError(f"not a command: {command!r}")

    def _heed(self, door: int, command: _AboutAll, now: float, report: TurnReport) -> None:
        """Carries out a command about the engine as a whole."""
        match command:
            case Statistics():
                self._outbox.reply(door, Reply(command.request, self._observer.totals()))
            case LimitTenants():
                self.books.table.tenants.limits = command.sessions
                self._rollouts.limits = command.rollouts
            case CountTenants():
                self._outbox.reply(door, Reply(command.request, self._tenant_use()))
            case Drain():
                self.books.drain()
                self._drains.append((door, command))
            case Flush():
                self._flushes.append((door, command))
                if self._durable is not None:
                    self._durable.writing.flushing = True
            case StoreDone():
                if self._durable is not None:
                    self._durable.questions.settle(command, now, report)

    def _tenant_use(self) -> list[TenantUse]:
        sessions, rollouts = self.books.table.tenants.sessions(), self._rollouts.by_tenant()
        return [TenantUse(each, sessions.get(each, 0), rollouts[each]) for each in {**sessions, **rollouts}]

    def _acknowledge(self, stream: int, command: Acknowledge, now: float) -> None:
        held = self.books.table.held_as(command.sessions, command.generations, stream, command.handles)
        self.books.acknowledge(command.sessions[held], command.counts[held], now)

    def _leave(self, door: int, command: CallersLeft | StreamEnded | DoorLost, now: float, report: TurnReport) -> None:
        """Callers, a stream or a door are gone: their rollouts end, also those that have not begun, and their queued steps."""
        gone = _whose(door, command)
        self._copies.leave(gone)
        if self._durable is not None:
            self._durable.finding.leave(door, command)
            self._durable.writing.withheld.leave(gone)
        match command:
            case DoorLost():
                self._rollouts.leave(self._rollouts.of_door(door), now, report)
                self._commands.lose_door(door)
            case CallersLeft():
                callers = [global_stream(door, stream) for stream in command.streams]
                self._rollouts.leave(callers, now, report)
                self._lifecycle.lose_callers(callers)
            case StreamEnded():
                stream = global_stream(door, command.stream)
                self._rollouts.leave([stream], now, report)
                self._commands.end_stream(stream)

    def _take_over(self, sessions: Ints, now: float, report: TurnReport) -> None:
        """Ends rollouts that commit to sessions, those too that have not begun, since streams have taken the sessions over."""
        self._rollouts.take_over(sessions, now, report)
        self._copies.take_over(sessions)

    def _expire(self, report: TurnReport) -> None:
        """Ends sessions whose time is over, and rollouts that nobody reads; none of them is in flight then."""
        now = self.clock()
        if now >= self._next_look:
            self._collect_all(report)
        self._lifecycle.expire(now, report)
        if self._durable is not None:
            self._durable.endings.due(now)
        self._rollouts.end_unread(now, report)

    # Compute ---------------------------------------------------------------------------------------------------------

    def _compute(self, until: float, report: TurnReport) -> None:
        """Launch after launch, as many at once as the backend can have in flight; at least one, and none that begins too late, or
        before the first or last draw of a rollout has been told."""
        launched = False
        while not (launched and (self.clock() >= until or self._outbox.pieces.urgent)):
            batch = self._next_batch(report)
            if batch is not None:
                self._launch(batch)
                launched = True
                if len(self._flights) >= self._backend.depth:
                    self._collect(report)
            elif self._flights and (not launched or any(flight.batch.goes_on for flight in self._flights)):
                self._collect(report)  # else others may come while the device computes
            else:
                return

    def _next_batch(self, report: TurnReport) -> Batch | None:
        rolling = len(self._rollouts) > 0
        if not self.books.counters.queued[0] and not rolling:
            return None
        now = self.clock()
        rolls = self._rollouts.candidates(self._scheduler.most_rolled, now, report) if rolling else NOBODY_WAITS
        batch = self._cut.batch(rolls, now)
        self._settlement.tell(report)
        return batch

    def _launch(self, batch: Batch) -> None:
        slots, inputs = batch.slots, batch.inputs
        begun = self.clock()
        if len(batch.rolls):
            slots, inputs = self._rollouts.depart(batch.rolls, batch.length)
            if len(batch.rows):
                slots = np.concatenate([batch.slots, slots])
                inputs = tuple(np.concatenate(pair) for pair in zip(batch.inputs, inputs, strict=True))
        self._flights.append(_Flight(batch, self._backend.launch("step", slots, inputs, batch.length), begun))

    def _collect(self, report: TurnReport) -> None:
        """Waits for the oldest launch and settles it."""
        flight = self._flights.popleft()
        batch, computed = flight.batch, self._backend.collect(flight.ticket)
        now, n = self.clock(), len(batch.rows)
        launch = Launch(n + len(batch.rolls), batch.length, now - flight.begun)
        report.launches.append(launch)
        if not len(batch.rolls):
            self._steps += self._settlement.settle(batch, computed, flight.begun, now, report)
        else:
            if n:
                self._steps += self._settlement.settle(batch, _part(computed, 0, n), flight.begun, now, report)
            self._rollouts.settle(batch.rolls, batch.length, _part(computed, n, None), now, report)
        settled = self.clock() - flight.begun
        self._scheduler.learn(launch, settled)
        if len(batch.rolls) and batch.length == 1:
            self._scheduler.learn_rolled(launch.batch, settled)

    def _collect_all(self, report: TurnReport) -> None:
        while self._flights:
            self._collect(report)

    # Hand over -------------------------------------------------------------------------------------------------------

    def _end_sessions(self, report: TurnReport) -> None:
        """Carries out what has waited for a step, and ends sessions whose end was answered or whose id has gone to another."""
        if self._due_to_write:
            self._collect_all(report)
        now = self.clock()
        self._copies.carry_out(now, report)
        if self._lifecycle.end_over(now, report):
            self._copies.carry_out(now, report)  # nobody else would tell those who wait for a step of what has ended
            self._rollouts.drop_ended(now, report)
        if self._durable is not None:
            self._durable.finding.ask()
            if self._due_to_write and not self._flights:  # else it comes to be due just now
                self._durable.writing.write(self.clock())

    @property
    def _due_to_write(self) -> bool:
        """Tells whether the store is to be told of sessions now."""
        return self._durable is not None and self._durable.writing.next_deadline <= self.clock()

    def _hand_over(self, report: TurnReport) -> bool:
        """Gives each front door what is ready for it. Returns whether work is left."""
        self.books.queue.let_go(self.books.counters)
        busy = self.busy
        if (
            self._drains and not busy and not len(self._rollouts) and not (self._durable is not None and self._durable.awaited)
        ):  # a rollout that has paused goes on
            self._answer_drains()
        if self._flushes:
            self._answer_flushes()
        letters = self._outbox.empty(self.clock(), idle=not busy)
        for delivery in letters.values():
            if delivery.errors.reasons:
                _count_failures(delivery.errors, report)
        self._observer.turn(report)  # first, so that whoever has heard an answer finds it counted
        for door, delivery in letters.items():
            self._sinks[door].deliver(delivery)
        return busy

    def _answer_flushes(self) -> None:
        """Tells those who wait for it that the store has all, if it has."""
        if self._durable is None or self._durable.settled:
            for door, flush in self._flushes:
                self._outbox.reply(door, Reply(flush.request, None))
            self._flushes = []
            if self._durable is not None:
                self._durable.writing.flushing = False

    def _answer_drains(self) -> None:
        """Nothing is pending: only those are left waiting that are to hear when no stream holds sessions."""
        held = self._lifecycle.streams > 0
        for door, drain in self._drains:
            if not (held and drain.until_let_go):
                self._outbox.reply(door, Reply(drain.request, None))
        self._drains = [each for each in self._drains if held and each[1].until_let_go]


def _whose(door: int, command: CallersLeft | StreamEnded | DoorLost) -> Callable[[int], bool]:
    """Tells of an engine-wide number of a stream whether it is one that has left."""
    match command:
        case DoorLost():
            return lambda stream: door_of(stream) == door
        case CallersLeft():
            return {global_stream(door, each) for each in command.streams}.__contains__
        case StreamEnded():
            return {global_stream(door, command.stream)}.__contains__


def _count_failures(errors: RowErrors, report: TurnReport) -> None:
    for reason, length in zip(errors.reasons, errors.lengths, strict=True):
        report.failures[reason] = report.failures.get(reason, 0) + length


def _part(computed: Computed, start: int, end: int | None) -> Computed:
    """Takes the part of a launch that some of its rows have."""
    faults = None if computed.faults is None else computed.faults[start:end]
    return Computed(tuple(values[start:end] for values in computed.outputs), faults)


def _limits(settings: EngineSettings, backend: Backend, keeping: Keeping | None) -> Limits:
    """Says what these settings and this backend allow together."""
    return Limits(
        window_steps=settings.window_steps,
        window_bytes=settings.window_bytes,
        capacity=settings.capacity,
        max_batch=min(settings.max_batch, backend.max_batch),
        idle_ttl_seconds=settings.idle_ttl_seconds,
        batching=backend.batching,
        replay_steps=_KEPT_GROUPS * keeping.settings.every_steps if keeping is not None else 0,
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
