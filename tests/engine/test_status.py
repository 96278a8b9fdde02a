"""The moves of a session's status, and that there are no others."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from stepstream_server.engine.books.records import SESSION
from stepstream_server.engine.books.status import MOVES, Event, Status, move


@pytest.mark.parametrize(("status", "event"), [*itertools.product(Status, Event)], ids=lambda each: each.name.lower())
def test_a_session_moves_as_the_table_says_or_not_at_all(status: Status, event: Event) -> None:
    """What is not in the table is a mistake of the engine, and changes nothing."""
    sessions = np.zeros(1, SESSION)
    sessions["status"] = status
    if (status, event) in MOVES:
        move(sessions[0], event)
        assert sessions["status"][0] == MOVES[status, event]
    else:
        with pytest.raises(ValueError, match="cannot make this move"):
            move(sessions[0], event)
        assert sessions["status"][0] == status


def test_a_session_can_end_from_wherever_it_is() -> None:
    """Only one that is not open cannot."""
    assert {status for status, event in MOVES if event is Event.ENDED} == set(Status) - {Status.FREE}
