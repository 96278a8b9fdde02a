"""Starts: sessions that begin with a momentary step, in place of the ones that have their ids.

Everything that can be wrong with the step or the moment is found before the former session is touched.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from stepstream_server.engine.admission import Admission
from stepstream_server.engine.backlog import Backlog, Rows
from stepstream_server.engine.lifecycle import Lifecycle, count_refused
from stepstream_server.engine.outcomes import explain
from stepstream_server.engine.ports import NO_STREAM, Ending, Ints, Origin, TurnReport
from stepstream_server.engine.table import SessionTable
from stepstream_server.errors import CallerError, Reason, StepStreamError


class Starts:
    """Opens sessions for the first steps of momentary callers."""

    def __init__(self, table: SessionTable, backlog: Backlog, admission: Admission, lifecycle: Lifecycle) -> None:
        self._table = table
        self._backlog = backlog
        self._admission = admission
        self._lifecycle = lifecycle

    def open(
        self, ids: Sequence[str], rows: Rows, valid: NDArray[np.bool_], beside: int, now: float, report: TurnReport
    ) -> list[int | StepStreamError]:
        """Opens a session per id, each by itself, for the row that is to be its first; or says why there is none.

        The ids are different. rows: each begins at 0, or else is refused; valid: whether its inputs are. beside: steps of
        others that may be admitted before them.
        """
        reasons = self._admission.why_not_first(rows, valid, beside, now)
        results: list[int | StepStreamError] = [0] * len(ids)
        for place in np.flatnonzero(reasons).tolist():
            reason, first, length = Reason(int(reasons[place])), int(rows["first"][place]), int(rows["length"][place])
            results[place] = CallerError(reason, explain(reason, first, length, 0))
            if reason is Reason.SERVER_DRAINING:
                count_refused(reason, report)
        fit = np.flatnonzero(reasons == 0).tolist()
        sessions = self._replace([ids[place] for place in fit], now, report)
        for place, session in zip(fit, sessions, strict=True):
            results[place] = session
        return results

    def _replace(self, ids: Sequence[str], now: float, report: TurnReport) -> list[int | StepStreamError]:
        """A former session ends here if nothing of it is pending; else it gives up its id, and ends as soon as nothing is."""
        former = self._table.numbers(ids)
        pending = np.isin(former, self._backlog.rows["session"])
        room = self._table.capacity - len(self._table)
        errors: dict[str, StepStreamError] = {}
        for session_id, session, adds in zip(ids, former.tolist(), (pending | (former < 0)).tolist(), strict=True):
            try:
                self._check(session_id, session, room > 0 or not adds)
                room -= adds
            except CallerError as error:
                errors[session_id] = error
                count_refused(error.reason, report)
        replaced = (former >= 0) & np.array([session_id not in errors for session_id in ids], np.bool_)
        for session in former[replaced & pending].tolist():
            self._table.give_up_id(session)
        self._end(former[replaced & ~pending], now, report)
        fit = [session_id for session_id in ids if session_id not in errors]
        opened = iter(self._lifecycle.create(fit, None, Origin.OPENED, now, report))
        return [errors.get(session_id) or next(opened) for session_id in ids]

    def _check(self, session_id: str, former: int, room: bool) -> None:
        self._table.check_id(session_id)
        if former >= 0 and self._table.stream[former] != NO_STREAM:
            message = f"session {session_id!r} is attached to a stream: no other one is started in its place"
            raise CallerError(Reason.SESSION_IN_USE, message, field="id")
        self._lifecycle.refuse_if_full(room)

    def _end(self, sessions: Ints, now: float, report: TurnReport) -> None:
        """Ends sessions whose ids others are to have; of some the end was answered in this turn already."""
        over = np.array([session in self._table.over for session in sessions.tolist()], np.bool_)
        self._lifecycle.end(sessions[over], Ending.CLOSED, now, report)
        self._lifecycle.end(sessions[~over], Ending.REPLACED, now, report)
