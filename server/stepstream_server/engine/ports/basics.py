"""Words that several records share: array types, numbers with a meaning, what is kept, why sessions end."""

from __future__ import annotations

import enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Tensor = NDArray[Any]  # float32 or int64, C order

NO_SEQ = -1  # a one-shot call that takes the next free number
NO_STREAM = -1  # a command that belongs to no stream
STORE_DOOR = -1  # the number under which the store speaks, which is no front door
TAKEN_AT_ONCE = 32  # draws after which a rollout's caller says that it has taken them; saying so costs about as much as a step

# A row of steps, 80 bytes, as front doors pack it one by one (struct format ROW_FORMAT) or fill it column by column.
ROW = np.dtype(
    [
        ("stream", np.int64),
        ("generation", np.int64),  # of the session
        ("first", np.int64),  # number of its first step; NO_SEQ: the next free one
        ("handle", np.uint32),
        ("keep", np.uint8),  # of Keep
        ("kind", np.uint8),  # of Kind
        ("unkept", np.bool_),  # whether `first` was NO_SEQ: no answer is kept, since nobody can ask for a repeat
        ("ends", np.bool_),  # whether the session ends once its last step was answered
        ("behind", np.bool_),  # of one-shot callers: whether it may be answered before it is in the store
        ("session", np.int64),
        ("length", np.int64),  # steps, >= 1
        ("acked", np.int64),  # acknowledged before the row is admitted; 0: nothing
        ("arrival", np.float64),  # monotonic seconds, when the message was read
        ("deadline", np.float64),  # monotonic seconds; not begun by then: dropped
    ],
    align=True,
)
ROW_FORMAT = "=3qI5B7x3q2d"

# A piece of a rollout: what its caller is told at once.
PIECE = np.dtype(
    [
        ("stream", np.int64),  # its caller
        ("first", np.int64),  # number of the first step told
        ("steps", np.int64),  # drawn, fed, and told here
        ("next", np.int64),  # number of the next step: so many have been applied, also what is not told
        ("ending", np.int64),  # of RolloutEnding: STOP or LENGTH; 0: it goes on
        ("size", np.int64),  # numbers in `values`
        ("kept", np.int64),  # steps in `outputs`: all of them or none
    ]
)


class Kind(enum.IntEnum):
    """The fate that a row waits for."""

    APPLY = 0  # its next step to be computed
    RESET = 1  # the state to be zeroed
    REPEAT = 2  # to be answered from the cache: it was applied, or is pending in front of this row
    REFUSE = 3  # to be told its reason


class Keep(enum.IntEnum):
    """Which steps of a row come back with outputs and are kept for a repeat (`Outputs` of the contract)."""

    ALL = 1
    LAST = 2
    NONE = 3


class Origin(enum.IntEnum):
    """How a session came to be."""

    OPENED = 1
    FORKED = 2
    IMPORTED = 3


class Ending(enum.IntEnum):
    """Why a handle no longer stands for a session (`DetachReason` of the contract, same numbers), or why a session ended."""

    REQUESTED = 1
    TAKEN = 2
    CLOSED = 3
    EXPIRED = 4
    EVICTED = 5
    MOVED = 6
    REPLACED = 7  # another session was started under its id; no handle stood for it then


class Commit(enum.IntEnum):
    """The part of a rollout that stays in its session (`Commit` of the contract, same numbers)."""

    END = 1
    EACH = 2
    NONE = 3


class RolloutEnding(enum.IntEnum):
    """How a rollout ended; the first ones as in the contract, with the same numbers."""

    STOP = 1  # a stop sequence was drawn
    LENGTH = 2  # all steps were drawn
    CANCELLED = 3  # its caller has left
    FAILED = 4  # refused when its time came, not finite, or its session has ended
