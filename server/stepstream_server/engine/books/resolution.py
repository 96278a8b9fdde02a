"""Resolution: what rows are told that need no computing, once they stand at the head of their session's list.

Refusals, repeats from kept answers, resets, and steps whose deadline has passed. What they are told is noted in `told`, for
`steps.settlement` to pass on before any page of the cache is used again.
"""

from __future__ import annotations

from stepstream_server.engine.books import dirty, ledger, queue
from stepstream_server.engine.books.answer_cache import place_of
from stepstream_server.engine.books.records import IN_FLIGHT, NONE, Record, Records
from stepstream_server.engine.books.status import Event, move
from stepstream_server.engine.compiled import compiled
from stepstream_server.engine.ports import Ints, Keep, Kind
from stepstream_server.errors import Reason

TOLD_PER_TURN = 512  # outcomes, about 5 ms; the rest follows in the next turns
TOLD_STEPS = 1 << 16  # of repeats: half a megabyte of places


@compiled
def resolve(records: Records, number: int, now: float) -> None:
    """Resolves a session's rows from its head on, up to the first that must be computed or wait for another turn."""
    session, counters = records.sessions[number], records.counters[0]
    while session["head"] != NONE and session["standing"] != IN_FLIGHT and not session["over"]:
        row = records.rows[session["head"]]
        if row["kind"] == Kind.APPLY:
            if row["deadline"] > now:
                return
            ledger.fail(records, number, Reason.DEADLINE_EXCEEDED)
        if counters["told_quota"] == 0:
            return
        if row["kind"] == Kind.REFUSE:
            _refuse(records, row, row["length"])["reason"] = row["reason"]
        elif session["refused_in"] == counters["turn"]:
            return  # an answer would overtake the refusal: a turn's answers are passed on before its errors
        elif row["kind"] == Kind.RESET:
            if row["first"] == session["stop_at"]:
                return
            _reset(records, session, row, now)
        else:
            _repeat(records, number, row)
            if row["length"] > 0:
                return
        queue.remove(records, number, session["head"], NONE)
        ledger.release(records, number)


@compiled
def acknowledge(records: Records, number: int, count: int, now: float) -> None:
    """Acknowledges a session's answers below a count, once the repeats that were sent before have been answered. If one of them
    has ended the session, nothing is acknowledged: its answers are kept for a repeat of that end."""
    session = records.sessions[number]
    if session["repeats"] > 0:
        resolve(records, number, now)
    if not session["over"]:
        ledger.acknowledge(records, number, count)


@compiled
def acknowledge_all(records: Records, numbers: Ints, counts: Ints, now: float) -> None:
    """Acknowledges answers of sessions, below each count."""
    for place in range(len(numbers)):
        acknowledge(records, numbers[place], counts[place], now)


@compiled
def _refuse(records: Records, row: Record, length: int) -> Record:
    """Tells a row that its next steps are refused. Returns what is told, of which the reason is left to fill in."""
    session = records.sessions[row["session"]]
    session["refused_in"] = records.counters[0]["turn"]
    told = _tell(records, row, length, Kind.REFUSE)
    queue.shorten(records, row, length)
    return told


@compiled
def note_end(records: Records, row: Record, end: int) -> None:
    """The row has been answered up to `end`, and its session ends with that: what is behind it will not be."""
    counters = records.counters[0]
    records.sessions[row["session"]]["over"] = True
    ended = records.ended[counters["ended"]]
    counters["ended"] += 1
    ended["session"], ended["begin"], ended["end"] = row["session"], row["begin"], end
    ended["keep"], ended["cached"] = row["keep"], not row["unkept"]


@compiled
def _tell(records: Records, row: Record, length: int, kind: int) -> Record:
    """Notes an outcome of a row's next steps, without outputs."""
    counters = records.counters[0]
    told = records.told[counters["told"]]
    counters["told"] += 1
    counters["told_quota"] -= 1
    told["stream"], told["handle"], told["session"] = row["stream"], row["handle"], row["session"]
    told["first"], told["length"], told["shown"] = row["first"], length, 0
    told["expected"], told["intake"] = records.sessions[row["session"]]["next_seq"], row["intake"]
    told["kind"], told["reason"], told["behind"] = kind, 0, row["behind"]
    return told


@compiled
def _reset(records: Records, session: Record, row: Record, now: float) -> None:
    """Back to the initial state; takes one number, like a step."""
    move(session, Event.RESET_APPLIED)
    ledger.apply(session, row, row["length"])
    session["used_at"] = now
    dirty.mark(records, row["session"], now)
    _tell(records, row, row["length"], Kind.RESET)


@compiled
def _repeat(records: Records, number: int, row: Record) -> None:
    """Answers a repeat from the cache as far as it goes, and refuses what comes then; what is left after that stays in the
    row."""
    session, counters = records.sessions[number], records.counters[0]
    failed_from = row["failed_from"]  # numbers from there on may have gone to other steps since
    if row["first"] < min(session["released"], failed_from):
        gone = min(row["length"], min(session["released"], failed_from) - row["first"])
        _refuse(records, row, gone)["reason"] = Reason.ANSWER_DISCARDED
        return
    here = max(0, min(row["length"], min(session["next_seq"], failed_from) - row["first"]))  # steps that were applied
    wants_last = row["keep"] == Keep.LAST and here == row["length"]
    answered = 0
    kept = 0
    told_steps = counters["told_steps"]
    missing = False
    while answered < here and told_steps + kept < len(records.told_steps):
        wanted = row["keep"] == Keep.ALL or (wants_last and answered == here - 1)
        place = place_of(records.pages, number, row["first"] + answered)
        if wanted and place < 0:
            missing = True
            break
        if wanted:
            records.told_steps[told_steps + kept] = place
            kept += 1
        answered += 1
    if answered > 0:
        _tell(records, row, answered, Kind.REPEAT)["shown"] = kept
        counters["told_steps"] += kept
        if answered == row["length"] and row["ends"]:
            note_end(records, row, row["first"] + answered)
        queue.shorten(records, row, answered)
    if row["length"] == 0 or counters["told_quota"] == 0:
        return
    if missing:
        not_kept = _missing(records, number, row, here - answered, wants_last)
        _refuse(records, row, not_kept)["reason"] = Reason.ANSWER_NOT_KEPT
    elif answered == here:  # what it repeats was pending when it came, and has failed since
        _refuse(records, row, row["length"])["reason"] = Reason.SEQUENCE_MISMATCH


@compiled
def _missing(records: Records, number: int, row: Record, steps: int, wants_last: bool) -> int:
    """How many of the row's next steps, of the `steps` that were applied, are wanted and were not kept."""
    count = 0
    while (
        count < steps
        and (row["keep"] == Keep.ALL or (wants_last and count == steps - 1))
        and place_of(records.pages, number, row["first"] + count) < 0
    ):
        count += 1
    return count
