"""Copies: forks of sessions, snapshots of them, and rollouts of them, each taken or begun at a step number.

Where that step is still pending the command waits, and the session's steps stop there until it has been carried out: so a copy
holds exactly the steps before it, however the session's inputs were cut into launches.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from stepstream_server.engine.books import Books
from stepstream_server.engine.books.records import NEVER, NONE
from stepstream_server.engine.outbox import Outbox, global_stream
from stepstream_server.engine.ports import (
    NO_SEQ,
    Backend,
    Commit,
    Copying,
    Ending,
    Export,
    Fork,
    Forked,
    Generate,
    Import,
    Imported,
    Ints,
    Origin,
    Reply,
    TurnReport,
    Value,
)
from stepstream_server.engine.rollouts.rollouts import TAKEN_OVER, Rollouts
from stepstream_server.engine.sessions.idempotency import Requests
from stepstream_server.engine.sessions.lifecycle import Lifecycle
from stepstream_server.engine.sessions.registering import Opening, Openings, Results, Then
from stepstream_server.engine.sessions.restoring import Loading
from stepstream_server.errors import CallerError, Reason, StepStreamError
from stepstream_server.snapshots import Snapshot
from stepstream_server.spec import ModelSpec
from stepstream_server.tenancy import plain

# Why a fork that was made before its caller heard of it would be refused when it is asked for again: its original has gone on,
# ended, or was never in the store.
_PASSED = (
    Reason.SEQUENCE_PASSED,
    Reason.SESSION_NOT_FOUND,
    Reason.SESSION_CLOSED,
    Reason.SESSION_EXPIRED,
    Reason.SESSION_MOVED,
)
_MOST_WAITING = 256  # looked at in every turn, which takes 3 ms then


@dataclass(slots=True, eq=False)
class _Waiting:
    """A command whose step is still pending."""

    door: int
    command: Copying
    session: int
    generation: int
    place: int  # of the newest row queued before it, among all that were ever
    at_seq: int  # the number that it waits for
    gone_back: int  # how often its session had gone back when that was so

    @property
    def commits(self) -> bool:
        """Tells whether it is a rollout whose steps are to be its session's."""
        return isinstance(self.command, Generate) and self.command.commit is not Commit.NONE

    @property
    def numbered(self) -> bool:
        """Tells whether its caller named the number."""
        return self.command.at_seq != NO_SEQ


class Copies:
    """Carries Fork, Export and Import out, and lets rollouts begin."""

    def __init__(
        self,
        spec: ModelSpec,
        backend: Backend,
        books: Books,
        outbox: Outbox,
        lifecycle: Lifecycle,
        requests: Requests,
        rollouts: Rollouts,
        openings: Openings,
        loading: Loading,
    ) -> None:
        self._spec = spec
        self._backend = backend
        self._books = books
        self._table = books.table
        self._outbox = outbox
        self._lifecycle = lifecycle
        self._requests = requests
        self._rollouts = rollouts
        self._openings = openings
        self._loading = loading
        self._moved = Requests(books.table.tombstone_seconds)  # apart: what others ask for cannot drive snapshots out
        self._waiting: list[_Waiting] = []

    @property
    def waiting(self) -> bool:
        """Tells whether some wait for their step."""
        return len(self._waiting) > 0

    def handle(self, door: int, command: Copying | Import, now: float, report: TurnReport) -> None:
        """Carries the command out, or lets it wait for its step; its reply lies in the outbox afterwards, or will in a later
        turn."""
        try:
            if isinstance(command, Import):
                self._import(door, command, now, report)
            else:
                self._take(door, command, now, report)
        except StepStreamError as error:
            self._refuse(door, command, error, now, report)

    def _reply(self, door: int, command: Copying | Import, value: Value) -> None:
        self._outbox.reply(door, Reply(command.request, value))

    def _refuse(self, door: int, command: Copying | Import, error: StepStreamError, now: float, report: TurnReport) -> None:
        """Says why the command is not carried out. A fork may be a repeat from a former life, of which the store knows."""
        if isinstance(command, Fork) and command.request_id and error.reason in _PASSED:
            self._fork_again(door, command, error, now, report)
        else:
            self._reply(door, command, error)

    def leave(self, gone: Callable[[int], bool]) -> None:
        """Forgets rollouts that have not begun, of callers that have left, told by their engine-wide numbers."""
        self._drop(
            [
                each
                for each in self._waiting
                if isinstance(each.command, Generate) and gone(global_stream(each.door, each.command.stream))
            ]
        )

    def _drop(self, waiting: list[_Waiting]) -> None:
        """They wait no longer."""
        if waiting:
            self._go_on()
            self._waiting = [each for each in self._waiting if each not in waiting]
            for each in self._waiting:
                self._stop(each)

    def take_over(self, sessions: Ints) -> None:
        """Streams have taken the sessions over: refuses rollouts that commit to them and have not begun."""
        alive = self._table.alive
        taken = [
            each for each in self._waiting if each.commits and each.session in sessions and alive(each.session, each.generation)
        ]
        for each in taken:
            error = CallerError(Reason.SESSION_IN_USE, TAKEN_OVER, expected_seq=int(self._table.next_seq[each.session]))
            self._outbox.reply(each.door, Reply(each.command.request, error))
        self._drop(taken)

    def carry_out(self, now: float, report: TurnReport) -> None:
        """Answers whoever waited for a step that has been applied now, or that will not be."""
        if not self._waiting:
            return
        self._waiting = sorted(self._waiting, key=self._at_seq)  # an export may end its session
        self._go_on()
        self._waiting = [each for each in self._waiting if not self._answer(each, now, report)]

    def _answer(self, waiting: _Waiting, now: float, report: TurnReport) -> bool:
        """Carries a command out that has waited, or lets it wait on; tells whether it was carried out, or refused."""
        try:
            done = self._taken_before(waiting.door, waiting.command, now) or self._when_there(waiting, now, report)
        except StepStreamError as error:
            self._refuse(waiting.door, waiting.command, error, now, report)
            return True
        if not done:
            self._stop(waiting)
        return done

    def _take(self, door: int, command: Copying, now: float, report: TurnReport) -> None:
        """Carries a command out, or lets it wait. Raises StepStreamError."""
        self._table.refuse_if_barred(command.id)
        if self._taken_before(door, command, now):
            return
        if isinstance(command, Generate) and not command.id:
            if command.at_seq not in (NO_SEQ, 0):
                raise _not_next(0, command.at_seq)
            self._reply(door, command, self._rollouts.begin(door, command, None, now, report))
            return
        always = not isinstance(command, Generate) and command.needs_secret
        session = self._table.claim(command.id, command.secret, always=always)
        admitted = int(self._table.admitted[session])
        if isinstance(command, Generate) and command.at_seq not in (NO_SEQ, admitted):
            if not self._rollouts.may_begin_at(command, session):
                raise _not_next(admitted, command.at_seq)
            self._reply(door, command, self._rollouts.begin(door, command, session, now, report))
            return
        at_seq = admitted if command.at_seq == NO_SEQ else command.at_seq
        generation, gone_back = int(self._table.generation[session]), int(self._table.gone_back[session])
        waiting = _Waiting(door, command, session, generation, self._books.ever_queued, at_seq, gone_back)
        if not self._when_there(waiting, now, report):
            if len(self._waiting) >= _MOST_WAITING:
                raise CallerError(Reason.QUEUE_FULL, f"{_MOST_WAITING} copies wait for their steps already")
            self._waiting.append(waiting)
            self._stop(waiting)

    def _go_on(self) -> None:
        """Lets sessions go on for which somebody waits, until those are stopped who wait on."""
        for each in self._waiting:
            self._table.stop_at[each.session] = NEVER

    def _stop(self, waiting: _Waiting) -> None:
        """Lets a session go no further than to the step that is waited for."""
        stops = self._table.stop_at
        stops[waiting.session] = min(int(stops[waiting.session]), self._at_seq(waiting))

    def _at_seq(self, waiting: _Waiting) -> int:
        """The number that a command waits for. One that names none is taken behind what was pending when it came, as far as that
        has not failed since."""
        if not waiting.numbered and waiting.gone_back != self._table.gone_back[waiting.session]:
            self._look_again(waiting.session)
        return waiting.at_seq

    def _look_again(self, session: int) -> None:
        """Finds the number anew for all who wait for a place in a session that has gone back."""
        waiting = [each for each in self._waiting if each.session == session and not each.numbered]
        waiting.sort(key=lambda each: each.place)
        places = np.array([each.place for each in waiting], np.int64)
        gone_back = int(self._table.gone_back[session])
        for each, at_seq in zip(waiting, self._books.reached_by(session, places).tolist(), strict=True):
            each.at_seq, each.gone_back = at_seq, gone_back

    def _when_there(self, waiting: _Waiting, now: float, report: TurnReport) -> bool:
        """Carries the command out if its session stands where it is wanted; False if it will stand there. Raises
        StepStreamError."""
        table, session, at_seq = self._table, waiting.session, self._at_seq(waiting)
        if not table.alive(session, waiting.generation):
            table.find(waiting.command.id)  # raises how it has ended, unless another one has its id by now
            raise CallerError(Reason.SESSION_CLOSED, f"session {plain(waiting.command.id)!r} was closed", field="id")
        next_seq, admitted = int(table.next_seq[session]), int(table.admitted[session])
        if at_seq <= next_seq and table.quarantined(np.array([session])).all():
            raise CallerError(
                Reason.SESSION_QUARANTINED, f"session {plain(waiting.command.id)!r} is quarantined: reset or close it"
            )
        if at_seq > admitted and isinstance(waiting.command, Generate):
            raise _not_next(admitted, at_seq)  # what was pending before it has failed
        if at_seq < next_seq:
            message = f"at_seq: expected {next_seq} or more, which are applied already, got {at_seq}"
            raise CallerError(Reason.SEQUENCE_PASSED, message, field="at_seq", expected_seq=next_seq)
        if at_seq > admitted:
            message = f"at_seq: expected at most {admitted}, as many as are admitted, got {at_seq}"
            raise CallerError(Reason.SEQUENCE_MISMATCH, message, field="at_seq", expected_seq=admitted)
        if at_seq > next_seq:
            return False
        door = waiting.door
        match waiting.command:
            case Export():
                self._export(door, waiting.command, session, now, report)
            case Fork():
                self._fork(door, waiting.command, session, now, report)
            case Generate():
                self._reply(door, waiting.command, self._rollouts.begin(door, waiting.command, session, now, report))
        return True

    def _taken_before(self, door: int, command: Copying, now: float) -> bool:
        """Answers a command that repeats a former request of its id; False if there was none. Raises CallerError."""
        before: Value = None
        if isinstance(command, Export):
            before = self._moved.snapshot(command.request_id, _what(command), now)
        elif isinstance(command, Fork):
            before = self._forked_before(command, now)
        if before is not None:
            self._reply(door, command, before)
        return before is not None

    # Forks -----------------------------------------------------------------------------------------------------------

    def _fork(self, door: int, command: Fork, session: int, now: float, report: TurnReport) -> None:
        """Forks of a durable session are durable. Raises StepStreamError."""
        table = self._table
        next_seq, durable = int(table.next_seq[session]), bool(table.durable[session])
        if durable:
            self._openings.refuse_if_behind(now)
        created = self._lifecycle.create(command.ids, float(table.idle_ttl[session]), now, report)
        forks = np.array([each for each in created if isinstance(each, int)], np.int64)
        self._backend.copy(np.repeat(table.slot[session], len(forks)), table.slot[forks])
        table.bitwise[forks] = table.bitwise[session]
        for fork in forks.tolist():
            self._books.begin_at(fork, next_seq, acked=next_seq, kept=0)
        self._open_forks(command, created, partial(self._forked, door, command, next_seq), now, report, durable=durable)

    def _fork_again(self, door: int, command: Fork, error: StepStreamError, now: float, report: TurnReport) -> None:
        """Asks the store for the forks that the request has made before the original went on; there may be none."""

        def then(results: Results, now: float, report: TurnReport) -> None:
            if all(each is error for each in results):
                self._reply(door, command, error)
            else:
                self._forked(door, command, 0, results, now, report)

        self._open_forks(command, [error] * len(command.ids), then, now, report, durable=True)

    def _open_forks(
        self,
        command: Fork,
        created: Sequence[int | StepStreamError],
        then: Then,
        now: float,
        report: TurnReport,
        *,
        durable: bool,
    ) -> None:
        places = range(len(command.ids))
        opening = Opening(command.ids, list(created), places, command.request_id, _what(command), Origin.FORKED, then)
        self._openings.open(opening, now, report, durable=durable)

    def _forked(self, door: int, command: Fork, next_seq: int, results: Results, now: float, report: TurnReport) -> None:
        """The forks are open, as far as there are any; these stand alike."""
        made = [self._lifecycle.made(each) if isinstance(each, int) else None for each in results]
        self._requests.remember(command.request_id, _what(command), made, now)
        alive = [each for each in results if isinstance(each, int)]
        next_seq = int(self._table.next_seq[alive[0]]) if alive else next_seq
        self._reply(door, command, Forked(next_seq, self._lifecycle.describe(results, with_secret=True)))

    def _forked_before(self, command: Fork, now: float) -> Forked | None:
        """The forks that a former request of the same id has made, if any. Raises CallerError.

        Those that it could not make are not made now: the original has moved on since, and forks of one request stand alike.
        """
        made = self._requests.made(command.request_id, _what(command), len(command.ids), now)
        if not any(made):
            return None
        lost = CallerError(Reason.SESSION_CAPACITY, "the request that this one repeats could not make this fork")
        results: list[int | StepStreamError] = [lost] * len(made)
        for place, one in enumerate(made):
            if one is not None:
                results[place] = self._lifecycle.again(one)
        alive = [each for each in results if isinstance(each, int)]
        return Forked(int(self._table.next_seq[alive[0]]) if alive else 0, self._lifecycle.describe(results, with_secret=True))

    # Snapshots -------------------------------------------------------------------------------------------------------

    def _export(self, door: int, command: Export, session: int, now: float, report: TurnReport) -> None:
        """Raises CallerError. A session that moves has ended in the store before anybody has its snapshot: it lives once."""
        snapshot = self._snapshot(session)
        if snapshot.bytes > command.most_bytes:
            message = f"snapshot: expected at most {command.most_bytes} bytes, got {snapshot.bytes}; acknowledge answers first"
            raise CallerError(Reason.BLOCK_TOO_LARGE, message, field="snapshot")
        if command.close:
            if session not in self._table.replaced:  # a stream may have attached it while the command waited
                self._table.claim(command.id, command.secret)
            self._moved.remember(command.request_id, _what(command), [], now, snapshot)

            def tell(error: StepStreamError | None, _now: float, _report: TurnReport) -> None:
                self._reply(door, command, error or snapshot)

            self._lifecycle.end(np.array([session]), Ending.MOVED, now, report, tell=tell)
        else:
            self._reply(door, command, snapshot)

    def _snapshot(self, session: int) -> Snapshot:
        table = self._table
        acked, next_seq = int(table.acked[session]), int(table.next_seq[session])
        places = self._books.cache.find(session, acked, next_seq - acked)
        held = places != NONE
        kept = self._books.cache.get(places[held])
        states = self._backend.read(table.slot[[session]])
        return Snapshot(
            model=self._spec.name,
            version=self._spec.version,
            fingerprint=self._spec.fingerprint,
            numerics=self._backend.numerics,
            id=plain(table.id(session)),
            next_seq=next_seq,
            acked=acked,
            epoch=0,
            idle_ttl=float(table.idle_ttl[session]),
            states={name: values.reshape(values.shape[1:]) for name, values in states.items()},
            held=held,
            outputs={output.name: values for output, values in zip(self._spec.outputs, kept, strict=True)},
        )

    def _import(self, door: int, command: Import, now: float, report: TurnReport) -> None:
        """Raises StepStreamError, and has then changed nothing."""
        snapshot, what = command.snapshot, _what(command)
        durable = self._openings.durable(command.durable)
        (made,) = self._requests.made(command.request_id, what, 1, now)
        if made is None:
            if durable:
                self._openings.refuse_if_behind(now)
            self._loading.check(snapshot)
        ids, idle_ttl = [command.id or snapshot.id], snapshot.idle_ttl or None
        results = [self._lifecycle.again(made)] if made else self._lifecycle.create(ids, idle_ttl, now, report)
        if made is None and isinstance(results[0], int):
            self._loading.begin(np.array(results), [snapshot])
        places = [] if made else [0]
        then = partial(self._imported, door, command)
        opening = Opening(ids, results, places, command.request_id, what, Origin.IMPORTED, then)
        self._openings.open(opening, now, report, durable=durable)

    def _imported(self, door: int, command: Import, results: Results, now: float, _report: TurnReport) -> None:
        (found,) = results
        if isinstance(found, int):
            self._requests.remember(command.request_id, _what(command), [self._lifecycle.made(found)], now)
        (opened,) = self._lifecycle.describe(results, with_secret=True)
        bitwise = self._loading.bitwise(command.snapshot)
        self._reply(door, command, opened if isinstance(opened, StepStreamError) else Imported(opened, bitwise))


def _not_next(admitted: int, at_seq: int) -> CallerError:
    """A rollout cannot begin there."""
    message = f"seq: expected {admitted}, the next number, got {at_seq}"
    return CallerError(Reason.SEQUENCE_MISMATCH, message, field="seq", expected_seq=admitted)


def _what(command: Fork | Export | Import) -> tuple[str | int | bytes, ...]:
    """Says what a request id stands for, so that it cannot come to stand for something else, or for somebody else's: only whoever
    has shown the same secret repeats it. Its hash is compared, of which the time that takes tells nothing."""
    if isinstance(command, Import):
        return ("import", command.id or command.snapshot.id, command.snapshot.digest)
    shown = hashlib.sha256(command.secret).digest()
    if isinstance(command, Fork):
        return ("fork", command.id, shown, command.at_seq, *command.ids)
    return ("export", command.id, shown, command.at_seq, command.close)
