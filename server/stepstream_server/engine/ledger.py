"""The ledger: where each session's numbers stand, moved by acknowledgements and by what will never be applied.

`acked <= next_seq <= admitted`: answers below `acked` are not wanted any more, steps below `next_seq` are applied, those up to
`admitted` are pending in the backlog, without a gap. `kept` counts the outputs that the cache holds or will hold for the
pending ones.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from stepstream_server.engine.answers import AnswerCache
from stepstream_server.engine.backlog import Backlog, Kind, Rows
from stepstream_server.engine.ports import Ints, Keep
from stepstream_server.engine.table import SessionTable, Status
from stepstream_server.errors import Reason

KEEP_ALL, KEEP_LAST = int(Keep.ALL), int(Keep.LAST)  # numpy compares with plain numbers


class Ledger:
    """The only writer of `admitted`, `acked`, `released` and `kept`, but for admission, settling, and sessions just opened."""

    def __init__(self, table: SessionTable, backlog: Backlog, cache: AnswerCache, answer_repeats: Callable[[], object]) -> None:
        self._table = table
        self._backlog = backlog
        self._cache = cache
        self._answer_repeats = answer_repeats  # as far as nothing that is pending stands before them
        self._late: set[int] = set()  # sessions whose acknowledged answers wait for a repeat

    def acknowledge(self, sessions: Ints, counts: Ints) -> None:
        """Lets go of answers below each count; lower counts than before change nothing, higher ones than next_seq are clamped."""
        table = self._table
        if self._backlog.repeats and table.repeats[sessions].any():
            self._answer_repeats()
        if not table.firsts(sessions).all():
            sessions, places = np.unique(sessions, return_inverse=True)
            highest = np.zeros(len(sessions), np.int64)
            np.maximum.at(highest, places, counts)
            counts = highest
        old, next_seq = table.acked[sessions], table.next_seq[sessions]
        new = np.maximum(old, np.minimum(counts, next_seq))
        released = new - old
        sparse = (table.kept[sessions] != table.admitted[sessions] - old).nonzero()[0]  # some steps keep no outputs
        if sparse.size:
            released[sparse] = self._cache.count(sessions[sparse], old[sparse], new[sparse])
        table.kept[sessions] -= released
        table.acked[sessions] = new
        self._release(sessions)

    def release_late(self) -> None:
        """Lets go of what acknowledgements had to leave for repeats that have been answered since."""
        if self._late:
            late, self._late = np.array(sorted(self._late), np.int64), set()
            self._release(late)

    def _release(self, sessions: Ints) -> None:
        """Lets go of acknowledged answers of distinct sessions, but for those that have a repeat waiting: it was sent before."""
        table, backlog = self._table, self._backlog
        if backlog.repeats:
            awaited = table.repeats[sessions] > 0
            self._late.update(sessions[awaited].tolist())
            sessions = sessions[~awaited]
        self._cache.release(sessions, table.released[sessions], table.acked[sessions], table.next_seq[sessions])
        table.released[sessions] = table.acked[sessions]

    def move_on(self, sessions: Ints, steps: int) -> None:
        """So many steps that no row asked for were applied to distinct sessions of which nothing is pending. Nobody will
        acknowledge them: where nothing before them waits for that, they do not either."""
        table = self._table
        alone = sessions[
            (table.acked[sessions] == table.next_seq[sessions]) & (table.released[sessions] == table.acked[sessions])
        ]
        table.next_seq[sessions] += steps
        table.admitted[sessions] = table.next_seq[sessions]
        table.acked[alone] = table.released[alone] = table.next_seq[alone]

    def cut_back(self, sessions: Ints, seqs: Ints) -> None:
        """Go back N: nothing of these sessions is pending from seq on; rows that were are refused where they stand.

        A pending row always lies below its session's admission point, so those that no longer do are the ones to refuse.
        """
        table, rows = self._table, self._backlog.rows
        np.minimum.at(table.admitted, sessions, seqs)
        doomed = np.flatnonzero(_pending(rows) & (rows["first"] >= table.admitted[rows["session"]]))
        self._withdraw(rows[doomed])
        self._backlog.refuse(doomed, Reason.SEQUENCE_MISMATCH)
        if (table.status[sessions] == Status.RESETTING).any():
            still = rows["session"][rows["kind"] == Kind.RESET]
            dropped = np.setdiff1d(sessions[table.status[sessions] == Status.RESETTING], still)
            table.status[dropped] = Status.QUARANTINED

    def drop(self, rows_gone: NDArray[np.bool_]) -> None:
        """Removes rows by mask, whose streams nobody listens to any more; what was pending behind them is refused."""
        if not rows_gone.any():
            return
        gone = self._backlog.rows[rows_gone]
        gone = gone[_pending(gone)]
        self._withdraw(gone)
        self._backlog.remove(rows_gone)
        self.cut_back(gone["session"], gone["first"])
        self.release_late()  # repeats that held answers back may be among what is gone

    def _withdraw(self, rows: Rows) -> None:
        """What these rows were to keep, they will not."""
        np.subtract.at(self._table.kept, rows["session"], to_keep(rows))


def to_keep(rows: Rows) -> Ints:
    """How many answers of each row with steps to apply will be kept in the cache: [n]."""
    keep = rows["keep"]
    kept: Ints = np.where(keep == KEEP_ALL, rows["length"], keep == KEEP_LAST) * rows["cached"]
    return kept


def _pending(rows: Rows) -> NDArray[np.bool_]:
    """Which rows were admitted and are not applied yet."""
    pending: NDArray[np.bool_] = ((rows["kind"] == Kind.APPLY) | (rows["kind"] == Kind.RESET)) & (rows["length"] > 0)
    return pending
