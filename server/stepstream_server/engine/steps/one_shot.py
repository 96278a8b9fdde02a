"""One-shot steps: of callers who hold no session and name it by id, and may begin and end it with a step.

They become rows for admission, or are refused. Everything that can be wrong with a step that begins a session, or with the
moment, is found before the session that has its id is touched.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stepstream_server.engine.books import Books
from stepstream_server.engine.books.records import NONE
from stepstream_server.engine.compiled import compiled
from stepstream_server.engine.outbox import Outbox, global_stream
from stepstream_server.engine.ports import NO_STREAM, Call, Ending, Ints, Origin, TurnReport
from stepstream_server.engine.sessions.calls import joined, part, rounds
from stepstream_server.engine.sessions.idempotency import answer_repeat
from stepstream_server.engine.sessions.lifecycle import Lifecycle, count_refused
from stepstream_server.engine.steps.admission import Admission
from stepstream_server.errors import CallerError, Reason, StepStreamError
from stepstream_server.tenancy import plain


class OneShot:
    """Takes in one-shot steps."""

    def __init__(self, books: Books, outbox: Outbox, admission: Admission, lifecycle: Lifecycle) -> None:
        self._books = books
        self._outbox = outbox
        self._admission = admission
        self._lifecycle = lifecycle

    def admit(self, door: int, calls: Sequence[Call], now: float, report: TurnReport) -> None:
        """Admits the rows of calls, those of one session in their order."""
        call = joined(calls)
        if not call.starts.any():
            self._admit(door, call, self._find(door, call, now, report), now)
        elif len(set(call.ids)) == len(call.ids):
            self._start(door, call, now, report)
        else:
            for places in rounds(call.ids):
                self._start(door, part(call, places), now, report)

    def refuse(self, door: int, call: Call, error: StepStreamError) -> None:
        """Refuses all rows of a call."""
        for row in call.rows:
            self._refuse(global_stream(door, int(row["stream"])), row, error)

    def _admit(self, door: int, call: Call, found: Ints, now: float) -> None:
        """Admits rows whose sessions were found, which are NONE where there is none."""
        if len(found) and found.min() == NONE:
            here = found != NONE
            call, found = part(call, here), found[here]
        if len(found):
            self._admission.one_shot(door, call, found, now)

    def _find(self, door: int, arrivals: Call, now: float, report: TurnReport) -> Ints:
        """The sessions of rows: [n]; NONE for those that start one, and for those that are settled, because nobody else may step
        there now."""
        found = self._books.table.numbers(arrivals.ids)
        if arrivals.secrets or not all_free(self._books.table.sessions, found):
            held = (found == NONE) | (self._books.table.stream[found] != NO_STREAM)
            if arrivals.secrets:
                held |= [secret != b"" for secret in arrivals.secrets]
            for place in np.flatnonzero(held & ~arrivals.starts).tolist():
                found[place] = self._claim(door, arrivals, place, now, report)
        return found

    def _claim(self, door: int, arrivals: Call, place: int, now: float, report: TurnReport) -> int:
        """The session of a row that is not open to everybody; NONE where the row has been answered or refused."""
        session_id, row = arrivals.ids[place], arrivals.rows[place]
        try:
            return self._books.table.claim(session_id, arrivals.secrets[place] if arrivals.secrets else b"")
        except StepStreamError as error:
            stream = global_stream(door, int(row["stream"]))
            last = None if session_id in self._books.table.barred else self._lifecycle.last_answer(session_id, now)
            if not answer_repeat(last, row, stream, self._outbox, report):  # the store may not know of the end yet
                self._refuse(stream, row, error)
            return NONE

    def _start(self, door: int, call: Call, now: float, report: TurnReport) -> None:
        """Admits rows of different ids, and opens sessions for those that start."""
        found, starts = self._find(door, call, now, report), np.flatnonzero(call.starts)
        unfit = self._admission.unfit(call.inputs, call.rows["length"])[starts]
        beside = int(call.rows["length"][~call.starts].sum())
        rows = call.rows[starts]
        rows["first"] = np.where(rows["unkept"], 0, rows["first"])
        opened = self._open([call.ids[place] for place in starts.tolist()], rows, unfit, beside, now, report)
        for place, row, session in zip(starts.tolist(), rows, opened, strict=True):
            found[place] = session if isinstance(session, int) else NONE
            if not isinstance(session, int):
                self._refuse(global_stream(door, int(row["stream"])), row, session)
        self._admit(door, call, found, now)

    def _open(
        self, ids: Sequence[str], rows: NDArray[Any], unfit: Ints, beside: int, now: float, report: TurnReport
    ) -> list[int | StepStreamError]:
        """Opens a session per row, each by itself, of which the row is to be the first; or says why there is none.

        unfit: reasons why the model does not take their inputs. beside: steps of other rows that may be admitted before them.
        """
        reasons = self._admission.why_not_first(rows, unfit, beside, now)
        results: list[int | StepStreamError] = [0] * len(ids)
        for place in np.flatnonzero(reasons).tolist():
            reason, first, length = Reason(int(reasons[place])), int(rows["first"][place]), int(rows["length"][place])
            results[place] = CallerError(reason, self._outbox.explain(reason, first, length, 0))
            if reason is Reason.SERVER_DRAINING:
                count_refused(reason, report)
        fit = np.flatnonzero(reasons == 0).tolist()
        sessions = self._replace([ids[place] for place in fit], now, report)
        for place, session in zip(fit, sessions, strict=True):
            results[place] = session
        return results

    def _replace(self, ids: Sequence[str], now: float, report: TurnReport) -> list[int | StepStreamError]:
        """A former session ends here if nothing of it is pending; else it gives up its id, and ends as soon as nothing is."""
        table = self._books.table
        former = table.numbers(ids)
        pending = (former != NONE) & self._books.pending_of(former)
        room = self._lifecycle.room()
        errors: dict[str, StepStreamError] = {}
        for session_id, session, adds in zip(ids, former.tolist(), (pending | (former == NONE)).tolist(), strict=True):
            try:
                self._check(session_id, session)
                room.refuse_if_full(session_id, leaving=not adds)
                if adds:
                    room.take(session_id)
            except StepStreamError as error:
                errors[session_id] = error
                count_refused(error.reason, report)
        replaced = (former != NONE) & np.array([session_id not in errors for session_id in ids], np.bool_)
        for session in former[replaced & pending].tolist():
            self._lifecycle.give_up_id(session)
        self._end(former[replaced & ~pending], now, report)
        fit = [session_id for session_id in ids if session_id not in errors]
        created = self._lifecycle.create(fit, None, now, report)
        self._lifecycle.begin([each for each in created if isinstance(each, int)], Origin.OPENED, now, report)
        opened = iter(created)
        return [errors.get(session_id) or next(opened) for session_id in ids]

    def _check(self, session_id: str, former: int) -> None:
        """Raises CallerError if no session can be started under the id."""
        self._books.table.check_id(session_id)
        self._books.table.refuse_if_barred(session_id)
        if former != NONE and self._books.table.stream[former] != NO_STREAM:
            message = f"session {plain(session_id)!r} is attached to a stream: no other one is started in its place"
            raise CallerError(Reason.SESSION_IN_USE, message, field="id")

    def _end(self, sessions: Ints, now: float, report: TurnReport) -> None:
        """Ends sessions whose ids others are to have; of some the end was answered in this turn already."""
        over = np.array([session in self._books.table.over for session in sessions.tolist()], np.bool_)
        self._lifecycle.end(sessions[over], Ending.CLOSED, now, report)
        self._lifecycle.end(sessions[~over], Ending.REPLACED, now, report)

    def _refuse(self, stream: int, row: Any, error: StepStreamError) -> None:
        first, length = max(int(row["first"]), 0), int(row["length"])
        self._outbox.refuse(stream, int(row["handle"]), first, length, error.reason, error.expected_seq, error.message)


@compiled
def all_free(sessions: NDArray[Any], found: Ints) -> bool:
    """Tells whether all sessions are there, and held by no stream."""
    others = 0
    for number in found:
        others += number == NONE or sessions[number]["stream"] != NO_STREAM
    return others == 0
