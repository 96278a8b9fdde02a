"""Admission: what becomes of a row when it arrives, by the rules of exactly once.

The admission point of a session is `next_seq` plus what is pending. A row that begins there is admitted; what lies below was
applied or is pending and will be answered from the cache; a row above is refused with the number expected. Whatever the
outcome, the row joins the backlog, so that each session hears outcomes in input order. All of it is array operations over the
rows of a turn: an unkind block costs hardly more than a kind one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stepstream_server.config import EngineSettings
from stepstream_server.engine.answers import AnswerCache
from stepstream_server.engine.backlog import ROW, Backlog, Kind, Rows
from stepstream_server.engine.ledger import Ledger, to_keep
from stepstream_server.engine.outbox import Outbox
from stepstream_server.engine.ports import NO_SEQ, NO_STREAM, Block, Call, Ints, Keep, Refuse, Reset, Tensor
from stepstream_server.engine.table import SessionTable, Status
from stepstream_server.errors import Reason
from stepstream_server.spec import ModelSpec, TensorSpec


class Admission:
    """Turns arriving rows into backlog rows and moves the sessions' admission points."""

    def __init__(
        self,
        spec: ModelSpec,
        settings: EngineSettings,
        table: SessionTable,
        backlog: Backlog,
        cache: AnswerCache,
        ledger: Ledger,
        outbox: Outbox,
    ) -> None:
        self._inputs = spec.inputs
        self._settings = settings
        self._table = table
        self._backlog = backlog
        self._cache = cache
        self._ledger = ledger
        self._outbox = outbox
        self._window_kept = cache.steps_within(settings.window_bytes)

    def admit(self, blocks: Sequence[tuple[int, Block]]) -> None:
        """Admits blocks, each with its engine-wide stream, in order."""
        if not blocks:
            return
        if len(blocks) == 1 or self._table.firsts(_concatenate([block.sessions for _, block in blocks])).all():
            self._admit_group(blocks)
        elif not self._admit_sequels(blocks):
            for run in self._runs(blocks):
                self._admit_group(run)

    def admit_call(self, call: Call, stream: int) -> None:
        """Admits a momentary step. Raises CallerError if the session is not there or belongs to somebody else now."""
        table = self._table
        session = table.claim(call.id, call.secret)
        row = np.zeros(1, ROW)
        row["session"], row["stream"] = session, stream
        row["first"] = table.admitted[session] if call.seq == NO_SEQ else call.seq
        row["length"], row["keep"], row["cached"] = call.length, call.keep, call.seq != NO_SEQ
        row["arrival"], row["deadline"] = call.arrival, call.deadline
        valid = self._valid_rows(call.inputs, row["length"])
        if call.seq == NO_SEQ:  # nobody is there to acknowledge what it leaves behind, unless a stream is
            acknowledges = table.stream[session] == NO_STREAM and table.status[session] == Status.OPEN and valid.all()
        else:  # its caller has what is below
            acknowledges = call.seq <= table.admitted[session]
        if acknowledges:
            self._ledger.acknowledge(row["session"], row["first"])
        self._enter(row, call.inputs, valid)

    def reset(self, reset: Reset, stream: int) -> None:
        """Admits resets: like steps without inputs and outputs."""
        rows = np.zeros(len(reset.sessions), ROW)
        rows["session"], rows["stream"], rows["tag"] = reset.sessions, stream, reset.tags
        rows["first"], rows["length"], rows["kind"] = reset.seqs, 1, Kind.RESET
        rows["keep"], rows["cached"] = Keep.NONE, True
        rows["arrival"], rows["deadline"] = reset.arrival, np.inf
        current = self._table.current(reset.sessions, reset.generations, stream, reset.tags)
        self._refuse_detached(rows[~current])
        self._enter(rows[current], (), np.ones(int(current.sum()), np.bool_))

    def refuse(self, refuse: Refuse, stream: int) -> None:
        """Takes in rows that the door found unfit: they are refused when it is their turn."""
        rows = np.zeros(len(refuse.sessions), ROW)
        rows["session"], rows["stream"], rows["tag"] = refuse.sessions, stream, refuse.tags
        rows["first"], rows["length"] = refuse.first_seqs, refuse.lengths
        rows["kind"], rows["reason"] = Kind.REFUSE, refuse.reason
        rows["deadline"] = np.inf
        current = self._table.current(refuse.sessions, refuse.generations, stream, refuse.tags)
        self._refuse_detached(rows[~current])
        self._backlog.append_refused(rows[current], refuse.message)

    def _runs(self, blocks: Sequence[tuple[int, Block]]) -> Iterator[Sequence[tuple[int, Block]]]:
        """Runs of blocks in which no session occurs in two blocks, so that their order within the run does not matter."""
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

    def _admit_sequels(self, blocks: Sequence[tuple[int, Block]]) -> bool:
        """Admits blocks in which each row goes on where its session's row before ends, as rows that are sent ahead do.

        False, with none admitted, unless all of them can be admitted just so: what one of them is told could depend on the one
        before. Without this, a client that sends thousands of single steps ahead would hold all others up.
        """
        rows, generations, inputs = _join(blocks)
        table, sessions, lengths = self._table, rows["session"], rows["length"]
        order = np.argsort(sessions, kind="stable")
        ahead = _sums_before(sessions, lengths, order)  # steps of its session in rows before
        sequels = (
            (rows["first"] == table.admitted[sessions] + ahead).all()
            and table.current(sessions, generations, rows["stream"], rows["tag"]).all()
            and (table.status[sessions] != Status.QUARANTINED).all()
            and all(len(block.sessions) == 1 or table.firsts(block.sessions).all() for _, block in blocks)
            and self._valid_rows(inputs, lengths).all()
            and not table.draining
        )
        if not sequels:
            return False
        self._acknowledge(blocks, np.ones(len(rows), np.bool_))  # none of them repeats what this lets go of
        kept = to_keep(rows)
        if (
            (rows["first"] != table.admitted[sessions] + ahead).any()  # something before them has failed meanwhile
            or self._overflow(lengths, kept).any()
            or (rows["first"] + lengths - table.released[sessions] > self._settings.window_steps).any()
            or (table.kept[sessions] + _sums_before(sessions, kept, order) + kept > self._window_kept).any()
        ):
            return False
        np.add.at(table.admitted, sessions, lengths)
        np.add.at(table.kept, sessions, kept)
        self._backlog.append(rows, inputs)
        return True

    def _admit_group(self, blocks: Sequence[tuple[int, Block]]) -> None:
        rows, generations, inputs = _join(blocks)
        valid = self._valid_rows(inputs, rows["length"])
        current = self._table.current(rows["session"], generations, rows["stream"], rows["tag"])
        self._acknowledge(blocks, current)
        if not current.all():
            self._refuse_detached(rows[~current])
            rows, valid = rows[current], valid[current]
        self._enter(rows, inputs, valid)

    def _acknowledge(self, blocks: Sequence[tuple[int, Block]], current: NDArray[np.bool_]) -> None:
        """What blocks acknowledge, before their rows are admitted."""
        start, sessions, counts = 0, [], []
        for _, block in blocks:
            end = start + len(block.sessions)
            if block.acked is not None:
                sessions.append(block.sessions[current[start:end]])
                counts.append(block.acked[current[start:end]])
            start = end
        if sessions:
            self._ledger.acknowledge(_concatenate(sessions), _concatenate(counts))

    def _enter(self, rows: Rows, inputs: tuple[Tensor, ...], valid: NDArray[np.bool_]) -> None:
        """Splits rows at the acknowledged count and at the admission point, and appends the parts."""
        table = self._table
        once = self._table.firsts(rows["session"])
        if not once.all():
            self._enter(rows[once], inputs, valid[once])
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

    def _admit_new(self, rows: Rows, inputs: tuple[Tensor, ...], valid: NDArray[np.bool_]) -> None:
        """Appends rows of distinct sessions that begin at their admission points or above, as what they turn out to be."""
        table, settings = self._table, self._settings
        sessions, steps, step = rows["session"], rows["length"], rows["kind"] == Kind.APPLY
        kept = to_keep(rows)
        refusals = {  # the first that applies is what the caller hears
            Reason.SEQUENCE_MISMATCH: rows["first"] > table.admitted[sessions],
            Reason.SERVER_DRAINING: np.full(len(rows), table.draining),
            Reason.SESSION_QUARANTINED: step & (table.status[sessions] == Status.QUARANTINED),
            self._invalid: ~valid,
            Reason.WINDOW_FULL: (rows["first"] + steps - table.released[sessions] > settings.window_steps)
            | (table.kept[sessions] + kept > self._window_kept),
        }
        refused = np.logical_or.reduce(list(refusals.values()))
        refusals[Reason.QUEUE_FULL] = self._overflow(steps * (step & ~refused), kept * ~refused)
        refused |= refusals[Reason.QUEUE_FULL]
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

    @property
    def _invalid(self) -> Reason:
        return Reason.NON_FINITE_INPUT if self._inputs[0].dtype == "float32" else Reason.INPUT_OUT_OF_RANGE

    def _overflow(self, steps: Ints, kept: Ints) -> NDArray[np.bool_]:
        """Which rows the server has no room for: [n]. The first that fit are served."""
        room = self._settings.max_pending_steps - self._backlog.steps
        full: NDArray[np.bool_] = (steps > room) | (np.cumsum(steps * (steps <= room)) > room)
        full &= steps > 0
        if self._cache.bytes_used >= self._settings.cache_bytes:
            full |= kept > 0
        return full

    def _append(self, rows: Rows, kind: Kind, reason: Reason | None = None) -> None:
        """Appends rows that need no inputs."""
        rows["kind"], rows["reason"] = kind, reason or 0
        self._backlog.append(rows)

    def _refuse_detached(self, rows: Rows) -> None:
        """Answers rows of handles that have been detached: there is no session to keep them in order with."""
        columns = (rows[name].tolist() for name in ("stream", "tag", "first", "length"))
        for stream, tag, first, length in zip(*columns, strict=True):
            message = f"handle {tag} is not attached to a session on this stream"
            self._outbox.refuse(stream, tag, first, length, Reason.HANDLE_UNKNOWN, 0, message)

    def _valid_rows(self, inputs: tuple[Tensor, ...], lengths: Ints) -> NDArray[np.bool_]:
        """Which rows consist of numbers that the model takes: [n]."""
        valid = np.ones(len(inputs[0]), np.bool_)
        for spec, values in zip(self._inputs, inputs, strict=True):
            valid &= _valid(spec, values)
        if len(valid) == len(lengths):
            return valid
        rows: NDArray[np.bool_] = np.logical_and.reduceat(valid, np.cumsum(lengths) - lengths)
        return rows


def _valid(spec: TensorSpec, values: Tensor) -> NDArray[np.bool_]:
    """Which steps of one input [steps, *shape] are valid: finite floats, ids below the limit."""
    within = np.isfinite(values) if spec.dtype == "float32" else (values >= 0) & (values < spec.limit)
    return np.asarray(within.all(axis=tuple(range(1, within.ndim))))


def _part(rows: Rows, first: Ints, end: Ints) -> Rows:
    """Copies of rows, cut to [first, end)."""
    cut_short = (rows["keep"] == Keep.LAST) & (end != rows["first"] + rows["length"])
    rows["keep"][cut_short] = Keep.NONE  # the row's last step is not in this part
    rows["offset"] += first - rows["first"]
    rows["first"], rows["length"] = first, end - first
    return rows


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


def _sums_before(sessions: Ints, values: Ints, order: Ints) -> Ints:
    """For each entry, the sum of `values` over its session's entries before it: [n]. order: entries by session, stable."""
    sorted_values = values[order]
    before = np.cumsum(sorted_values) - sorted_values
    starts = np.flatnonzero(np.diff(sessions[order], prepend=-1))
    within = before - np.repeat(before[starts], np.diff(starts, append=len(order)))
    sums = np.empty_like(within)
    sums[order] = within
    return sums


def _spread(values: Sequence[float], counts: Sequence[int]) -> float | NDArray[Any]:
    """Each block's value for each of its rows."""
    return values[0] if len(values) == 1 else np.repeat(values, counts)


def _concatenate(parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
