"""Sequences of steps by a caller who names sessions by id, and what became of them."""

from __future__ import annotations

from collections.abc import Sequence

from stepstream_server.engine.ports import NO_SEQ, Ending, Keep, List, Page
from stepstream_server.errors import Reason, StepStreamError
from support.engine import Harness

CALLER = 7
POISON = 13.0  # would make the state non-finite


def step(
    h: Harness,
    value: float | Sequence[float],
    *,
    name: str = "a",
    seq: int = NO_SEQ,
    start: bool = False,
    end: bool = False,
    handle: int = 0,
    stream: int = CALLER,
    keep: Keep = Keep.ALL,
    deadline: float = float("inf"),
) -> None:
    """Submits one row."""
    values = [value] if isinstance(value, float) else value
    h.call_many(
        [name], [seq], [values], stream=stream, handles=[handle], keep=keep, deadline=deadline, starts=[start], ends=[end]
    )


def closed(h: Harness) -> dict[Ending, int]:
    """Sessions that ended so far, by how."""
    counts: dict[Ending, int] = {}
    for report in h.reports.turns:
        for ending, count in report.closed.items():
            counts[ending] = counts.get(ending, 0) + count
    return counts


def replaced(h: Harness) -> list[str]:
    """Ids of sessions that ended so far since others were started in their place."""
    return [session_id for report in h.reports.turns for session_id in report.replaced]


def reason_of(found: object) -> Reason:
    """Why it is an error."""
    assert isinstance(found, StepStreamError)
    return found.reason


def listed(h: Harness) -> list[str]:
    """Ids of all sessions that can be found."""
    page = h.ask(List(h.request(), 0, 1000))
    assert isinstance(page, Page)
    return [session.id for session in page.sessions]
