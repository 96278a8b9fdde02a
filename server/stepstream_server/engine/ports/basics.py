"""Words that several records share: array types, numbers with a meaning, what is kept, why sessions end."""

from __future__ import annotations

import enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Tensor = NDArray[Any]  # float32 or int64, C order

NO_SEQ = -1  # a momentary call that takes the next free number
NO_STREAM = -1  # a command that belongs to no stream
CALLERS = -2  # a command of momentary callers, who have numbers as streams have but are many to a command


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
