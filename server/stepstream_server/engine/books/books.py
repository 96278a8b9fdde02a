"""All books of one engine together, and whether they agree with each other."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import numpy as np

from stepstream_server.config import EngineSettings
from stepstream_server.engine.books import dirty, ledger, queue, resolution
from stepstream_server.engine.books.answer_cache import AnswerCache, count_held, pages_used
from stepstream_server.engine.books.queue import Queue
from stepstream_server.engine.books.records import COUNTERS, ENDED, IN_FLIGHT, NEVER, NONE, TOLD, WAITING, Arrays, Records
from stepstream_server.engine.books.session_table import Last, SessionTable
from stepstream_server.engine.books.status import Status
from stepstream_server.engine.ports import Floats, Ints, Keep, Kind, Tensor
from stepstream_server.spec import ModelSpec

_LEAST_ENDED = 4096  # rows that may end their sessions before somebody takes note


class Books:
    """Sessions, queue and kept answers. `records` is what compiled rules are given."""

    def __init__(self, spec: ModelSpec, settings: EngineSettings) -> None:
        self.table = SessionTable(settings.capacity, settings.tombstone_seconds)
        self.queue = Queue(spec.inputs)
        self.cache = AnswerCache(spec.outputs, settings.capacity, settings.window_steps)
        self._counters = np.zeros(1, COUNTERS)
        # Its fields, each an array of one: numpy reads them in a tenth of the time that a field of a record takes.
        self.counters: Any = SimpleNamespace(**{name: self._counters[name] for name in COUNTERS.names or ()})
        self.counters.window_steps[0] = settings.window_steps
        self.counters.window_kept[0] = self.cache.steps_within(settings.window_bytes)
        self.counters.most_pending[0] = settings.max_pending_steps
        self.counters.most_pages[0] = -(-settings.cache_bytes // self.cache.page_bytes)
        self.counters.every_steps[0] = NEVER
        self.counters.first[0] = self.counters.last[0] = self.counters.free[0] = NONE
        self._told = np.zeros(resolution.TOLD_PER_TURN, TOLD)
        self._told_steps = np.zeros(resolution.TOLD_STEPS, np.int64)
        self._dirty = np.zeros(settings.capacity, np.int64)
        self._ended = np.zeros(max(_LEAST_ENDED, settings.max_batch + resolution.TOLD_PER_TURN), ENDED)
        self._gather()

    def begin_turn(self) -> None:
        """Nothing has been told in this turn."""
        self.counters.turn[0] += 1
        self.counters.round[0] += 1
        self.counters.told_quota[0] = resolution.TOLD_PER_TURN

    def take_in(self, rows: int, content: tuple[Tensor, ...] | str) -> int:
        """Has room for so many arriving rows, and keeps what they wait with: inputs, or the text of their refusal.

        Returns the number of the intake.
        """
        if self.queue.make_room(rows, self.counters):
            self._gather()
        return self.queue.hold(content)

    def expect_answers(self, rows: int, length: int) -> None:
        """Has room for the answers of so many rows of consecutive steps."""
        if self.cache.make_room(rows, length):
            self._gather()

    @property
    def draining(self) -> bool:
        """Tells whether nothing new is taken, because the server is about to stop."""
        return bool(self.counters.draining[0])

    def drain(self) -> None:
        """From now on nothing new is taken."""
        self.counters.draining[0] = True

    @property
    def cache_is_full(self) -> bool:
        """Tells whether no more answers are kept until some have been acknowledged."""
        return bool(pages_used(self.cache.pages) >= self.counters.most_pages[0])

    @property
    def pending_steps(self) -> int:
        """Steps that wait to be computed, or are being computed."""
        return int(self.counters.pending[0])

    def pending_of(self, sessions: Ints) -> Any:
        """Mask [n]: True for sessions that have rows in the queue."""
        return self.table.head[sessions] != NONE

    def acknowledge(self, sessions: Ints, counts: Ints, now: float) -> None:
        """Lets go of sessions' answers below each count: [n] of both."""
        resolution.acknowledge_all(self.records, sessions, counts, now)

    def let_go_of_answers(self, sessions: Ints) -> None:
        """Lets go of all answers of sessions that end, and of which nothing is queued."""
        ledger.acknowledge_applied(self.records, sessions)

    def go_back(self, session: int, seq: int) -> None:
        """Nothing of a session is pending from `seq` on."""
        ledger.go_back(self.records, session, seq)

    @property
    def ever_queued(self) -> int:
        """The place of the newest row among all that were ever queued."""
        return int(self.counters.ever_queued[0])

    def reached_by(self, session: int, places: Ints) -> Ints:
        """How many steps a session has applied once all is applied that is pending in its rows up to each place: [n] of both,
        ascending. Walks the session's rows."""
        seqs = np.zeros(len(places), np.int64)
        ledger.reached_by(self.arrays, session, places, seqs)
        return seqs

    def drop_held(self, sessions: Ints) -> None:
        """Removes rows of sessions that came from the streams which hold them."""
        ledger.drop_held(self.records, sessions)

    def drop_streams(self, streams: Ints) -> None:
        """Removes all rows of these streams."""
        if len(streams) and self.counters.queued[0]:
            ledger.drop_streams(self.records, np.sort(streams))

    def queued_streams(self) -> list[int]:
        """Streams that have rows in the queue."""
        streams = np.zeros(self.counters.queued[0], np.int64)
        ledger.collect_streams(self.records, streams)
        return [int(stream) for stream in np.unique(streams)]

    def take_out(self, session: int) -> Any:
        """Removes all rows of a session that ends, and returns them: [n] of QUEUED."""
        numbers = np.zeros(self.counters.queued[0], np.int64)
        count = ledger.take_out(self.records, session, numbers)
        return self.queue.rows[numbers[:count]]

    def begin_at(self, session: int, next_seq: int, acked: int, kept: int) -> None:
        """A session that was just opened goes on where another one stood."""
        ledger.begin_at(self.table.sessions[session], next_seq, acked, kept)

    def rolled_before(self, session: int, rolled_from: int, rolled_to: int) -> None:
        """The numbers, [from, to), that rollouts had taken last where a session goes on."""
        ledger.rolled_before(self.table.sessions[session], rolled_from, rolled_to)

    def move_on(self, sessions: Ints, steps: int, now: float) -> None:
        """So many steps that no row asked for were applied to sessions of which nothing is pending."""
        ledger.move_on_all(self.records, sessions, steps, now)

    @property
    def dirty(self) -> Ints:
        """Sessions of which the store does not have all, those first that have been so for longest: a view, until some are."""
        return self._dirty[: self.counters.dirty.item(0)]

    def mark_dirty(self, sessions: Ints, now: float) -> None:
        """Something of distinct sessions has changed that the store is to have of those that are durable."""
        dirty.mark_all(self.records, sessions, now)

    def mark_dirty_since(self, sessions: Ints, since: Floats, now: float) -> None:
        """The store has not taken distinct durable sessions, of which it does not have all since: monotonic seconds, [n]."""
        self.mark_dirty(sessions, now)
        dirty_at = self.table.sessions["dirty_at"]
        dirty_at[sessions] = since
        self.dirty[:] = self.dirty[np.argsort(dirty_at[self.dirty], kind="stable")]

    def make_clean(self, sessions: Ints) -> None:
        """The store is told of these sessions, or never will be: they are dirty no more."""
        self.table.sessions["dirty"][sessions] = False
        left = self.dirty[self.table.sessions["dirty"][self.dirty]]
        self._dirty[: len(left)] = left
        self.counters.dirty[0] = len(left)

    def take_told(self) -> Any:
        """Outcomes that were resolved since the last call, in their order: [n] of TOLD."""
        told = self._told[: self.counters.told[0]]
        self.counters.told[0] = 0
        return told

    def take_told_outputs(self) -> list[Tensor]:
        """Outputs of the repeats among them, one behind the other: [sum of kept, *shape] of each."""
        places = self._told_steps[: self.counters.told_steps[0]]
        self.counters.told_steps[0] = 0
        return self.cache.get(places)

    def note_ended(self) -> None:
        """Writes down in the table which sessions end with this turn."""
        if not self.counters.ended[0]:
            return
        for session, begin, end, keep, cached in self._ended[: self.counters.ended[0]].tolist():
            self.table.over[session] = Last(begin, end, Keep(keep), cached)
        self.counters.ended[0] = 0

    def check(self) -> None:
        """Raises RuntimeError that names what does not agree, between two turns. Looks at everything, row by row: for tests."""
        _check(self)

    def _gather(self) -> None:
        """Some arrays are new ones."""
        self.records = Records(
            self.table.sessions,
            self.queue.rows,
            self._counters,
            self.cache.pages,
            self.queue.waiting,
            self.queue.emptied,
            self._told,
            self._told_steps,
            self._ended,
            self._dirty,
        )
        before, pages, behind = self.records[:3], self.cache.pages, self.records[4:]
        self.arrays: Arrays = (*before, *pages, *behind)


def _check(books: Books) -> None:
    table = books.table
    alive = np.flatnonzero(table.status != Status.FREE).tolist()
    _demand(len(alive) == len(table), "as many sessions are counted as there are")
    _demand(not table.over and not books.counters.told[0] and not books.counters.ended[0], "all that was to be told is told")
    rows = {session: _rows_of(books, session) for session in range(table.capacity)}
    _check_queue(books, rows)
    _check_pages(books, alive)
    for session in range(table.capacity):
        if session in alive:
            _check_counts(books, session, rows[session])
        else:
            _demand(not rows[session], f"session {session} has ended and nothing of it is queued")
    marked = np.flatnonzero(table.sessions["dirty"]).tolist()
    _demand(sorted(books.dirty.tolist()) == marked, "each session knows whether the store is to be told of it")
    since = table.sessions["dirty_at"][books.dirty]
    _demand(bool((np.diff(since) >= 0).all()), "those come first that have been dirty for longest")
    _demand(set(marked) <= set(np.flatnonzero(table.durable).tolist()) & set(alive), "only durable sessions are dirty")
    _demand(all(rows[session] for session in table.replaced), "a replaced session is there for what is pending of it")


def _check_queue(books: Books, rows: dict[int, list[Any]]) -> None:
    """Rows, the line of those that wait, intakes and what is counted of them."""
    records, counters = books.records, books.counters
    waiting, before, number = [], NONE, int(counters.first[0])
    while number != NONE:
        session = records.sessions[number]
        _demand(session["before"] == before, f"session {number} knows who stands before it")
        waiting.append(number)
        before, number = number, int(session["behind"])
    _demand(counters.last[0] == before, "the line ends where it is said to end")
    in_flight = set(np.flatnonzero(records.sessions["standing"] == IN_FLIGHT).tolist())
    busy = {session for session, mine in rows.items() if mine}
    _demand(sorted([*waiting, *in_flight]) == sorted(busy), "whoever has rows stands in the line, once, or is in flight")
    standing = np.flatnonzero(records.sessions["standing"] == WAITING).tolist()
    _demand(sorted(waiting) == standing, "each session knows whether it stands in the line")
    queued = [row for mine in rows.values() for row in mine]
    _demand(counters.queued[0] == len(queued), "as many rows are counted as are queued")
    pending = sum(row["length"] for row in queued if row["kind"] == Kind.APPLY)
    _demand(counters.pending[0] == pending, "as many steps are counted as are pending")
    repeats = Counter(int(row["session"]) for row in queued if row["kind"] == Kind.REPEAT)
    counted = {session: int(records.sessions[session]["repeats"]) for session in rows}
    _demand(counted == {session: repeats[session] for session in rows}, "as many repeats are counted as are queued")
    intakes = Counter(int(row["intake"]) for row in queued if row["intake"] != NONE)
    _demand(books.queue.intakes == len(intakes), "inputs are held for as long as a row waits with them")
    _demand(all(records.waiting[intake] == count for intake, count in intakes.items()), "each intake knows who waits with it")


def _check_pages(books: Books, alive: list[int]) -> None:
    """No page has two owners, and none is lost."""
    ring, _, free, counts = books.cache.pages
    owned = ring[ring > 0].tolist()
    both = sorted([*owned, *free[: counts["free"][0]].tolist()])
    _demand(both == list(range(1, int(counts["pages"][0]))), "each page has one owner or is free")
    _demand(set(np.flatnonzero(ring.any(axis=1)).tolist()) <= set(alive), "whoever holds pages is open")


def _check_counts(books: Books, session: int, rows: list[Any]) -> None:
    """The five counts of an open session."""
    record, pages = books.records.sessions[session], books.cache.pages
    acked, released, next_seq = (int(record[name]) for name in ("acked", "released", "next_seq"))
    pending = [row for row in rows if queue.is_pending(row)]
    point = next_seq
    for row in pending:
        _demand(row["first"] == point, f"session {session}: pending rows leave no gap before step {row['first']}")
        point += int(row["length"])
    _demand(record["admitted"] == point, f"session {session}: its admission point is behind what is pending")
    _demand(0 <= released <= acked <= next_seq, f"session {session}: released <= acked <= next_seq")
    _demand(released == acked or record["repeats"] > 0, f"session {session}: only a repeat keeps acknowledged answers")
    _demand(point - acked <= books.counters.window_steps[0], f"session {session}: no more is unacknowledged than the window")
    held = count_held(pages, session, acked, next_seq)
    _demand(record["kept"] == held + sum(map(ledger.to_keep, pending)), f"session {session}: kept is what is and will be held")
    page, ring = int(pages.counts["page"][0]), pages.ring.shape[1]
    wanted = {number % ring for number in range(released // page, -(-next_seq // page))} if next_seq > released else set()
    found = set(np.flatnonzero(pages.ring[session]).tolist())
    _demand(found <= wanted, f"session {session}: pages are held for unacknowledged answers only")


def _rows_of(books: Books, session: int) -> list[Any]:
    """The session's rows, in their order."""
    found, number = [], int(books.table.head[session])
    while number != NONE:
        found.append(books.queue.rows[number])
        number = int(books.queue.rows[number]["next"])
    _demand(not found or books.table.sessions[session]["tail"] >= 0, f"session {session}: its list has an end")
    return found


def _demand(agrees: bool, what: str) -> None:
    if not agrees:
        raise RuntimeError(f"the books do not agree that {what}")
