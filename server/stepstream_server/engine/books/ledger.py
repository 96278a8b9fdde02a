"""The ledger: where each session's numbers stand. Nothing else writes the five counts.

`acked <= next_seq <= admitted`: answers below `acked` are not wanted any more, steps below `next_seq` are applied, those up to
`admitted` are pending in the queue, without a gap. `kept` counts the outputs that the cache holds or will hold for the pending
ones. `released`, up to which answers are gone, is `acked`, except for sessions with a repeat waiting: it was sent before what
acknowledged its answer, and is still answered.
"""

from __future__ import annotations

import numpy as np

from stepstream_server.engine.books import dirty
from stepstream_server.engine.books.answer_cache import count_held, let_go
from stepstream_server.engine.books.queue import is_pending, remove, turn_down
from stepstream_server.engine.books.records import NEVER, NONE, Arrays, Record, Records, opened
from stepstream_server.engine.books.status import Event, Status, move
from stepstream_server.engine.compiled import compiled
from stepstream_server.engine.ports import Ints, Keep, Kind
from stepstream_server.errors import Reason


@compiled
def begin_at(session: Record, next_seq: int, acked: int, kept: int) -> None:
    """A session begins, at 0 or where another one stood."""
    session["next_seq"] = session["admitted"] = next_seq
    session["acked"] = session["released"] = acked
    session["kept"] = kept
    session["rolled_from"] = session["rolled_to"] = next_seq


@compiled
def rolled_before(session: Record, rolled_from: int, rolled_to: int) -> None:
    """The session begins where rollouts had taken these numbers last, [from, to)."""
    session["rolled_from"], session["rolled_to"] = rolled_from, rolled_to


@compiled
def answers_of(row: Record, steps: int) -> int:
    """How many answers of a row's last `steps` steps the cache will keep."""
    if row["unkept"] or row["keep"] == Keep.NONE:
        return 0
    return steps if row["keep"] == Keep.ALL else 1


@compiled
def to_keep(row: Record) -> int:
    """How many answers of what is left of a row the cache will keep."""
    return answers_of(row, row["length"])


@compiled
def admit(session: Record, steps: int, answers: int) -> None:
    """So many steps are pending, of which so many answers will be kept."""
    session["admitted"] += steps
    session["kept"] += answers


@compiled
def apply(session: Record, row: Record, steps: int) -> None:
    """The next steps of a pending row are applied. Whoever numbers a step acknowledges its answer; where nobody does and no
    answer is kept, a step acknowledges itself, or it would fill the window for ever."""
    session["next_seq"] += steps
    if row["unkept"] and session["acked"] == row["first"]:
        session["acked"] += steps
        if session["released"] == row["first"]:
            session["released"] += steps


@compiled
def move_on(session: Record, steps: int) -> None:
    """Steps that no row asked for were applied to a session of which nothing is pending. Nobody will acknowledge them: where
    nothing before them waits for that, they do not either."""
    alone = session["released"] == session["next_seq"]
    if session["rolled_to"] != session["next_seq"]:
        session["rolled_from"] = session["next_seq"]
    session["next_seq"] += steps
    session["admitted"] = session["rolled_to"] = session["next_seq"]
    if alone:
        session["acked"] = session["released"] = session["next_seq"]


@compiled
def acknowledge(records: Records, number: int, count: int) -> None:
    """Lets go of a session's answers below a count; a lower count than before changes nothing, a higher one than next_seq is
    clamped."""
    session = records.sessions[number]
    old = session["acked"]
    new = max(old, min(count, session["next_seq"]))
    if new > old:
        all_kept = session["kept"] == session["admitted"] - old  # else some steps keep no outputs
        session["kept"] -= new - old if all_kept else count_held(records.pages, number, old, new)
        session["acked"] = new
        release(records, number)


@compiled
def acknowledge_applied(records: Records, numbers: Ints) -> None:
    """Lets go of all answers of sessions that end."""
    for number in numbers:
        acknowledge(records, number, records.sessions[number]["next_seq"])


@compiled
def release(records: Records, number: int) -> None:
    """Frees a session's acknowledged answers, unless a repeat waits for one of them."""
    session = records.sessions[number]
    if session["repeats"] == 0 and session["released"] < session["acked"]:
        let_go(records.pages, number, session["released"], session["acked"], session["next_seq"])
        session["released"] = session["acked"]


@compiled
def go_back(records: Records, number: int, seq: int) -> None:
    """Go back N: nothing of a session is pending from `seq` on but what named no number, which takes those that are free now.
    Other rows are refused where they stand, and so are those whose session takes no steps any more.

    Whoever waits for a number is given one when the turn ends; until then the session stops.
    """
    session = records.sessions[number]
    if session["stop_at"] != NEVER:
        session["stop_at"] = min(session["stop_at"], seq)
    session["gone_back"] += 1
    session["admitted"] = min(session["admitted"], seq)
    resets = 0
    place = session["head"]
    while place != NONE:
        row = records.rows[place]
        if is_pending(row) and row["first"] >= seq:
            _move_up(records, session, row, _why_turned_down(session, row, resets))
        elif row["kind"] == Kind.REPEAT:
            row["failed_from"] = min(row["failed_from"], seq)
        resets += row["kind"] == Kind.RESET
        place = row["next"]
    if session["status"] == Status.RESETTING and resets == 0:
        move(session, Event.RESET_DROPPED)


@compiled
def _why_turned_down(session: Record, row: Record, resets: int) -> int:
    """The Reason for which a pending row cannot take a lower number than it had; 0: it can. resets: pending before it."""
    if not row["unkept"]:
        return Reason.SEQUENCE_MISMATCH
    if session["status"] == Status.ROLLING:
        return Reason.SESSION_IN_USE
    return 0 if session["status"] == Status.OPEN or resets > 0 else Reason.SESSION_QUARANTINED


@compiled
def _move_up(records: Records, session: Record, row: Record, reason: int) -> None:
    """Gives a pending row the next free number, or refuses it for a reason."""
    if reason:
        session["kept"] -= to_keep(row)
        turn_down(records, row, reason)
    else:
        row["first"] = row["begin"] = session["admitted"]
        session["admitted"] += row["length"]


@compiled
def fail(records: Records, number: int, reason: int) -> None:
    """The next step of a session's first row fails, and with it all behind that cannot do without it."""
    session = records.sessions[number]
    row = records.rows[session["head"]]
    session["kept"] -= to_keep(row)
    turn_down(records, row, reason)
    go_back(records, number, row["first"])


@compiled
def reached_by(arrays: Arrays, number: int, places: Ints, seqs: Ints) -> None:
    """Adds up, for each of some places among all rows that were ever queued, what a session has applied once its rows up to there
    are, and writes that down: [n] of both. Places ascend, so that one walk does for all."""
    records = opened(arrays)
    session = records.sessions[number]
    seq: int = session["next_seq"]
    at = session["head"]
    for index in range(len(places)):
        while at != NONE and records.rows[at]["place"] <= places[index]:
            row = records.rows[at]
            if is_pending(row):
                seq += row["length"]
            at = row["next"]
        seqs[index] = seq


@compiled
def drop(records: Records, number: int, stream: int) -> None:
    """Removes a session's rows of a stream that nobody listens to any more; what was pending behind them is refused."""
    session = records.sessions[number]
    earliest = session["admitted"]
    before, place = NONE, session["head"]
    while place != NONE:
        row = records.rows[place]
        behind = row["next"]
        if row["stream"] == stream:
            if is_pending(row):
                earliest = min(earliest, row["first"])
                session["kept"] -= to_keep(row)
            remove(records, number, place, before)
        else:
            before = place
        place = behind
    go_back(records, number, earliest)
    release(records, number)


@compiled
def drop_held(records: Records, numbers: Ints) -> None:
    """Removes rows of sessions that came from the streams which hold them."""
    for number in numbers:
        drop(records, number, records.sessions[number]["stream"])


@compiled
def drop_streams(records: Records, streams: Ints) -> None:
    """Removes all rows of these streams, which are sorted."""
    number = records.counters[0]["first"]
    while number != NONE:
        behind = records.sessions[number]["behind"]
        place = records.sessions[number]["head"]
        while place != NONE:
            row = records.rows[place]
            at = np.searchsorted(streams, row["stream"])
            if at < len(streams) and streams[at] == row["stream"]:
                drop(records, number, row["stream"])
                place = records.sessions[number]["head"]
            else:
                place = row["next"]
        number = behind


@compiled
def collect_streams(records: Records, streams: Ints) -> None:
    """Writes the stream of each row of the queue down."""
    count = 0
    number = records.counters[0]["first"]
    while number != NONE:
        place = records.sessions[number]["head"]
        while place != NONE:
            streams[count] = records.rows[place]["stream"]
            count += 1
            place = records.rows[place]["next"]
        number = records.sessions[number]["behind"]


@compiled
def take_out(records: Records, number: int, taken: Ints) -> int:
    """Removes all rows of a session that ends, and writes their numbers down. Returns how many they were."""
    session = records.sessions[number]
    count = 0
    while session["head"] != NONE:
        taken[count] = session["head"]
        count += 1
        remove(records, number, session["head"], NONE)
    return count


@compiled
def move_on_all(records: Records, numbers: Ints, steps: int, now: float) -> None:
    """So many steps that no row asked for were applied to each of the sessions."""
    for number in numbers:
        move_on(records.sessions[number], steps)
        dirty.mark(records, number, now)
