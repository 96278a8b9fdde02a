"""Dirty sessions: durable ones of which the store does not have all, in the order in which that came to be so."""

from __future__ import annotations

from stepstream_server.engine.books.records import Records
from stepstream_server.engine.compiled import compiled
from stepstream_server.engine.ports import Ints


@compiled
def mark(records: Records, number: int, now: float) -> None:
    """Something of a session has changed that the store is to have, if the session is durable."""
    session, counters = records.sessions[number], records.counters[0]
    if session["durable"]:
        if not session["dirty"]:
            session["dirty"], session["dirty_at"] = True, now
            records.dirty[counters["dirty"]] = number
            counters["dirty"] += 1
        if session["next_seq"] - session["durable_seq"] >= counters["every_steps"]:
            counters["pressing"] = True


@compiled
def mark_all(records: Records, numbers: Ints, now: float) -> None:
    """Something of each of the sessions has changed."""
    for number in numbers:
        mark(records, number, now)
