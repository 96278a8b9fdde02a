"""Restoring: a session that is data goes on here, from a snapshot that somebody imports or from the store's record."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from stepstream_server.config import EngineSettings
from stepstream_server.engine.books import Books
from stepstream_server.engine.books.status import Event
from stepstream_server.engine.ports import Backend, Ending, Ints, Record, Tensor, TurnReport
from stepstream_server.engine.sessions.finding import Stored
from stepstream_server.engine.sessions.lifecycle import Kept, Lifecycle, count_refused
from stepstream_server.errors import CallerError, Reason, StepStreamError
from stepstream_server.snapshots import Snapshot, corrupt
from stepstream_server.spec import ModelSpec

_FOR_NOW = (Reason.SESSION_CAPACITY, Reason.QUEUE_FULL)  # why a session is not restored now, and may be later


class Loading:
    """Puts snapshots into sessions."""

    def __init__(self, spec: ModelSpec, backend: Backend, books: Books) -> None:
        self._spec = spec
        self._backend = backend
        self._books = books

    def bitwise(self, snapshot: Snapshot) -> bool:
        """Tells whether outputs will be bitwise those that the session would have had where the snapshot was taken."""
        return snapshot.numerics == self._backend.numerics

    def begin(self, sessions: Ints, snapshots: Sequence[Snapshot]) -> None:
        """Puts snapshots that were checked into sessions that were just opened: [n] of both. Their states are written at once."""
        if not len(sessions):
            return
        table, books = self._books.table, self._books
        states = {each.name: np.stack([snapshot.states[each.name] for snapshot in snapshots]) for each in self._spec.states}
        self._backend.write(table.slot[sessions], states)
        for session, snapshot in zip(sessions.tolist(), snapshots, strict=True):
            kept = [snapshot.outputs[output.name] for output in self._spec.outputs]
            books.expect_answers(1, max(1, len(snapshot.held)))
            books.cache.keep(session, snapshot.acked + np.flatnonzero(snapshot.held), kept)
            books.begin_at(session, snapshot.next_seq, snapshot.acked, int(snapshot.held.sum()))
        table.bitwise[sessions] = [self.bitwise(snapshot) for snapshot in snapshots]

    def check(self, snapshot: Snapshot) -> None:
        """Raises CallerError for a snapshot that no session of this model can have been."""
        if snapshot.fingerprint != self._spec.fingerprint:
            message = (
                f"snapshot: expected the fingerprint {self._spec.fingerprint} of the model served, got {snapshot.fingerprint}"
            )
            raise CallerError(Reason.MODEL_MISMATCH, message, field="snapshot")
        steps, kept = len(snapshot.held), int(snapshot.held.sum())
        most, most_kept = int(self._books.counters.window_steps[0]), int(self._books.counters.window_kept[0])
        if steps > most or kept > most_kept:
            message = f"snapshot: expected at most {most} unacknowledged steps, {most_kept} with outputs, got {steps} and {kept}"
            raise CallerError(Reason.WINDOW_FULL, message, field="snapshot")
        if kept and self._books.cache_is_full:
            raise CallerError(Reason.QUEUE_FULL, "snapshot: the server has no room for its unacknowledged answers now")
        self._check_tensors(snapshot, kept)

    def _check_tensors(self, snapshot: Snapshot, kept: int) -> None:
        expected = {f"state {each.name}": ((*each.shape,), each.dtype) for each in self._spec.states}
        expected |= {f"outputs {each.name}": ((kept, *each.shape), each.dtype) for each in self._spec.outputs}
        actual = {f"state {name}": values for name, values in snapshot.states.items()}
        actual |= {f"outputs {name}": values for name, values in snapshot.outputs.items()}
        if expected.keys() != actual.keys():
            raise corrupt(f"expected {', '.join(expected)}, got {', '.join(actual)}")
        for name, (shape, dtype) in expected.items():
            values = actual[name]
            if values.shape != shape or values.dtype != dtype:
                raise corrupt(f"{name}: expected {dtype} {list(shape)}, got {values.dtype} {list(values.shape)}")
            if values.dtype == np.float32 and not np.isfinite(values).all():
                raise corrupt(f"{name}: expected finite numbers")
        largest = self._spec.largest_state
        for name, values in snapshot.states.items():
            if values.dtype == np.float32 and (np.abs(values) > largest).any():
                raise corrupt(f"state {name}: expected numbers from {-largest:g} to {largest:g}, got {np.abs(values).max():g}")


class Restoring:
    """Restores sessions from the store."""

    def __init__(
        self,
        settings: EngineSettings,
        backend: Backend,
        books: Books,
        lifecycle: Lifecycle,
        loading: Loading,
        kept: Kept,
        take_up: Callable[[int, Tensor], None],
        wall_clock: Callable[[], float],
    ) -> None:
        """take_up: is given what a restored session has drawn last. wall_clock: unix seconds."""
        self._lifetime = settings.max_lifetime_seconds or float("inf")
        self._backend = backend
        self._books = books
        self._table = books.table
        self._lifecycle = lifecycle
        self._loading = loading
        self._endings = kept.endings
        self._writing = kept.writing
        self._take_up = take_up
        self._wall_clock = wall_clock

    def restore(self, found: Mapping[str, Stored], now: float, report: TurnReport) -> dict[str, int | StepStreamError | None]:
        """Restores what the store has under keys, many sessions at once. Returns the number of each, or why it cannot be had, or
        None where there is none; how sessions have ended is in the table then.

        What is open or has ended here in the meantime is as it is here.
        """
        results: dict[str, int | StepStreamError | None] = {}
        fit: list[Record] = []
        room = self._lifecycle.room()
        for key, what in found.items():
            if key in self._table:
                results[key] = self._table.find(key)
            elif self._table.ending(key) is None:
                try:
                    if isinstance(record := self._look(key, what, now), Record):
                        room.refuse_if_full(key)
                        room.take(key)
                        fit.append(record)
                except StepStreamError as error:
                    results[key] = error
                    _count(error.reason, report)
            results.setdefault(key, None)
        for record, session in zip(fit, self._open(fit, now).tolist(), strict=True):
            results[record.key] = session
        report.restored += len(fit)
        return results

    def _look(self, key: str, what: Stored, now: float) -> Record | None:
        """The record, if the session can go on; remembers the ending of one that has none. Raises StepStreamError."""
        if isinstance(what, StepStreamError):
            raise what
        if isinstance(what, Ending):
            self._table.remember_ending(key, what, now)
            return None
        if what is None:
            return None
        head, unix = what.head, self._wall_clock()
        if unix >= min(head["used_at"] + head["idle_ttl"], head["opened_at"] + self._lifetime):
            self._endings.expire([key], now)
            return None
        self._loading.check(what.snapshot)
        return what

    def _open(self, records: Sequence[Record], now: float) -> Ints:
        """Opens a session for each, where and as it was."""
        if not records:
            return np.zeros(0, np.int64)
        heads = np.array([record.head for record in records], records[0].head.dtype)
        here = now - self._wall_clock()  # added to unix seconds, it gives monotonic ones
        lifetimes = heads["opened_at"] + here + self._lifetime - now
        slots = self._backend.allocate(len(records))
        sessions = self._table.open([record.key for record in records], slots, now, heads["idle_ttl"].copy(), lifetimes)
        self._loading.begin(sessions, [record.snapshot for record in records])
        opened_at, used_at = (np.minimum(heads[name] + here, now) for name in ("opened_at", "used_at"))
        digests = np.frombuffer(b"".join(record.secret for record in records), np.uint8).reshape(len(records), -1)
        self._table.opened_unix[sessions] = heads["opened_at"]
        self._table.take_up(sessions, opened_at, used_at, digests, heads["epoch"] + 1)
        for session, record in zip(sessions.tolist(), records, strict=True):
            self._books.rolled_before(session, int(record.head["rolled_from"]), int(record.head["rolled_to"]))
            if record.head["quarantined"]:
                self._table.move(session, Event.STEP_FAILED)
            if record.drawn is not None:
                self._take_up(session, record.drawn)
        self._writing.adopt(sessions)
        return sessions


def _count(reason: Reason, report: TurnReport) -> None:
    """A session could not be restored: there is no room for it now, or nobody can read it."""
    if reason in _FOR_NOW:
        count_refused(reason, report)
    else:
        report.lost[reason] = report.lost.get(reason, 0) + 1
