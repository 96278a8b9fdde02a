"""Rollouts: sessions, or copies of them, stepped on their own outputs.

Each path of a rollout is a row here, as each session is in the table: it has a slot and takes part in every turn, first with the
steps of its prompt, then with one draw after the other. What is drawn in a turn is fed in the same turn and told only then, so
that whatever was told is part of the state.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stepstream_server.config import EngineSettings
from stepstream_server.engine.books import Books
from stepstream_server.engine.books.records import CANDIDATE
from stepstream_server.engine.books.session_table import HOW_ENDED, REASON_OF_ENDING
from stepstream_server.engine.books.status import Event, Status
from stepstream_server.engine.durable.tails import Tail, Tails
from stepstream_server.engine.durable.withheld import LastPiece
from stepstream_server.engine.durable.writing import Writing
from stepstream_server.engine.outbox import Outbox, door_of, global_stream
from stepstream_server.engine.ports import (
    NO_SEQ,
    NO_STREAM,
    PIECE,
    TAKEN_AT_ONCE,
    Backend,
    Begun,
    Commit,
    Computed,
    Ending,
    Generate,
    Ints,
    RolloutEnding,
    Tensor,
    Took,
    TurnReport,
)
from stepstream_server.engine.rollouts.sampling import Draws, Stops
from stepstream_server.engine.rollouts.shares import Shares, first_in_turn
from stepstream_server.errors import CallerError, Reason
from stepstream_server.spec import ModelSpec
from stepstream_server.tenancy import plain, tenant_of

# Draws that a caller has been told and has not taken; then it pauses. Eight times what a caller takes before it says so: some
# kilobytes, and enough that a rollout does not wait for a reader who keeps up.
MOST_AHEAD = 8 * TAKEN_AT_ONCE
TAKEN_OVER = "a stream has taken the session over, with the proof that it is its caller's: rollouts that commit to it have ended"
_RETRY_SECONDS = 0.1  # rollouts end all the time
_NOBODY = -1  # a row whose steps are no session's
_FAULTS = {
    Reason.NON_FINITE_STATE: "a step of the rollout would make state or outputs non-finite",
    Reason.MODEL_FAILED: "the model raised an error at a step of the rollout",
}
NOBODY_WAITS = np.zeros(0, CANDIDATE)


class Rollout:
    """One under way."""

    __slots__ = (
        "commit",
        "drawn",
        "generation",
        "outputs",
        "rows",
        "session",
        "start",
        "stops",
        "stream",
        "tail",
        "told",
        "wanted",
    )

    def __init__(
        self, wanted: Generate, commit: Commit, stream: int, rows: Ints, session: int, generation: int, start: int
    ) -> None:
        self.wanted = wanted
        self.commit = commit
        self.stream = stream  # engine-wide
        self.rows = rows  # one per path
        self.session, self.generation = session, generation  # to commit to; _NOBODY: to none
        self.start = start  # number of its first step
        self.told = start + wanted.prompt_steps  # number of the first draw that has not been told
        self.stops = Stops(wanted.stop)
        self.drawn: list[Tensor] = []  # from `told` on: each [*shape], or [levels, *shape] over paths
        self.tail: Tail | None = None  # of a durable session that it commits to
        self.outputs: list[tuple[Tensor, ...]] = []  # beside it, if they are wanted: each [*shape]

    @property
    def tenant(self) -> str:
        """Of its caller."""
        return tenant_of(self.wanted.client)

    @property
    def plain(self) -> bool:
        """Tells whether every draw is told as it is."""
        return not (self.wanted.stop or self.wanted.outputs or len(self.rows) > 1)


class Rollouts:
    """The rollouts of one model, and the rows that are their paths."""

    def __init__(
        self,
        spec: ModelSpec,
        settings: EngineSettings,
        backend: Backend,
        books: Books,
        outbox: Outbox,
        tails: Tails,
        writing: Writing | None = None,
    ) -> None:
        """tails, writing: of durable sessions; None: there are none."""
        self._backend = backend
        self._books = books
        self._table = books.table
        self._outbox, self._pieces = outbox, outbox.pieces
        self._tails, self._writing = tails, writing
        self._unread_seconds, self._window_steps = settings.rollout_unread_seconds, settings.window_steps
        head = spec.rollout_head
        most = settings.max_rollout_paths if head else 0
        self._head = spec.heads.index(head) if head else 0  # which output is fed back
        self._last_state = f"last.{head.name}" if head else ""
        self._initial = {state.name: state.initial_value for state in spec.states}
        self._draws = Draws(head or spec.heads[0], most, spec.inputs[0].range)
        self._drawn = np.zeros((most, *spec.inputs[0].shape), spec.inputs[0].dtype)  # what each row is fed next, or was last
        self._by_stream: dict[int, Rollout] = {}
        self._of_row: dict[int, Rollout] = {}
        self._free = list(range(most - 1, -1, -1))
        self._paths, self._prompts = Shares(most), Shares(settings.max_pending_steps)  # rows, and steps of prompts that wait
        self._of_tenant: Counter[str] = Counter()  # rollouts
        self.limits: Mapping[str, int] = {}  # rollouts that a tenant may have at once, of those that have a limit
        self._active = np.zeros(0, np.int64)  # rows of all rollouts
        self._used = np.zeros(most, np.bool_)  # whether it is one of them
        self._slot = np.zeros(most, np.int64)
        self._stream = np.zeros(most, np.int64)
        self._session = np.zeros(most, np.int64)  # whose numbers move with every step, or _NOBODY
        self._commits_to = np.zeros(most, np.int64)  # that session, or the one whose numbers move in the end, or _NOBODY
        self._generation = np.zeros(most, np.int64)  # of the session that it commits to
        self._seq = np.zeros(most, np.int64)  # number of the next step
        self._left = np.zeros(most, np.int64)  # draws
        self._prompt_left = np.zeros(most, np.int64)  # steps of the prompt that have not run
        self._prompting = np.zeros(most, np.bool_)  # whether this turn's steps are, or may be, the prompt's
        self._due = np.zeros(most, np.bool_)  # whether it takes part in the next turn
        self._leads = np.zeros(most, np.bool_)  # whether it is its rollout's first path
        self._plain, self._tailed = np.zeros((2, most), np.bool_)  # the latter: whether its draws are kept to be told again
        self._ahead = np.zeros(most, np.int64)  # draws told and not taken
        self._paused_at = np.full(most, np.inf)  # monotonic seconds since which nothing was taken, of those that have paused
        self._served = np.zeros(most, np.int64)  # the last launch of several steps
        self._round = np.zeros(most, np.int64)  # in which it was last stepped
        self._tenant, self._client = np.zeros((2, most), np.int64)  # whose it is; equal numbers for equal names of clients
        self._stepped_in = np.zeros(most, np.int64)  # the last launch of any
        self._in_flight = np.zeros(most, np.bool_)
        self._arrival = np.zeros(most)  # monotonic seconds
        self._drew_at = np.zeros(most)  # monotonic seconds of the last draw; nan: there was none; inf: it has paused since
        self._launches = 0
        self._single_round = -1  # the last in which some took part that wait for one step
        self.slots = 0  # that rollouts hold, beside those of sessions; counted, since other threads read it
        # Of the launch that settles:
        self._ended: list[tuple[Rollout, RolloutEnding]] = []
        self._stepped: dict[Rollout, None] = {}  # of several paths, in order

    def __len__(self) -> int:
        return len(self._by_stream)

    @property
    def prompted(self) -> int:
        """Steps of prompts that wait."""
        return self._prompts.total - self._prompts.free

    @property
    def next_deadline(self) -> float:
        """Monotonic seconds at which a rollout ends that is not read by then; inf if none has paused."""
        return float(self._paused_at[self._active].min()) + self._unread_seconds if len(self._active) else np.inf

    @property
    def busy(self) -> bool:
        """Tells whether a row could take part in the next launch."""
        rows = self._active
        return bool((self._due[rows] & (self._ahead[rows] < MOST_AHEAD)).any()) if len(rows) else False

    def by_tenant(self) -> Counter[str]:
        """Counts the rollouts of each tenant that has some."""
        return self._of_tenant.copy()

    # Begin and leave ---------------------------------------------------------------------------------------------------

    def begin(self, door: int, wanted: Generate, session: int | None, now: float, report: TurnReport) -> Begun:
        """Lets a rollout begin where the session stands, of which nothing before that is pending, or at the initial state. If
        it is to begin before that, what was drawn since is told first.

        Raises CallerError, and has then changed nothing, but that `at_seq` may have acknowledged answers.
        """
        commit = Commit.NONE if session is None else wanted.commit
        last, again = self._check(wanted, session, commit, now), self._to_tell_again(wanted, session)
        rows = np.array([self._free.pop() for _ in range(wanted.paths)], np.int64)
        start = 0 if session is None else int(self._table.next_seq[session])
        committed, generation = _NOBODY, 0
        if session is not None and commit is not Commit.NONE:
            committed, generation = session, int(self._table.generation[session])
            self._table.move(session, Event.ROLLOUT_BEGAN)
            self._books.go_back(session, start)  # what was sent behind the call
        rollout = Rollout(wanted, commit, global_stream(door, wanted.stream), rows, committed, generation, start)
        self._slot[rows] = self._slots(commit, session, len(rows))
        self.slots += len(rows) if commit is not Commit.EACH else 0
        self._by_stream[rollout.stream] = rollout
        self._of_row.update(dict.fromkeys(rows.tolist(), rollout))
        self._draws.begin(rows, wanted)
        self._draws.last[rows] = last
        self._stream[rows] = rollout.stream
        self._session[rows] = committed if commit is Commit.EACH else _NOBODY
        self._commits_to[rows], self._generation[rows] = committed, generation
        self._seq[rows], self._left[rows] = start, wanted.max_steps - len(again)
        self._prompt_left[rows], self._prompting[rows], self._due[rows] = 0, False, not wanted.prompt
        self._prompt_left[rows[0]], self._prompting[rows[0]], self._due[rows[0]] = wanted.prompt_steps, bool(wanted.prompt), True
        self._leads[rows] = rows == rows[0]
        self._plain[rows], self._ahead[rows], self._served[rows] = rollout.plain, 0, 0
        self._round[rows], self._in_flight[rows], self._stepped_in[rows] = 0, False, self._launches
        self._arrival[rows], self._drew_at[rows] = wanted.arrival, np.nan
        self._paused_at[rows] = np.inf
        self._tenant[rows], self._client[rows] = self._table.tenants.number(rollout.tenant), hash(wanted.client)
        self._paths.take(wanted.client, len(rows))
        self._prompts.take(wanted.client, wanted.prompt_steps)
        self._of_tenant[rollout.tenant] += 1
        self._used[rows] = True
        self._active = np.concatenate([self._active, rows])
        self._begin_tail(rollout, again)
        if again:
            self._tell_again(rollout, again, now, report)
        return Begun(rollout.start)

    def may_begin_at(self, wanted: Generate, session: int) -> bool:
        """Tells whether a rollout may begin before where the session stands, since the draws from there on are kept."""
        table = self._table
        if table.admitted[session] != table.next_seq[session] or table.quarantined(np.array([session])).any():
            return False
        return wanted.commit is not Commit.NONE and 0 < self._since(wanted, session) <= len(self._drawn_before(session))

    def _drawn_before(self, session: int) -> list[Tensor]:
        """The draws that the session has applied last, as far as they are kept: [draws, *shape]."""
        drawn = self._tails.drawn(session)
        return [] if drawn is None else list(drawn)

    def _since(self, wanted: Generate, session: int) -> int:
        """Steps that the session has applied from the number on that a rollout is to begin at."""
        return 0 if wanted.at_seq == NO_SEQ else int(self._table.next_seq[session]) - wanted.at_seq

    def _to_tell_again(self, wanted: Generate, session: int | None) -> list[Tensor]:
        """Gives what was drawn from the number on that a rollout is to begin at, as far as it wants so many. Raises
        CallerError."""
        since = self._since(wanted, session) if session is not None else 0
        if session is None or since <= 0:
            return []
        if wanted.prompt or wanted.outputs:
            name = "prompt" if wanted.prompt else "outputs"
            message = f"{name}: expected none where draws are told again, and seq {wanted.at_seq} is one of them"
            raise CallerError(Reason.INVALID_ARGUMENT, message, field=name)
        return self._drawn_before(session)[-since:][: wanted.max_steps]

    def _begin_tail(self, rollout: Rollout, again: Sequence[Tensor]) -> None:
        """Keeps what is drawn from now on, behind what is told again."""
        session = rollout.session
        durable = session != _NOBODY and bool(self._table.durable[session])
        self._tailed[rollout.rows] = durable
        if durable:
            before = self._tails.drawn(session) if again else None
            rollout.tail = Tail(self._drawn[:0] if before is None else before)
            if before is None and rollout.commit is Commit.EACH:
                self._tails.forget(np.array([session]))  # a prompt comes between those draws and what is drawn now

    def _tell_again(self, rollout: Rollout, again: Sequence[Tensor], now: float, report: TurnReport) -> None:
        """Tells what was drawn before. A rollout that wants no more has ended, and so has one whose stop sequence was drawn."""
        rollout.told = rollout.start = rollout.wanted.at_seq
        free, stopped = 0, False
        for draw in again:
            rollout.drawn.append(draw)
            some, stopped = rollout.stops.take(int(draw)) if rollout.wanted.stop else (1, False)
            free += some
            if stopped:
                break
        self._tell(rollout, free, stopped, now)
        self._go_on(now, report)

    def took(self, door: int, took: Took, now: float) -> None:
        """A caller has been handed draws."""
        if (rollout := self._by_stream.get(global_stream(door, took.stream))) is not None:
            self._ahead[rollout.rows] -= took.draws
            self._paused_at[rollout.rows] = np.inf
            self._pause(rollout.rows, now)

    def of_door(self, door: int) -> list[int]:
        """Engine-wide numbers of the door's callers that have a rollout."""
        return [stream for stream in self._by_stream if door_of(stream) == door]

    def leave(self, streams: Iterable[int], now: float, report: TurnReport) -> None:
        """Ends the rollouts of callers that have left, by their engine-wide numbers; most callers have none."""
        for stream in streams:
            if (rollout := self._by_stream.get(stream)) is not None:
                self._end(rollout, RolloutEnding.CANCELLED, now, report)

    def take_over(self, sessions: Ints, now: float, report: TurnReport) -> None:
        """Ends the rollouts that commit to sessions, which streams have taken over."""
        if not self._by_stream:
            return
        for row in self._active[np.isin(self._commits_to[self._active], sessions)].tolist():
            rollout = self._of_row[row]  # its only one
            if self._table.alive(rollout.session, rollout.generation):
                self._give_up(rollout, Reason.SESSION_IN_USE, TAKEN_OVER, now, report)

    def end_unread(self, now: float, report: TurnReport) -> None:
        """Ends the rollouts that have paused for so long that nobody can be waiting for what they have told."""
        if now < self.next_deadline:
            return
        message = f"nothing of what was drawn has been read for {self._unread_seconds:g} seconds: the rollout has ended"
        for row in self._active[
            self._leads[self._active] & (self._paused_at[self._active] + self._unread_seconds <= now)
        ].tolist():
            self._give_up(self._of_row[row], Reason.DEADLINE_EXCEEDED, message, now, report)

    def _give_up(self, rollout: Rollout, reason: Reason, message: str, now: float, report: TurnReport) -> None:
        """Ends a rollout that its caller wants to go on, and tells why."""
        self._refuse(rollout, reason, message)
        self._end(rollout, RolloutEnding.FAILED, now, report)

    def _pause(self, rows: Ints, now: float) -> None:
        """Has those wait whose caller has been told much that it has not taken."""
        paused = rows[self._ahead[rows] >= MOST_AHEAD]
        self._paused_at[paused], self._drew_at[paused] = now, np.inf

    def _check(self, wanted: Generate, session: int | None, commit: Commit, now: float) -> Tensor:
        """The last output that the rollout begins with; zeros before a prompt. Raises CallerError."""
        table = self._table
        if self._books.draining:
            raise CallerError(Reason.SERVER_DRAINING, "the server is about to stop: no rollouts are begun")
        if session is not None and commit is not Commit.NONE and table.status[session] == Status.ROLLING:
            message = "a rollout of the session is under way: no other one can commit to it"
            raise CallerError(Reason.SESSION_IN_USE, message, expected_seq=int(table.next_seq[session]))
        self._check_room(wanted)
        last = np.zeros(self._draws.last.shape[1:], np.float32) if wanted.prompt else self._last_output(session)
        if session is not None and commit is not Commit.NONE:
            self._make_room(wanted, session, now)
        return last

    def _check_room(self, wanted: Generate) -> None:
        """Raises CallerError where the caller's share has no room for it, without a word of how large that is: it depends on what
        others have."""
        tenant = tenant_of(wanted.client)
        message, most = "", self.limits.get(tenant)
        if most is not None and self._of_tenant[tenant] >= most:
            message = f"all {most} rollouts of the tenant are in use"
        paths, steps = self._paths.room(wanted.client), self._prompts.room(wanted.client)
        if wanted.paths > paths or wanted.prompt_steps > steps:
            asked = f"{wanted.paths} paths and {wanted.prompt_steps} steps of prompt"
            message = f"the server has no room for another rollout of this caller, of {asked}, now"
        if message:
            raise CallerError(Reason.QUEUE_FULL, message, retry_delay_seconds=_RETRY_SECONDS)

    def _last_output(self, session: int | None) -> Tensor:
        """Reads what a session has predicted last. Raises CallerError where there was nothing to predict from."""
        states = {} if session is None else self._backend.read(self._table.slot[[session]])
        if all(np.array_equal(values[0], self._initial[name]) for name, values in states.items()):
            message = "prompt: expected at least one step, since the state is the initial one, which has no last output; got none"
            raise CallerError(Reason.INVALID_ARGUMENT, message, field="prompt")
        last: Tensor = states[self._last_state].ravel()
        return last

    def _make_room(self, wanted: Generate, session: int, now: float) -> None:
        """Acknowledges what the caller needs no more. Raises CallerError if the rollout does not fit into the window behind what
        is left: its steps keep no answers, but nobody acknowledges them either."""
        table = self._table
        start = int(table.next_seq[session])
        if wanted.at_seq != NO_SEQ or table.stream[session] == NO_STREAM:
            self._books.acknowledge(np.array([session]), np.array([start]), now)
        steps, released = wanted.prompt_steps + wanted.max_steps, int(table.released[session])
        if released < start and start + steps - released > self._window_steps:
            message = f"{steps} steps from {start} on do not fit into the window: acknowledge answers first, by seq for example"
            raise CallerError(Reason.WINDOW_FULL, message, field="seq")

    def _slots(self, commit: Commit, session: int | None, count: int) -> Ints:
        """Where its paths are computed: copies of the session, or the session itself."""
        if session is None:
            return self._backend.allocate(count)
        slot = self._table.slot[[session]]
        if commit is Commit.EACH:
            return slot
        copies = self._backend.allocate(count)
        self._backend.copy(slot.repeat(count), copies)
        return copies

    # A turn ----------------------------------------------------------------------------------------------------------

    def candidates(self, most: int, now: float, report: TurnReport) -> NDArray[Any]:
        """The rows, `most` at most, that could take part in the next launch: [n] of CANDIDATE.

        Where more could, each round has a launch with those whose turn it is; of the others only chunks take part in it, or a
        round would not end before all had been stepped.
        """
        self.drop_ended(now, report)
        rows, this_round = self._active, self._books.counters.round.item(0)
        rows = rows[self._due[rows] & (self._ahead[rows] < MOST_AHEAD) & ~self._in_flight[rows]]
        if len(rows) > most:
            if self._single_round == this_round:
                rows = rows[self._prompt_left[rows] > 1]
            rows = rows[first_in_turn(self._tenant[rows], self._client[rows], self._stepped_in[rows], most)]
        found = np.empty(len(rows), CANDIDATE)
        found["number"], found["steps"], found["served"] = rows, np.maximum(self._prompt_left[rows], 1), self._served[rows]
        found["tenant"], found["fresh"], found["rolls"] = self._tenant[rows], self._round[rows] != this_round, True
        return found

    def depart(self, rows: Ints, length: int) -> tuple[Ints, tuple[Tensor, ...]]:
        """The rows take part in a launch: draws what they have not been prompted with. Returns their slots, and their next
        `length`
        steps: one [n, length, *shape] per input."""
        counters = self._books.counters
        self._launches += 1
        self._in_flight[rows], self._round[rows], self._stepped_in[rows] = True, counters.round[0], self._launches
        if (self._prompt_left[rows] <= 1).any():
            self._single_round = counters.round.item(0)
        if length > 1:
            self._served[rows] = counters.launch[0]
        prompting = self._prompting[rows]
        drawing = rows[~prompting]
        if len(drawing):
            drawn = self._draws.draw(drawing, self._seq[drawing])
            self._drawn[drawing] = drawn.reshape(-1, *self._drawn.shape[1:])
        inputs = np.empty((len(rows), length, *self._drawn.shape[1:]), self._drawn.dtype)
        inputs[~prompting, 0] = self._drawn[drawing]
        for place in np.flatnonzero(prompting).tolist():
            row = int(rows[place])
            wanted = self._of_row[row].wanted
            first = wanted.prompt_steps - int(self._prompt_left[row])
            inputs[place] = wanted.prompt[0][first : first + length]
            self._prompts.give_back(wanted.client, length)
        self._prompt_left[rows[prompting]] -= length
        return self._slot[rows], (inputs,)

    def settle(self, rows: Ints, length: int, computed: Computed, now: float, report: TurnReport) -> None:
        """Makes `length` computed steps of each row known. computed: of these rows."""
        outputs = computed.outputs
        self._in_flight[rows] = False
        if computed.faults is not None and computed.faults.any():
            self._fail(rows, computed.faults, now)
            applied = computed.faults == 0
            rows, outputs = rows[applied], tuple(values[applied] for values in outputs)
        self._draws.last[rows] = outputs[self._head][:, -1].reshape(-1, self._draws.last.shape[1])
        self._seq[rows] += length
        sessions = self._session[rows]
        sessions = sessions[sessions != _NOBODY]
        if len(sessions):
            self._books.move_on(sessions, length, now)
            self._table.used_at[sessions] = now
        drew = ~self._prompting[rows]
        if drew.any():
            if not drew.all():
                rows, outputs = rows[drew], tuple(values[drew] for values in outputs)
            self._settle_draws(rows, outputs, now, report)
        self._go_on(now, report)

    def _go_on(self, now: float, report: TurnReport) -> None:
        """Goes on behind prompts, tells what several paths have drawn, and ends what has come to its end."""
        for row in self._active[self._prompting[self._active] & (self._prompt_left[self._active] == 0)].tolist():
            self._branch(self._of_row[row])
        stepped, self._stepped = self._stepped, {}
        failed = {rollout for rollout, ending in self._ended if ending is RolloutEnding.FAILED}
        self._tell_quantiles([each for each in stepped if each not in failed and not self._due[each.rows].any()], now)
        ended, self._ended = self._ended, []
        for rollout, ending in ended:
            if self._by_stream.get(rollout.stream) is rollout:
                self._end(rollout, ending, now, report)

    def _settle_draws(self, rows: Ints, outputs: tuple[Tensor, ...], now: float, report: TurnReport) -> None:
        """Tells what was drawn and has been fed. outputs: [n, 1, *shape]."""
        self._left[rows] -= 1
        report.draws += len(rows)
        leads = rows[self._leads[rows]]
        since = self._drew_at[leads]
        report.first_draw_seconds += (now - self._arrival[leads[np.isnan(since)]]).tolist()
        report.between_draws_seconds.append(now - since[np.isfinite(since)])
        self._drew_at[leads] = now
        for row in rows[self._tailed[rows]].tolist():
            rollout = self._of_row[row]
            if rollout.tail is not None:
                rollout.tail.append(self._drawn[row])
                if rollout.commit is Commit.EACH:
                    self._tails.put(rollout.session, rollout.tail)
        for row in [*leads[np.isnan(since)].tolist(), *rows[self._left[rows] == 0].tolist()]:
            self._pieces.hurry(int(self._stream[row]))  # the first or the last of a rollout
        plain = self._plain[rows]
        self._tell_plain(rows[plain], now)
        for place in np.flatnonzero(~plain).tolist():
            row = int(rows[place])
            rollout = self._of_row[row]
            if len(rollout.rows) > 1:
                self._due[row] = False  # until the other paths are as far
                self._stepped[rollout] = None
                continue
            if rollout.wanted.outputs:
                rollout.outputs.append(tuple(values[place, 0] for values in outputs))
            rollout.drawn.append(self._drawn[row].copy())
            free, stopped = rollout.stops.take(int(self._drawn[row])) if rollout.wanted.stop else (1, False)
            self._tell(rollout, free, stopped, now)

    def _tell_plain(self, rows: Ints, now: float) -> None:
        if not len(rows):
            return
        over = self._left[rows] == 0
        values = self._drawn[rows]
        pieces = np.zeros(len(rows), PIECE)
        pieces["stream"], pieces["steps"], pieces["size"] = self._stream[rows], 1, values.size // len(rows)
        pieces["next"] = self._seq[rows]
        pieces["first"] = pieces["next"] - 1
        pieces["ending"][over] = RolloutEnding.LENGTH
        self._pieces.add(pieces, self._client[rows], values.ravel(), None, now)
        self._ahead[rows] += 1
        self._pause(rows, now)
        self._ended += [(self._of_row[row], RolloutEnding.LENGTH) for row in rows[over].tolist()]

    def _tell_quantiles(self, stepped: Sequence[Rollout], now: float) -> None:
        """All paths of these have taken a step: tells how their draws are spread. Those that want the same are one operation: by
        itself each takes as long as a launch."""
        alike: dict[tuple[int, tuple[float, ...]], list[Rollout]] = {}
        for rollout in stepped:
            alike.setdefault((len(rollout.rows), rollout.wanted.levels), []).append(rollout)
        for (_, levels), rollouts in alike.items():
            rows = np.array([each.rows for each in rollouts])
            quantiles = np.quantile(self._drawn[rows], levels, axis=1).astype(self._drawn.dtype)  # [levels, n, *shape]
            self._due[rows] = True
            for place, rollout in enumerate(rollouts):
                rollout.drawn.append(quantiles[:, place])
                self._tell(rollout, 1, stopped=False, now=now)

    def _tell(self, rollout: Rollout, free: int, stopped: bool, now: float) -> None:
        """Tells the oldest draws that were not told; all that are left at the end of the last step, except a stop sequence."""
        row = int(rollout.rows[0])
        over = not stopped and self._left[row] == 0
        ending = RolloutEnding.STOP if stopped else RolloutEnding.LENGTH if over else None
        count = len(rollout.drawn) if over else free
        if not count and ending is None:
            return
        values = np.array(rollout.drawn[:count], self._drawn.dtype).ravel()
        outputs = [np.array(each) for each in zip(*rollout.outputs[:count], strict=True)] or None
        kept = count if outputs else 0
        piece = (rollout.stream, rollout.told, count, int(self._seq[row]), ending or 0, values.size, kept)
        self._pieces.add(np.array([piece], PIECE), self._client[[row]], values, outputs, now)
        if ending is not None or rollout.told == rollout.start + rollout.wanted.prompt_steps:
            self._pieces.hurry(rollout.stream)
        rollout.told += count
        del rollout.drawn[:count], rollout.outputs[:count]
        self._ahead[rollout.rows] += count
        self._pause(rollout.rows, now)
        if ending is not None:
            self._ended.append((rollout, ending))

    def _branch(self, rollout: Rollout) -> None:
        """The prompt has been fed: its paths part."""
        first, others = rollout.rows[0], rollout.rows[1:]
        self._prompting[first] = False
        if len(others):
            self._backend.copy(self._slot[[first]].repeat(len(others)), self._slot[others])
            self._draws.last[others], self._seq[others] = self._draws.last[first], self._seq[first]
            self._due[others] = True

    # The end ---------------------------------------------------------------------------------------------------------

    def drop_ended(self, now: float, report: TurnReport) -> None:
        """Ends rollouts whose sessions have ended."""
        sessions = self._commits_to[self._active]
        gone = (sessions != _NOBODY) & (self._table.generation[sessions] != self._generation[self._active])
        for row in self._active[gone].tolist():
            rollout = self._of_row[row]
            how = self._table.ending(rollout.wanted.id) or Ending.CLOSED  # nothing is remembered of one whose id another has
            message = f"session {plain(rollout.wanted.id)!r} {HOW_ENDED[how]}"
            self._give_up(rollout, REASON_OF_ENDING[how], message, now, report)

    def _fail(self, rows: Ints, faults: Ints, now: float) -> None:
        """Steps of rows with a fault were not applied. Of several paths the first one's fault is told."""
        faults_of: dict[Rollout, Reason] = {}
        for row, fault in zip(rows[faults > 0].tolist(), faults[faults > 0].tolist(), strict=True):
            faults_of.setdefault(self._of_row[row], Reason(fault))
        for rollout, reason in faults_of.items():
            if rollout.commit is Commit.EACH:
                self._table.move(rollout.session, Event.STEP_FAILED)
                self._books.mark_dirty(np.array([rollout.session]), now)
            self._refuse(rollout, reason, _FAULTS[reason])
            self._due[rollout.rows] = False
            self._ended.append((rollout, RolloutEnding.FAILED))

    def _refuse(self, rollout: Rollout, reason: Reason, message: str) -> None:
        session, seq = rollout.session, int(self._seq[rollout.rows[0]])
        there = session != _NOBODY and self._table.alive(session, rollout.generation)
        expected = int(self._table.next_seq[session]) if there else 0  # a copy's number is nothing to go on from
        self._pieces.hurry(rollout.stream)  # what it had drawn before comes before
        self._outbox.refuse(rollout.stream, 0, seq, 1, reason, expected, message)  # the next step: it may have wanted billions

    def _end(self, rollout: Rollout, ending: RolloutEnding, now: float, report: TurnReport) -> None:
        """Commits what is to be committed, and gives everything back."""
        table, rows, session = self._table, rollout.rows, rollout.session
        slots = self._slot[rows]
        if session != _NOBODY and table.alive(session, rollout.generation):
            if rollout.commit is Commit.END and ending in (RolloutEnding.STOP, RolloutEnding.LENGTH):
                table.slot[session], slots = slots[0], table.slot[[session]]  # the copy takes the session's place
                self._books.move_on(np.array([session]), int(self._seq[rows[0]] - table.next_seq[session]), now)
                if rollout.tail is not None:
                    self._tails.put(session, rollout.tail)
            if table.status[session] == Status.ROLLING:
                table.move(session, Event.ROLLOUT_ENDED)
            table.used_at[session] = now
            self._withhold(rollout, ending)
        if rollout.commit is not Commit.EACH:
            self._backend.release(slots)
            self.slots -= len(slots)
        self._paths.give_back(rollout.wanted.client, len(rows))
        self._prompts.give_back(rollout.wanted.client, int(self._prompt_left[rows].sum()))
        self._of_tenant[rollout.tenant] -= 1
        if not self._of_tenant[rollout.tenant]:
            del self._of_tenant[rollout.tenant]
        self._free += rows.tolist()
        self._used[rows] = False
        self._active = self._active[self._used[self._active]]
        for row in rows.tolist():
            del self._of_row[row]
        del self._by_stream[rollout.stream]
        report.rollouts_ended[ending] = report.rollouts_ended.get(ending, 0) + 1

    def _withhold(self, rollout: Rollout, ending: RolloutEnding) -> None:
        """The caller of a rollout that has ended as it should hears of its last draws once the store has them."""
        session = rollout.session
        ended_well = ending in (RolloutEnding.STOP, RolloutEnding.LENGTH)
        if self._writing is None or not self._table.durable[session] or not ended_well:
            return
        next_seq = int(self._table.next_seq[session])
        if next_seq <= self._table.durable_seq[session]:
            self._writing.tell(rollout.stream, 0, session)
            return
        self._pieces.withhold(rollout.stream)
        self._writing.hold(session, LastPiece(rollout.stream, next_seq))
