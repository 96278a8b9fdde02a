"""A session's status, and the only moves that it can make."""

from __future__ import annotations

import enum

import numpy as np

from stepstream_server.engine.books.records import Record
from stepstream_server.engine.compiled import compiled


class Status(enum.IntEnum):
    """Stands in the session's record as a number."""

    FREE = 0
    OPEN = 1
    QUARANTINED = 2  # its last launch would have made it non-finite, or failed: only reset and close are accepted
    RESETTING = 3  # quarantined, and a reset is queued: what comes behind it is admitted
    ROLLING = 4  # a rollout that commits is under way: no steps are admitted


class Event(enum.IntEnum):
    """What moves it."""

    OPENED = 0
    STEP_FAILED = 1
    RESET_QUEUED = 2
    RESET_DROPPED = 3
    RESET_APPLIED = 4
    ROLLOUT_BEGAN = 5
    ROLLOUT_ENDED = 6
    ENDED = 7


# A move that is not here is a mistake of the engine. A reset is an ordinary input where nothing is wrong.
MOVES = {
    (Status.FREE, Event.OPENED): Status.OPEN,
    (Status.OPEN, Event.STEP_FAILED): Status.QUARANTINED,
    (Status.OPEN, Event.RESET_QUEUED): Status.OPEN,
    (Status.OPEN, Event.RESET_DROPPED): Status.OPEN,
    (Status.OPEN, Event.RESET_APPLIED): Status.OPEN,
    (Status.OPEN, Event.ROLLOUT_BEGAN): Status.ROLLING,
    (Status.OPEN, Event.ENDED): Status.FREE,
    (Status.QUARANTINED, Event.RESET_QUEUED): Status.RESETTING,
    (Status.QUARANTINED, Event.RESET_DROPPED): Status.QUARANTINED,
    (Status.QUARANTINED, Event.ENDED): Status.FREE,
    (Status.RESETTING, Event.RESET_QUEUED): Status.RESETTING,
    (Status.RESETTING, Event.RESET_DROPPED): Status.QUARANTINED,
    (Status.RESETTING, Event.RESET_APPLIED): Status.OPEN,
    (Status.RESETTING, Event.ENDED): Status.FREE,
    (Status.ROLLING, Event.STEP_FAILED): Status.QUARANTINED,
    (Status.ROLLING, Event.ROLLOUT_ENDED): Status.OPEN,
    (Status.ROLLING, Event.ENDED): Status.FREE,
}
_ILLEGAL = 255
_NEXT = np.full((len(Status), len(Event)), _ILLEGAL, np.uint8)
for (_status, _event), _then in MOVES.items():
    _NEXT[_status, _event] = _then


@compiled
def move(session: Record, event: int) -> None:
    """Moves a session. Raises ValueError where there is no such move."""
    then = _NEXT[session["status"], event]
    if then == _ILLEGAL:
        raise ValueError("a session cannot make this move from its status")
    session["status"] = then
