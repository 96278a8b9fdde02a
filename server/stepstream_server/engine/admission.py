"""Admission: what becomes of a row when it arrives, by the rules of exactly once.

The admission point of a session is `next_seq` plus what is pending. A row that begins there is admitted; what lies below was
applied or is pending and will be answered from the cache; a row above is refused with the number expected. Whatever the
outcome, the row joins the backlog, so that each session hears outcomes in input order. Whole blocks are admitted by array
operations; only rows with something special about them are looked at one by one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stepstream_server.config import EngineSettings
from stepstream_server.engine.answers import AnswerCache
from stepstream_server.engine.backlog import ROW, Backlog, Kind, Rows
from stepstream_server.engine.outbox import Outbox
from stepstream_server.engine.ports import NO_SEQ, NO_STREAM, Block, Call, Ints, Keep, Reset, Tensor
from stepstream_server.engine.table import SessionTable, Status
from stepstream_server.errors import CallerError, Reason
from stepstream_server.spec import ModelSpec, TensorSpec


class Admission:
    """Turns arriving rows into backlog rows and keeps the sessions' admission points."""

    def __init__(
        self,
        spec: ModelSpec,
        settings: EngineSettings,
        table: SessionTable,
        backlog: Backlog,
        cache: AnswerCache,
        outbox: Outbox,
    ) -> None:
        self._inputs = spec.inputs
        self._settings = settings
        self._table = table
        self._backlog = backlog
        self._cache = cache
        self._outbox = outbox
        # Outputs that one session may have kept, and how many all of them together (an answer must always find room).
        self._window_kept = max(1, settings.window_bytes // cache.step_bytes)
        self._position = np.zeros(table.capacity, np.int64)  # scratch for `_distinct`

    def admit(self, blocks: Sequence[tuple[int, Block]]) -> None:
        """Admits blocks, each with its engine-wide stream, in order."""
        if blocks:
            for group in self._groups(blocks):
                self._admit_group(group)

    def admit_call(self, call: Call, stream: int) -> None:
        """Admits a momentary step. Raises CallerError if the session is not there or belongs to somebody else now."""
        table = self._table
        session = table.find(call.id)
        if call.secret and not table.owns(session, call.secret):
            raise CallerError(Reason.SECRET_MISMATCH, f"secret: not that of session {call.id!r}", field="secret")
        if not call.secret and table.stream[session] != NO_STREAM:
            raise CallerError(
                Reason.SESSION_IN_USE, f"session {call.id!r} is attached to a stream; its secret is needed", field="secret"
            )
        if call.seq != NO_SEQ:
            self.acknowledge(np.array([session]), np.array([call.seq]))
        row = np.zeros(1, ROW)
        row["session"], row["stream"] = session, stream
        row["first"] = table.admitted[session] if call.seq == NO_SEQ else call.seq
        row["length"], row["keep"], row["cached"] = call.length, call.keep, call.seq != NO_SEQ
        row["arrival"], row["deadline"] = call.arrival, call.deadline
        self._admit_one(row, call.inputs, bool(self._valid_steps(call.inputs).all()))

    def reset(self, reset: Reset, stream: int) -> None:
        """Admits resets: like steps without inputs and outputs."""
        current = self._table.current(reset.sessions, reset.generations, stream)
        for index in range(len(reset.sessions)):
            row = np.zeros(1, ROW)
            row["session"], row["stream"], row["tag"] = reset.sessions[index], stream, reset.tags[index]
            row["first"], row["length"], row["kind"] = reset.seqs[index], 1, Kind.RESET
            row["keep"], row["cached"] = Keep.NONE, True
            row["arrival"], row["deadline"] = reset.arrival, np.inf
            if current[index]:
                self._admit_one(row, (), True)
            else:
                self._refuse_detached(row)

    def acknowledge(self, sessions: Ints, counts: Ints) -> None:
        """Lets go of answers below each count; lower counts than before change nothing, higher ones than next_seq are clamped."""
        table = self._table
        if not self._distinct(sessions):
            for session, count in zip(sessions.tolist(), counts.tolist(), strict=True):
                self.acknowledge(np.array([session]), np.array([count]))
            return
        old, next_seq = table.acked[sessions], table.next_seq[sessions]
        new = np.maximum(old, np.minimum(counts, next_seq))
        released = new - old
        sparse = np.flatnonzero(table.kept[sessions] != table.admitted[sessions] - old)  # some steps keep no outputs
        if sparse.size:
            released[sparse] = self._cache.count(sessions[sparse], old[sparse], new[sparse])
        table.kept[sessions] -= released
        table.acked[sessions] = new
        self._cache.release(sessions, old, new, next_seq)

    def fail_from(self, session: int) -> None:
        """Refuses all that is pending of a session (go back N): the next step accepted is again `next_seq`."""
        table, backlog = self._table, self._backlog
        positions = backlog.of_session(session)
        kinds = backlog.rows["kind"][positions]
        backlog.refuse(positions[(kinds == Kind.APPLY) | (kinds == Kind.RESET)], Reason.SEQUENCE_MISMATCH)
        table.admitted[session] = table.next_seq[session]
        if table.status[session] == Status.RESETTING:
            table.status[session] = Status.QUARANTINED
        one = np.array([session])
        table.kept[session] = self._cache.count(one, table.acked[one], table.next_seq[one])[0]

    def _groups(self, blocks: Sequence[tuple[int, Block]]) -> Iterator[Sequence[tuple[int, Block]]]:
        """Runs of blocks in which no session occurs in two blocks, so that their order within the run does not matter."""
        if len(blocks) < 2 or self._distinct(_concatenate([block.sessions for _, block in blocks])):
            yield blocks
            return
        run: list[tuple[int, Block]] = []
        seen: set[int] = set()
        for stream, block in blocks:
            sessions = block.sessions.tolist()
            if not seen.isdisjoint(sessions):
                yield run
                run, seen = [], set()
            seen.update(sessions)
            run.append((stream, block))
        yield run

    def _admit_group(self, blocks: Sequence[tuple[int, Block]]) -> None:
        table = self._table
        rows, generations, inputs = _join(blocks)
        sessions, first, length = rows["session"], rows["first"], rows["length"]
        current = table.current(sessions, generations, rows["stream"])
        self._acknowledge_blocks(blocks, current)
        kept = np.where(rows["keep"] == Keep.ALL, length, rows["keep"] == Keep.LAST)
        valid = self._valid_rows(inputs, length)
        plain = (
            current
            & valid
            & (table.status[sessions] == Status.OPEN)
            & (first == table.admitted[sessions])
            & (first + length - table.acked[sessions] <= self._settings.window_steps)
            & (table.kept[sessions] + kept <= self._window_kept)
        )
        room = self._backlog.steps + int(length.sum()) <= self._settings.max_pending_steps
        if room and self._distinct(sessions):
            if plain.all():
                self._enter(rows, kept, inputs)
                return
            self._enter(rows[plain], kept[plain], inputs)
        else:
            plain[:] = False
        for index in np.flatnonzero(~plain).tolist():
            row = rows[index : index + 1].copy()
            if current[index]:
                self._admit_one(row, inputs, bool(valid[index]))
            else:
                self._refuse_detached(row)

    def _enter(self, rows: Rows, kept: Ints, inputs: tuple[Tensor, ...]) -> None:
        """Appends rows of distinct sessions that begin at their admission points."""
        sessions = rows["session"]
        self._table.admitted[sessions] += rows["length"]
        self._table.kept[sessions] += kept
        self._backlog.append(rows, inputs)

    def _admit_one(self, row: Rows, inputs: tuple[Tensor, ...], valid: bool) -> None:
        """Splits one row [1] at the acknowledged count and at the admission point, and enters the parts."""
        table = self._table
        session = int(row["session"][0])
        first, length = int(row["first"][0]), int(row["length"][0])
        acked, admitted = int(table.acked[session]), int(table.admitted[session])
        end = first + length
        if first > admitted:
            self._append(row, first, end, Kind.REFUSE, Reason.SEQUENCE_MISMATCH)
            return
        if first < acked:
            self._append(row, first, min(end, acked), Kind.REFUSE, Reason.ANSWER_DISCARDED)
        if first < admitted and end > acked:
            self._append(row, max(first, acked), min(end, admitted), Kind.REPEAT)
        if end <= admitted:
            return
        reason = self._refusal(row, end - admitted, valid)
        if reason is not None:
            self._append(row, admitted, end, Kind.REFUSE, reason)
            return
        kept = _kept(row, end - admitted)
        table.admitted[session] = end
        table.kept[session] += kept if row["cached"][0] else 0
        if row["kind"][0] == Kind.RESET and table.status[session] == Status.QUARANTINED:
            table.status[session] = Status.RESETTING
        self._append(row, admitted, end, Kind(int(row["kind"][0])), inputs=inputs)

    def _refusal(self, row: Rows, steps: int, valid: bool) -> Reason | None:
        """Why the last `steps` steps of a row, which begin at the admission point, cannot be admitted."""
        table, session = self._table, int(row["session"][0])
        reset = row["kind"][0] == Kind.RESET
        if table.status[session] == Status.QUARANTINED and not reset:
            return Reason.SESSION_QUARANTINED
        if not valid:
            return Reason.NON_FINITE_INPUT if self._inputs[0].dtype == "float32" else Reason.INPUT_OUT_OF_RANGE
        kept = _kept(row, steps)
        within_steps = table.admitted[session] + steps - table.acked[session] <= self._settings.window_steps
        if not within_steps or table.kept[session] + kept > self._window_kept:
            return Reason.WINDOW_FULL
        if self._backlog.steps + steps > self._settings.max_pending_steps and not reset:
            return Reason.QUEUE_FULL
        return None

    def _append(
        self,
        row: Rows,
        first: int,
        end: int,
        kind: Kind,
        reason: Reason | None = None,
        inputs: tuple[Tensor, ...] = (),
    ) -> None:
        """Appends the part [first, end) of a row."""
        part = row.copy()
        if row["keep"][0] == Keep.LAST and end != row["first"][0] + row["length"][0]:
            part["keep"] = Keep.NONE  # the row's last step is not in this part
        part["offset"] += first - row["first"]
        part["first"], part["length"], part["kind"] = first, end - first, kind
        part["reason"] = reason or 0
        self._backlog.append(part, inputs)

    def _refuse_detached(self, row: Rows) -> None:
        """Answers a row of a handle that has been detached: there is no session to keep it in order with."""
        tag = int(row["tag"][0])
        message = f"handle {tag} is not attached to a session on this stream"
        first, length = int(row["first"][0]), int(row["length"][0])
        self._outbox.refuse(int(row["stream"][0]), tag, first, length, Reason.HANDLE_UNKNOWN, 0, message)

    def _acknowledge_blocks(self, blocks: Sequence[tuple[int, Block]], current: NDArray[np.bool_]) -> None:
        start, sessions, counts = 0, [], []
        for _, block in blocks:
            end = start + len(block.sessions)
            if block.acked is not None:
                here = current[start:end]
                sessions.append(block.sessions[here])
                counts.append(block.acked[here])
            start = end
        if sessions:
            self.acknowledge(_concatenate(sessions), _concatenate(counts))

    def _distinct(self, sessions: Ints) -> bool:
        """Whether no session occurs twice: then each finds its own position where it has written it."""
        if len(sessions) < 2:
            return True
        positions = np.arange(len(sessions))
        self._position[sessions] = positions
        return bool((self._position[sessions] == positions).all())

    def _valid_steps(self, inputs: tuple[Tensor, ...]) -> NDArray[np.bool_]:
        """Which steps are numbers that the model takes: [steps]."""
        valid = np.ones(len(inputs[0]), np.bool_)
        for spec, values in zip(self._inputs, inputs, strict=True):
            valid &= _valid(spec, values)
        return valid

    def _valid_rows(self, inputs: tuple[Tensor, ...], lengths: Ints) -> NDArray[np.bool_]:
        """Which rows consist of valid steps: [n]."""
        steps = self._valid_steps(inputs)
        if len(steps) == len(lengths):
            return steps
        valid: NDArray[np.bool_] = np.logical_and.reduceat(steps, np.cumsum(lengths) - lengths)
        return valid


def _kept(row: Rows, steps: int) -> int:
    """How many of the last `steps` steps of one row [1] come with outputs."""
    return steps if row["keep"][0] == Keep.ALL else int(row["keep"][0] == Keep.LAST)


def _valid(spec: TensorSpec, values: Tensor) -> NDArray[np.bool_]:
    """Which steps of one input [steps, *shape] are valid: finite floats, ids below the limit."""
    within = np.isfinite(values) if spec.dtype == "float32" else (values >= 0) & (values < spec.limit)
    return np.asarray(within.reshape(len(values), -1).all(axis=1))


def _join(blocks: Sequence[tuple[int, Block]]) -> tuple[Rows, Ints, tuple[Tensor, ...]]:
    """Rows of all blocks, their generations, and their inputs as one array per declared input."""
    only = [block for _, block in blocks]
    counts = [len(block.sessions) for block in only]
    rows = np.zeros(sum(counts), ROW)
    rows["session"] = _concatenate([block.sessions for block in only])
    rows["first"] = _concatenate([block.first_seqs for block in only])
    rows["length"] = lengths = _concatenate([block.lengths for block in only])
    rows["offset"] = np.cumsum(lengths) - lengths
    rows["tag"] = _concatenate([block.tags for block in only])
    rows["cached"] = True
    rows["stream"] = _spread([stream for stream, _ in blocks], counts)
    rows["keep"] = _spread([block.keep for block in only], counts)
    rows["arrival"] = _spread([block.arrival for block in only], counts)
    rows["deadline"] = _spread([block.deadline for block in only], counts)
    generations = _concatenate([block.generations for block in only])
    inputs = tuple(_concatenate(parts) for parts in zip(*(block.inputs for block in only), strict=True))
    return rows, generations, inputs


def _spread(values: Sequence[float], counts: Sequence[int]) -> float | NDArray[Any]:
    """Each block's value for each of its rows."""
    return values[0] if len(values) == 1 else np.repeat(values, counts)


def _concatenate(parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
