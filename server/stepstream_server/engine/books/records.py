"""The books' records: a session, a row that waits, and what is counted over all of them, as compiled rules see them."""

from __future__ import annotations

from typing import Any, Final, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from stepstream_server.engine.books.answer_cache import Pages
from stepstream_server.engine.compiled import compiled

Record = Any  # one record of a structured array: a view, so that writing to its fields writes to the array
Rows = NDArray[Any]  # of QUEUED

# Typed, since numba compiles a function anew for each literal that it is given.
NONE: Final = cast(int, np.int64(-1))  # no row, no session
ZERO: Final = cast(int, np.int64(0))
NEVER: Final = np.iinfo(np.int64).max  # a step number that no session reaches

# Where a session stands between its steps.
IDLE: Final = 0  # nothing of it is queued
WAITING: Final = 1  # in the line of those that have something queued
IN_FLIGHT: Final = 2  # a launch is computing its head's next steps

SESSION = np.dtype(
    [
        # The five counts, which `ledger` alone writes.
        ("next_seq", np.int64),  # steps and resets applied
        ("admitted", np.int64),  # the admission point: next_seq and what is pending
        ("acked", np.int64),  # answers below have been acknowledged
        ("released", np.int64),  # answers below are gone; less than acked while a repeat waits for one
        ("kept", np.int64),  # admitted steps from acked on whose outputs are, or will be, in the cache
        # The last numbers without a gap that rollouts took, [from, up to); the ledger writes them, too.
        ("rolled_from", np.int64),
        ("rolled_to", np.int64),
        ("stream", np.int64),  # engine-wide number of the stream that holds it, or NO_STREAM
        ("generation", np.int64),  # of its number, which is used again
        ("slot", np.int64),
        ("stop_at", np.int64),  # number before which steps stop, because a copy is to be taken there
        ("served", np.int64),  # launch of several steps that it last took part in
        ("used_at", np.float64),  # monotonic seconds of the last step
        ("durable_seq", np.int64),  # of a durable one: steps below it are in the store
        ("dirty_at", np.float64),  # monotonic seconds, when that came to be wanting; of a dirty one
        ("head", np.int64),  # its first row in the queue
        ("tail", np.int64),  # its last row in the queue
        ("before", np.int64),  # the session before it in the line
        ("behind", np.int64),  # the session behind it in the line
        ("handle", np.uint32),  # that stream's
        ("repeats", np.int32),  # rows of it that ask for kept answers
        ("round", np.int32),  # in which it was last stepped
        ("refused_in", np.int32),  # turn in which it was last refused something: what follows belongs into the next one
        ("tenant", np.int32),  # number of its tenant; 0 where there are none
        ("gone_back", np.int32),  # how often pending rows of it were dropped or moved up; goes on when its number is used again
        ("status", np.uint8),  # of Status, moved by `status` alone
        ("standing", np.uint8),  # IDLE, WAITING or IN_FLIGHT
        ("durable", np.bool_),  # whether the store keeps it
        ("dirty", np.bool_),  # whether the store is to be told of it: its record there is older
        ("over", np.bool_),  # whether its end was answered in this turn: it ends with it
    ],
    align=True,
)

# A row that waits: one that a front door sent, or a part of it, and where it stands.
QUEUED = np.dtype(
    [
        ("session", np.int64),
        ("stream", np.int64),  # engine-wide
        ("first", np.int64),  # number of the next step
        ("length", np.int64),  # steps left
        ("offset", np.int64),  # where its next step lies in the inputs of its intake
        ("begin", np.int64),  # number of the first step that was sent
        ("failed_from", np.int64),  # of REPEAT: number from which on the steps that it has joined have failed, or NEVER
        ("place", np.int64),  # among all rows that were ever queued
        ("arrival", np.float64),  # monotonic seconds
        ("deadline", np.float64),  # monotonic seconds
        ("handle", np.uint32),
        ("keep", np.uint8),  # ports.Keep
        ("kind", np.uint8),  # ports.Kind
        ("unkept", np.bool_),  # whether its caller gave no number: it takes the next one, and no answer is kept for a repeat
        ("ends", np.bool_),  # whether its session ends once its last step was answered
        ("behind", np.bool_),  # whether its caller is answered before the store has the step
        ("reason", np.int64),  # errors.Reason, of REFUSE
        ("intake", np.int64),  # which inputs, or which text of a refusal, it waits with; NONE: neither
        ("next", np.int64),  # the row behind it, of the same session or of those that are free
    ],
    align=True,
)

# An outcome that needed no computing.
TOLD = np.dtype(
    [
        ("stream", np.int64),
        ("handle", np.int64),
        ("first", np.int64),
        ("length", np.int64),
        ("shown", np.int64),  # of the last steps, so many have outputs
        ("session", np.int64),
        ("expected", np.int64),  # next_seq, for refusals
        ("intake", np.int64),  # whose text a refusal is told, or NONE
        ("kind", np.int64),  # of the row: REPEAT, RESET or REFUSE
        ("reason", np.int64),  # of REFUSE
        ("behind", np.bool_),  # as of QUEUED
    ],
    align=True,
)

# A row that ended its session: the last steps that it has answered, and what was kept of them.
ENDED = np.dtype(
    [("session", np.int64), ("begin", np.int64), ("end", np.int64), ("keep", np.int64), ("cached", np.bool_)],
    align=True,
)

# A session or a rollout's row that could take part.
CANDIDATE = np.dtype(
    [
        ("number", np.int64),  # of the session, or of the rollout's row
        ("steps", np.int64),  # that are left to it
        ("served", np.int64),  # launch of several steps that it last took part in
        ("tenant", np.int32),  # as of SESSION
        ("fresh", np.bool_),  # whether it has not been stepped in this round
        ("rolls", np.bool_),  # whether it is a rollout's
    ],
    align=True,
)

COUNTERS = np.dtype(
    [
        # Limits, which stay as they are.
        ("window_steps", np.int64),
        ("window_kept", np.int64),  # steps whose outputs fit into the window's bytes
        ("most_pending", np.int64),  # steps
        ("most_pages", np.int64),  # of kept answers
        ("every_steps", np.int64),  # of a durable session, after which it is to be written at once
        # The moment.
        ("draining", np.bool_),
        ("turn", np.int32),
        ("round", np.int32),
        ("launch", np.int64),
        # The queue.
        ("first", np.int64),  # session at the front of the line
        ("last", np.int64),
        ("free", np.int64),  # first row that is free
        ("pending", np.int64),  # steps that wait to be computed or are being computed
        ("queued", np.int64),  # rows
        ("ever_queued", np.int64),  # rows, those that are gone included
        ("emptied", np.int64),  # intakes that no row waits with any more, in `emptied`
        # What has to be told.
        ("told", np.int64),
        ("told_steps", np.int64),
        ("told_quota", np.int64),  # outcomes that this turn may still resolve
        ("ended", np.int64),
        # What the store is to have.
        ("dirty", np.int64),  # sessions
        ("pressing", np.bool_),  # whether one of them has `every_steps` that the store does not have
    ],
    align=True,
)


class Records(NamedTuple):
    """All that compiled rules read and write. What runs in every turn is given the same as `Arrays`."""

    sessions: NDArray[Any]  # [capacity] of SESSION
    rows: Rows  # [room] of QUEUED, linked lists
    counters: NDArray[Any]  # [1] of COUNTERS
    pages: Pages
    waiting: NDArray[np.int32]  # [intakes]: rows that wait with it
    emptied: NDArray[np.int32]  # [intakes]
    told: NDArray[Any]  # of TOLD
    told_steps: NDArray[np.int64]  # places in the cache's arena of what they are told
    ended: NDArray[Any]  # of ENDED
    dirty: NDArray[np.int64]  # [capacity]: numbers of sessions


Arrays = tuple[NDArray[Any], ...]  # of Records, all in one: a call of compiled code takes 1.6 us with them, with Records 4.7


@compiled
def opened(arrays: Arrays) -> Records:
    """The arrays as Records."""
    sessions, rows, counters, ring, held, free, counts, waiting, emptied, told, told_steps, ended, dirty = arrays
    pages = Pages(ring, held, free, counts)
    return Records(sessions, rows, counters, pages, waiting, emptied, told, told_steps, ended, dirty)
