"""Admission: what becomes of a row when it arrives, by the rules of exactly once.

The admission point of a session is `next_seq` plus what is pending. A row that begins there is admitted; what lies below was
applied or is pending and will be answered from the cache; a row above is refused with the number expected. Whatever the
outcome, the row joins the backlog, so that each session hears outcomes in input order. All of it is array operations over the
rows of a turn: an unkind block costs hardly more than a kind one.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from stepstream_server.config import EngineSettings
from stepstream_server.engine.answers import AnswerCache
from stepstream_server.engine.arrivals import sums_before
from stepstream_server.engine.backlog import Backlog, Kind, Rows
from stepstream_server.engine.ledger import to_keep
from stepstream_server.engine.ports import Ints, Keep, Tensor
from stepstream_server.engine.table import SessionTable, Status
from stepstream_server.errors import Reason
from stepstream_server.spec import ModelSpec, TensorSpec


class Admission:
    """Takes rows of known sessions into the backlog and moves the sessions' admission points."""

    def __init__(
        self, spec: ModelSpec, settings: EngineSettings, table: SessionTable, backlog: Backlog, cache: AnswerCache
    ) -> None:
        self._inputs = spec.inputs
        self._settings = settings
        self._table = table
        self._backlog = backlog
        self._cache = cache
        self._window_kept = cache.steps_within(settings.window_bytes)

    def valid(self, inputs: tuple[Tensor, ...], lengths: Ints) -> NDArray[np.bool_]:
        """Which rows consist of numbers that the model takes: [n]."""
        valid = _valid(self._inputs[0], inputs[0])
        for spec, values in zip(self._inputs[1:], inputs[1:], strict=True):
            valid &= _valid(spec, values)
        if len(valid) == len(lengths):
            return valid
        rows: NDArray[np.bool_] = np.logical_and.reduceat(valid, np.cumsum(lengths) - lengths)
        return rows

    def enter(self, rows: Rows, inputs: tuple[Tensor, ...], valid: NDArray[np.bool_]) -> None:
        """Splits rows at the acknowledged count and at the admission point, and appends the parts."""
        table = self._table
        once = self._table.firsts(rows["session"])
        if not once.all():
            self.enter(rows[once], inputs, valid[once])
            self._append(rows[~once], Kind.REFUSE, Reason.INVALID_ARGUMENT)
            return
        sessions, first = rows["session"], rows["first"]
        admitted = table.admitted[sessions]
        if (first == admitted).all():
            self._admit_new(rows, inputs, valid)
            return
        end, acked = first + rows["length"], table.acked[sessions]
        gone = first < acked
        self._append(_part(rows[gone], first[gone], np.minimum(end, acked)[gone]), Kind.REFUSE, Reason.ANSWER_DISCARDED)
        old = (first < admitted) & (end > acked)
        self._append(_part(rows[old], np.maximum(first, acked)[old], np.minimum(end, admitted)[old]), Kind.REPEAT)
        new = end > admitted
        self._admit_new(_part(rows[new], np.maximum(first, admitted)[new], end[new]), inputs, valid[new])

    def enter_sequels(
        self, rows: Rows, inputs: tuple[Tensor, ...], valid: NDArray[np.bool_], acknowledge: Callable[[], None]
    ) -> bool:
        """Admits steps of which each goes on where its session's row before ends, as those do that are sent ahead.

        False, with none admitted, unless all of them can be admitted just so: what one of them is told could depend on the one
        before. Without this, a client that sends thousands of single steps ahead would hold all others up. acknowledge: what
        comes with the rows; called before they are admitted, and perhaps though they are not.
        """
        table, sessions, lengths = self._table, rows["session"], rows["length"]
        order = np.argsort(sessions, kind="stable")
        ahead = sums_before(sessions, lengths, order)  # steps of its session in rows before
        sequels = (
            (rows["first"] == table.admitted[sessions] + ahead).all()
            and ((table.status[sessions] == Status.OPEN) | (table.status[sessions] == Status.RESETTING)).all()
            and valid.all()
            and not table.draining
        )
        if not sequels:
            return False
        acknowledge()  # none of the rows repeats what this lets go of
        kept = to_keep(rows)
        if (
            (rows["first"] != table.admitted[sessions] + ahead).any()  # something before them has failed meanwhile
            or self._overflow(lengths, kept).any()
            or (rows["first"] + lengths - table.released[sessions] > self._settings.window_steps).any()
            or (table.kept[sessions] + sums_before(sessions, kept, order) + kept > self._window_kept).any()
        ):
            return False
        np.add.at(table.admitted, sessions, lengths)
        np.add.at(table.kept, sessions, kept)
        self._backlog.append(rows, inputs)
        return True

    def _admit_new(self, rows: Rows, inputs: tuple[Tensor, ...], valid: NDArray[np.bool_]) -> None:
        """Appends rows of distinct sessions that begin at their admission points or above, as what they turn out to be."""
        table = self._table
        sessions, steps, step = rows["session"], rows["length"], rows["kind"] == Kind.APPLY
        kept = to_keep(rows)
        quarantined, rolling = step & (table.status[sessions] == Status.QUARANTINED), table.status[sessions] == Status.ROLLING
        columns = (table.admitted[sessions], table.released[sessions], table.kept[sessions])
        refused, refusals = self._refusals(rows, valid, kept, quarantined, rolling, *columns)
        if refused.any():
            rows["kind"][refused] = Kind.REFUSE
            rows["reason"] = np.select(list(refusals.values()), list(refusals))
            rows_in = np.flatnonzero(~refused)
            sessions, steps, kept = sessions[rows_in], steps[rows_in], kept[rows_in]
        table.admitted[sessions] += steps
        table.kept[sessions] += kept
        if not step.all():
            resets = rows["session"][rows["kind"] == Kind.RESET]
            table.status[resets[table.status[resets] == Status.QUARANTINED]] = Status.RESETTING
        self._backlog.append(rows, inputs)

    def why_not_first(self, rows: Rows, valid: NDArray[np.bool_], beside: int, now: float) -> Ints:
        """Why rows could not be the first of new sessions, as numbers of Reasons; 0 where they could: [n].

        beside: steps of other rows that may be admitted before them.
        """
        none, never = np.zeros(len(rows), np.int64), np.zeros(len(rows), np.bool_)
        _, refusals = self._refusals(rows, valid, to_keep(rows), never, never, none, none, none, beside)
        refusals[Reason.DEADLINE_EXCEEDED] = rows["deadline"] <= now
        refused = np.logical_or.reduce(list(refusals.values())).any()
        return np.select(list(refusals.values()), list(refusals)) if refused else none

    def _refusals(
        self,
        rows: Rows,
        valid: NDArray[np.bool_],
        kept: Ints,
        quarantined: NDArray[np.bool_],
        rolling: NDArray[np.bool_],
        admitted: Ints,
        released: Ints,
        kept_before: Ints,
        beside: int = 0,
    ) -> tuple[NDArray[np.bool_], dict[Reason, NDArray[np.bool_]]]:
        """Which rows are refused, and for what; the first that applies is what the caller hears. All arguments are [n].

        kept: answers that each row will keep; admitted, released, kept_before: where its session stands. beside: as above.
        """
        steps = rows["length"]
        refusals = {
            Reason.SESSION_IN_USE: rolling,
            Reason.SEQUENCE_MISMATCH: rows["first"] > admitted,
            Reason.SERVER_DRAINING: np.full(len(rows), self._table.draining),
            Reason.SESSION_QUARANTINED: quarantined,
            self._invalid: ~valid,
            Reason.WINDOW_FULL: (rows["first"] + steps - released > self._settings.window_steps)
            | (kept_before + kept > self._window_kept),
        }
        refused = np.logical_or.reduce(list(refusals.values()))
        refusals[Reason.QUEUE_FULL] = self._overflow(steps * ((rows["kind"] == Kind.APPLY) & ~refused), kept * ~refused, beside)
        return refused | refusals[Reason.QUEUE_FULL], refusals

    @property
    def _invalid(self) -> Reason:
        return Reason.NON_FINITE_INPUT if self._inputs[0].dtype == "float32" else Reason.INPUT_OUT_OF_RANGE

    def _overflow(self, steps: Ints, kept: Ints, beside: int = 0) -> NDArray[np.bool_]:
        """Which rows the server has no room for: [n]. The first that fit are served."""
        room = self._settings.max_pending_steps - self._backlog.steps - beside
        full = np.zeros(len(steps), np.bool_)
        if steps.sum() > room:
            full |= ((steps > room) | (np.cumsum(steps * (steps <= room)) > room)) & (steps > 0)
        if self._cache.bytes_used >= self._settings.cache_bytes:
            full |= kept > 0
        return full

    def _append(self, rows: Rows, kind: int, reason: Reason | None = None) -> None:
        """Appends rows that need no inputs."""
        rows["kind"], rows["reason"] = kind, reason or 0
        self._backlog.append(rows)


def _valid(spec: TensorSpec, values: Tensor) -> NDArray[np.bool_]:
    """Which steps of one input [steps, *shape] are valid: finite floats, ids below the limit."""
    within = np.isfinite(values) if spec.dtype == "float32" else (values >= 0) & (values < spec.limit)
    return np.asarray(within.all(axis=tuple(range(1, within.ndim))))


def _part(rows: Rows, first: Ints, end: Ints) -> Rows:
    """Copies of rows, cut to [first, end)."""
    cut_short = end != rows["first"] + rows["length"]  # the row's last step is not in this part
    rows["keep"][cut_short & (rows["keep"] == Keep.LAST)] = Keep.NONE
    rows["ends"][cut_short] = False
    rows["offset"] += first - rows["first"]
    rows["first"], rows["length"] = first, end - first
    return rows
