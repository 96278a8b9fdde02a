"""The scheduler: cuts the next launch out of the queue.

A turn goes in rounds. Each round first steps every waiting session once, in launches of length 1; then chunk steps run in
groups of equal length within a time budget, those first that have waited longest. Rows of different lengths are never padded
into one launch: measured, one row of 64 steps beside 63 single steps costs 5.1 ms padded against 0.6 ms split (H = 128). What
needs no computing is resolved on the way.
"""

from __future__ import annotations

import math
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stepstream_server.engine.books import Books, queue, resolution
from stepstream_server.engine.books.records import CANDIDATE, NONE, Arrays, Record, Records, opened
from stepstream_server.engine.compiled import compiled
from stepstream_server.engine.ports import Ints, Kind, Launch, Tensor

MEASURED_STEPS = 8  # of launches that only measure
_LAUNCH_STEPS: Final = (
    16_384  # rows x steps of one launch: bounds the kernel's scratch memory (4 H floats each, 33 MB at H = 128)
)
_FIRST_GUESS = 8  # steps of a first chunk launch, before anything has been measured
_FIRST_ROLLED = 64  # rows of rollouts in a launch, before any has been measured
_LEAST_SHARE = 0.1  # of a launch's time that its rows are taken to cost, however much as one row's it seems to take
_LEAST_SECONDS = 1e-7  # of a step: what a clock that did not move is taken for
_SMOOTHING = 0.25  # weight of the newest measurement: follows a change of load within a few launches, ignores one hiccup
_BUCKETS = 64  # powers of two of batch sizes
_ROLLED_SHARE = 0.5  # of a turn's budget: what a launch may take longer than one row's for the rows of rollouts in it
_TENANTS: Final = 1024  # that are told apart; beyond it several share a place

_PLAN = np.dtype(
    [
        ("max_batch", np.int64),
        ("first_guess", np.int64),  # steps of a chunk launch whose pace is not known
        ("turn_budget", np.float64),  # seconds for chunk steps of a round while single steps wait
        ("alone_budget", np.float64),  # seconds while none do
        ("budget", np.float64),  # seconds that are left to this round
        ("chunks", np.int64),  # launches of chunks so far
        ("alone", np.bool_),  # whether nothing was launched in this turn
        ("pace", np.float64, _BUCKETS),  # seconds per step of a whole batch, by bit length of its size; 0: not measured
        # By tenant, that of number n at n % _TENANTS:
        ("tenant_served", np.int64, _TENANTS),  # launch of chunks that one of its rows last took part in
        ("tenant_fresh", np.int64, _TENANTS),  # of its candidates that are fresh; scratch, as the next one
        ("tenant_taken", np.int64, _TENANTS),
    ],
    align=True,
)


class Batch(NamedTuple):
    """One launch: the next steps of rows of the queue, and behind them those of rollouts' rows."""

    rows: Ints  # numbers of rows in the queue: [n]
    rolls: Ints  # numbers of rollouts' rows: [m]
    length: int  # steps of each
    slots: Ints  # of the sessions of `rows`: [n]
    inputs: tuple[Tensor, ...]  # of `rows`: [n, length, *shape] of each
    goes_on: bool  # whether more waits behind one of these steps


class Scheduler:
    """Knows how long steps take, and what time a turn has left for chunks."""

    def __init__(self, max_batch: int, turn_budget: float, alone_budget: float) -> None:
        self.plan = np.zeros(1, _PLAN)
        self.plan["max_batch"], self.plan["first_guess"] = max_batch, _FIRST_GUESS
        self.plan["turn_budget"], self.plan["alone_budget"] = turn_budget, alone_budget
        self._turn_budget = turn_budget
        self._budget, self._alone, self._pace = self.plan["budget"], self.plan["alone"], self.plan["pace"][0]
        self._single = np.zeros(_BUCKETS)  # seconds of a launch of one step and its settlement, by bit length of its size
        self._rolled_budget = _ROLLED_SHARE * turn_budget
        self._least = 0.0  # seconds of the quickest launch of one row's step and its settlement; 0: not measured
        self._rolled = 0.0  # seconds by which a row makes a launch longer in which rollouts take part; 0: not measured
        self.begin_turn()

    def begin_turn(self) -> None:
        """Nothing has been launched yet."""
        self._budget[0], self._alone[0] = self._turn_budget, True

    def learn(self, launch: Launch, settled_seconds: float) -> None:
        """Learns from a launch. One of a single step says more of what a launch costs than of what a step does: it is learned by
        itself, with its settlement.

        settled_seconds: from the launch until it was settled.
        """
        learned, seconds = self._single, settled_seconds
        if launch.length > 1:
            learned, seconds = self._pace, launch.seconds / launch.length
        bucket, seconds = launch.batch.bit_length(), max(seconds, _LEAST_SECONDS)
        if launch.length == launch.batch == 1:
            self._least = min(self._least or seconds, seconds)
        known = learned.item(bucket) or seconds
        learned[bucket] = known + _SMOOTHING * (seconds - known)

    def learn_rolled(self, rows: int, seconds: float) -> None:
        """Learns from a launch of one step in which rows of rollouts took part: from before they drew until it was settled."""
        pace = max(seconds - self._least, _LEAST_SHARE * seconds, _LEAST_SECONDS) / rows
        known = self._rolled or pace
        weight = (
            _SMOOTHING if pace < known else _SMOOTHING / 4
        )  # what else a machine has to do makes launches longer, not shorter
        self._rolled = known + weight * (min(pace, 2 * known) - known)

    @property
    def most_rolled(self) -> int:
        """Rows of rollouts that a launch has time for; at least 1. They may double what one row takes, however long that is.

        Where few take part each costs more than it would among many: their number grows, launch by launch, while more wait.
        """
        budget = max(self._rolled_budget, self._least)
        return max(1, int(budget / self._rolled)) if self._rolled else _FIRST_ROLLED

    def expected_seconds(self, rows: int) -> float:
        """The time of a launch of one step of so many rows, from it to its settlement; inf if none of that bit length has been
        measured."""
        return self._single.item(rows.bit_length()) or math.inf


class Cut:
    """Cuts batches."""

    def __init__(self, books: Books, scheduler: Scheduler, most_candidates: int) -> None:
        """most_candidates: sessions and rollouts' rows that there can be at once."""
        self._books = books
        self._plan = scheduler.plan
        self._candidates = np.empty(most_candidates, CANDIDATE)
        most = int(scheduler.plan["max_batch"][0])
        self._chosen, self._slots = np.empty(most, np.int64), np.empty(most, np.int64)

    def batch(self, rolls: NDArray[Any], now: float) -> Batch | None:
        """The next batch; None if there is nothing to compute now. rolls: rollouts' rows that could take part, as CANDIDATEs."""
        n, m, length, intake, offset, goes_on = cut(
            self._books.arrays, self._candidates, rolls, self._plan, now, self._chosen, self._slots
        )
        if n + m == 0:
            return None
        chosen = self._chosen[: n + m].copy()
        rows = chosen[:n]
        if intake != NONE:  # they lie one behind the other: a view will do
            values = self._books.queue.inputs(intake)
            inputs = tuple([each[offset : offset + n * length].reshape(n, length, *each.shape[1:]) for each in values])
        else:
            inputs = self._books.queue.gather(rows, length) if n else ()
        return Batch(rows, chosen[n:], length, self._slots[:n].copy(), inputs, goes_on)


@compiled
def cut(
    arrays: Arrays,
    candidates: NDArray[Any],
    rolls: NDArray[Any],
    plans: NDArray[Any],
    now: float,
    chosen: Ints,
    slots: Ints,
) -> tuple[int, int, int, int, int, bool]:
    """Takes whoever was chosen out of the line.

    Writes the numbers of their rows to `chosen`, those of rollouts behind those of the queue, and the slots of the latter to
    `slots`. Returns how many there are of both, the steps of each, and the intake and offset of the first where the rows of the
    queue lie in one intake, one behind the other; else NONE.
    The last says whether more waits behind one of these steps.
    """
    records = opened(arrays)
    plan = plans[0]
    count = _candidates(records, candidates, now)
    for roll in range(len(rolls)):
        candidates[count] = rolls[roll]
        count += 1
    if count == 0:
        return 0, 0, 0, NONE, 0, False
    taken, length = choose(candidates, count, plan, chosen)
    if taken == 0:
        records.counters[0]["round"] += 1
        for place in range(count):
            candidates[place]["fresh"] = True
        taken, length = choose(candidates, count, plan, chosen)
    if length > 1:
        records.counters[0]["launch"] += 1
    return _depart(records, candidates, taken, length, chosen, slots)


@compiled
def _candidates(records: Records, candidates: NDArray[Any], now: float) -> int:
    """Resolves what needs no computing, and writes down the sessions whose next step could be computed, in the order of the
    line."""
    counters = records.counters[0]
    count = 0
    number = counters["first"]
    while number != NONE:
        session = records.sessions[number]
        behind = session["behind"]
        resolution.resolve(records, number, now)
        steps = _computable(records, session)
        if steps > 0:
            one = candidates[count]
            one["number"], one["steps"], one["served"] = number, steps, session["served"]
            one["tenant"] = session["tenant"]
            one["fresh"], one["rolls"] = session["round"] != counters["round"], False
            count += 1
        number = behind
    return count


@compiled
def _computable(records: Records, session: Record) -> int:
    """How many steps of a session's first row may be computed now."""
    if session["head"] == NONE or session["over"] or session["refused_in"] == records.counters[0]["turn"]:
        return 0
    row = records.rows[session["head"]]
    if row["kind"] != Kind.APPLY:
        return 0
    steps: int = min(row["length"], session["stop_at"] - row["first"])
    return steps


@compiled
def _depart(
    records: Records, candidates: NDArray[Any], taken: int, length: int, chosen: Ints, slots: Ints
) -> tuple[int, int, int, int, int, bool]:
    """Takes the chosen out of the line, and looks where their inputs lie."""
    counters = records.counters[0]
    rows, intake, offset = 0, NONE, 0
    goes_on = False
    for place in range(taken):
        one = candidates[chosen[place]]
        if one["rolls"]:
            chosen[place] = one["number"]
            goes_on = True
            continue
        session = records.sessions[one["number"]]
        queue.depart(records, one["number"])
        session["round"] = counters["round"]
        if length > 1:
            session["served"] = counters["launch"]
        row = records.rows[session["head"]]
        chosen[place], slots[place] = session["head"], session["slot"]
        goes_on = goes_on or row["next"] != NONE or row["length"] > length
        if place == 0:
            intake, offset = row["intake"], row["offset"]
        elif row["intake"] != intake or row["offset"] != offset + place * length:
            intake = NONE
        rows += 1
    return rows, taken - rows, length, intake, offset, goes_on


@compiled
def choose(candidates: NDArray[Any], count: int, plan: Record, chosen: Ints) -> tuple[int, int]:
    """Chooses of the first `count` candidates, in order of arrival, at least one, who take part in the next launch.

    Their indices are written to `chosen`, in order. Returns how many they are, and the steps that each takes; 0 steps: none of
    them is fresh, and a new round is to begin.
    """
    singles, chunks = 0, 0
    for index in range(count):
        singles += candidates[index]["fresh"] and candidates[index]["steps"] == 1
        chunks += candidates[index]["steps"] > 1
    if plan["alone"] and singles == 0:
        plan["budget"] = plan["alone_budget"]
    plan["alone"] = False
    if singles > 0:
        # Chunks take part in the launch of single steps: their next step costs next to nothing there, and nobody starves.
        return _fresh(candidates, count, plan, chosen), 1
    if chunks > 0 and plan["budget"] > 0:
        return _chunk(candidates, count, plan, chosen)
    plan["budget"] = plan["turn_budget"]
    return 0, 0


@compiled
def _fresh(candidates: NDArray[Any], count: int, plan: Record, chosen: Ints) -> int:
    """Chooses those that have not been stepped in this round: the first ones, of each tenant, where there are too many."""
    taken, most = 0, plan["max_batch"]
    for index in range(count):
        if candidates[index]["fresh"]:
            if taken == most:
                return _share_out(candidates, count, plan, chosen)
            chosen[taken] = index
            taken += 1
    return taken


@compiled
def _share_out(candidates: NDArray[Any], count: int, plan: Record, chosen: Ints) -> int:
    """Chooses as many fresh ones as a batch has, of each tenant the first ones, so that none has more than another wants: the
    shares are max-min fair. More are fresh than a batch has."""
    fresh, taken_of = plan["tenant_fresh"], plan["tenant_taken"]
    highest = 0
    for index in range(count):
        highest = max(highest, candidates[index]["tenant"] % _TENANTS)
    fresh[: highest + 1] = 0
    taken_of[: highest + 1] = 0
    for index in range(count):
        fresh[candidates[index]["tenant"] % _TENANTS] += candidates[index]["fresh"]
    share, left = _max_min(fresh[: highest + 1], plan["max_batch"])
    taken = 0
    for index in range(count):
        one = candidates[index]
        tenant = one["tenant"] % _TENANTS
        if one["fresh"] and (taken_of[tenant] < share or (taken_of[tenant] == share and left > 0)):
            left -= taken_of[tenant] == share
            taken_of[tenant] += 1
            chosen[taken] = index
            taken += 1
    return taken


@compiled
def _max_min(wanted: Ints, room: int) -> tuple[int, int]:
    """The largest share that all can have as far as they want it, of which all together want more than there is room for; and
    what is left then, too little for one more each."""
    share, left, wanting = 0, room, 1
    while wanting > 0:
        wanting = 0
        for each in wanted:
            wanting += each > share
        if wanting > left:
            return share, left
        share += 1
        left -= wanting
    return share, left


@compiled
def _chunk(candidates: NDArray[Any], count: int, plan: Record, chosen: Ints) -> tuple[int, int]:
    """Chooses a group of equal length: who was served least recently, of the tenant that was, and whoever takes as many steps."""
    chunks, leader, least, most = 0, -1, 0, 0
    served = plan["tenant_served"]
    plan["chunks"] += 1
    for index in range(count):
        one = candidates[index]
        if one["steps"] > 1:
            chunks += 1
            if leader < 0 or _is_before(one, candidates[leader], served):
                leader = index
            least = one["steps"] if chunks == 1 else min(least, one["steps"])
            most = max(most, one["steps"])
    batch = min(chunks, plan["max_batch"])
    limit = min(_steps_within(plan, batch), max(1, _LAUNCH_STEPS // batch))
    # Where lengths differ they are cut to powers of two, so that rows of different lengths still share launches.
    mixed = min(least, limit) != min(most, limit)
    length = _take(candidates[leader]["steps"], limit, mixed)
    taken = 0
    for index in range(count):
        one = candidates[index]
        room = batch if index >= leader else batch - 1  # the leader has a place
        if one["steps"] > 1 and taken < room and _take(one["steps"], limit, mixed) == length:
            chosen[taken] = index
            served[one["tenant"] % _TENANTS] = plan["chunks"]
            taken += 1
    pace = plan["pace"][_bit_length(taken)]
    plan["budget"] = plan["budget"] - pace * length if pace > 0 else 0.0  # one launch is budget enough while the pace is unknown
    return taken, length


@compiled
def _is_before(one: Record, other: Record, served: Ints) -> bool:
    """Tells whether a chunk leads rather than another one: tenants take turns, and those of one tenant do."""
    mine, others = served[one["tenant"] % _TENANTS], served[other["tenant"] % _TENANTS]
    return bool(mine < others or (mine == others and one["served"] < other["served"]))


@compiled
def _take(steps: int, limit: int, mixed: bool) -> int:
    """The steps of a launch that a row with so many left takes."""
    take = min(steps, limit)
    return 1 << (_bit_length(take) - 1) if mixed else take


@compiled
def _steps_within(plan: Record, batch: int) -> int:
    """Steps of a batch of this size that fit into the budget; at least 1."""
    pace = plan["pace"][_bit_length(batch)]
    if pace > 0:
        return max(1, int(plan["budget"] / pace))
    guess: int = plan["first_guess"]
    return guess


@compiled
def _bit_length(number: int) -> int:
    length = 0
    while number > 0:
        number >>= 1
        length += 1
    return length
