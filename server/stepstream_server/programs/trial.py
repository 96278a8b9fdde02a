"""Finds out how the rows of a graph must be computed together, so that a session's bits do not depend on its batch.

Whether they do is not to be seen in a graph: kernels take other paths for one row than for two, leave the end of a buffer to
other code, or put one scale over a whole batch; and an axis that is taken for the batch may be time. So batches of many sizes are
run and compared row by row. What holds for every size tried that a number m divides holds for launches of a multiple of m rows.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import NamedTuple

from stepstream_server.programs import buffer_end
from stepstream_server.programs.launches import Clock, Differs, Launches, Marks, agree
from stepstream_server.programs.layout import row_bytes
from stepstream_server.programs.runtime import Sessions
from stepstream_server.spec import ModelSpec

MULTIPLES = (1, 2, 4, 8, 16)
_FACTORS = (1, 2, 3, 5, 8)  # of a multiple: sizes that are tried of it, and then twice as many rows each time
_LAUNCH_BYTES = 1 << 28  # of inputs, outputs and states: more rows share nothing more, and memory is slower than they are
_FEW_ROWS = 64  # below, a launch does not make the most of a core


class Trial(NamedTuple):
    """How a model's launches are to be."""

    multiple: int  # of so many rows; 0: one row per launch
    max_batch: int  # rows of the largest launch that was tried
    seconds: float  # of processor time
    reason: str = ""  # why not any number of rows
    limit: str = ""  # why no more rows, where more were wanted

    @property
    def batching(self) -> str:
        """How launches are to be, in words."""
        if self.multiple == 1:
            return "any number of rows"
        rows = f"rows in multiples of {self.multiple}" if self.multiple else "one row per launch"
        return f"{rows}, since {self.reason}"

    @property
    def is_small(self) -> bool:
        """Tells whether launches cannot make the most of a core, though rows may be computed together and were wanted."""
        return self.multiple > 0 and self.max_batch < _FEW_ROWS and bool(self.limit)


def try_batches(
    sessions: Sessions, spec: ModelSpec, *, operator: str, most: int, seconds: float, clock: Clock = time.process_time
) -> Trial:
    """Tries larger and larger batches, up to `most` rows and as long as the next one is likely to be done within `seconds`.

    operator: one whose bits depend on where a buffer ends, or nothing: see `buffer_end`. clock: of processor time, so that a
    machine that is busy with other things when a server starts does not leave it with small batches for ever. Raises BundleError
    for a graph that cannot compute steps of one session, or gives other results for equal inputs.
    """
    search = _Search(Launches(sessions, spec, clock), operator)
    begun, worth = clock(), _LAUNCH_BYTES // row_bytes(spec)
    # As many rows as the largest multiple in any case, since it may be that which serves.
    largest, limit = max(min(most, worth), MULTIPLES[-1]), ""
    while search.candidates and not limit:
        rows = search.next_size()
        if search.is_sound and rows > largest:
            limit = "" if largest >= most else f"larger ones would move more than {_LAUNCH_BYTES >> 20} MiB"
            break
        if search.is_sound and clock() - begun + search.expected(rows) >= seconds:
            limit = f"larger ones take longer to try than backend.trial_seconds, {seconds:g}"
            break
        limit = search.take(rows)
    if not search.candidates:
        return Trial(0, 1, clock() - begun, search.reason)
    best = search.candidates[0]
    return Trial(best.multiple, min(best.largest, most), clock() - begun, search.reason, limit)


class _Candidate:
    """A multiple of which nothing speaks against launches so far."""

    def __init__(self, multiple: int) -> None:
        self.multiple = multiple
        self.largest = 0  # rows of the largest launch that agreed with the others
        self._known: Marks = {}

    def stands(self, rows: int, marks: Marks | None) -> bool:
        """Takes note of a launch; None: sessions in it did not agree. Returns whether the multiple still stands."""
        if rows % self.multiple:
            return True
        if marks is None or not agree(self._known, marks):
            return False
        self.largest = max(self.largest, rows)
        return True


class _Search:
    """The multiples that still stand, and the sizes that were tried."""

    def __init__(self, launches: Launches, operator: str) -> None:
        self._launches = launches
        self._tried: set[int] = set()
        self.candidates = [_Candidate(multiple) for multiple in MULTIPLES if not operator or multiple >= buffer_end.ROWS]
        self.reason = f"the bits of {operator} depend on where a buffer ends" if operator else ""
        launches.check_alone()

    @property
    def is_sound(self) -> bool:
        """Tells whether the smallest multiple that stands has been tried at all."""
        return self.candidates[0].largest > 0

    def next_size(self) -> int:
        """Rows to try next."""
        return next(size for size in _sizes(self.candidates[0].multiple) if size not in self._tried)

    def expected(self, rows: int) -> float:
        """Seconds that so many rows will take."""
        return self._launches.expected(rows)

    def take(self, rows: int) -> str:
        """Tries so many rows. Returns why no larger batches are launched, once some have been found that may not be."""
        self._tried.add(rows)
        marks, differs = None, f"a session's results in a batch of {rows} are not those that it has in others"
        try:
            marks = self._launches.marks(rows, thoroughly=rows == max(2, self.candidates[0].multiple))
        except Differs as error:
            differs = str(error)
        lost = [each for each in self.candidates if not each.stands(rows, marks)]
        left = [each for each in self.candidates if each not in lost]
        if lost and not left:
            # Many rows may take a path of their own: launches stay below, where two sizes at least have agreed.
            sound = [each for each in lost if each.largest >= 2 * each.multiple]
            self.candidates = sound
            if sound:
                return differs
        else:
            self.candidates = left
        self.reason = self.reason or (differs if lost else "")
        return ""


def _sizes(multiple: int) -> Iterator[int]:
    """Rows to try of a multiple, ascending, without an end."""
    yield from (multiple * factor for factor in _FACTORS)
    rows = multiple * _FACTORS[-1]
    while True:
        rows *= 2
        yield rows
