"""The express way: steps that nothing stands in the way of, from arrival to answer without joining the backlog.

Most turns bring nothing else: each row is the next step of a session that its stream holds, or the next few, as many in each;
nothing is pending, and there is room. Then all that is to be decided about the rows is decided by a few array operations over
columns that lie side by side for this (`table.Hot`), and what the steps change is written back at once: half of what a turn
takes otherwise beyond computing.

Nothing is decided here in another way: rows fare as they would on the ordinary way, and one that is not as expected sends all of
them there.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from stepstream_server.config import EngineSettings
from stepstream_server.engine.admission import Admission
from stepstream_server.engine.answers import AnswerCache
from stepstream_server.engine.arrivals import NumberedBlocks, concatenate, joined_inputs
from stepstream_server.engine.backlog import Rows
from stepstream_server.engine.ledger import KEEP_ALL
from stepstream_server.engine.outbox import Outbox, global_stream
from stepstream_server.engine.ports import NO_STREAM, Backend, Block, Ints, Keep, Launch, Tensor, TurnReport
from stepstream_server.engine.scheduler import Scheduler
from stepstream_server.engine.table import Hot, Last, SessionTable, Status

_COMPARED = slice(0, 4)  # Hot.STREAM to Hot.TAG, and the same columns of a block's rows
_SESSION, _LENGTH, _ACKED = 4, 5, 6  # columns of a block's rows as int64
_ROW_COLUMNS = 9


class Express:
    """To be asked only while the backlog is empty."""

    def __init__(
        self,
        settings: EngineSettings,
        backend: Backend,
        scheduler: Scheduler,
        table: SessionTable,
        cache: AnswerCache,
        outbox: Outbox,
        admission: Admission,
        clock: Callable[[], float],
    ) -> None:
        self._backend = backend
        self._scheduler = scheduler
        self._table = table
        self._cache = cache
        self._most_steps = settings.max_pending_steps  # though they do not pend: what is too much shall always be
        self._cache_bytes = settings.cache_bytes
        self._outbox = outbox
        self._admission = admission
        self._clock = clock
        self._window = min(settings.window_steps, cache.steps_within(settings.window_bytes))

    def run(self, blocks: NumberedBlocks, report: TurnReport) -> NumberedBlocks | None:
        """Computes and answers all rows but those that would make their sessions non-finite, which it returns with nothing of
        them applied. None, with nothing done at all, where rows are not all as expected."""
        rows = _columns(blocks)
        length = int(rows[0, _LENGTH])
        fits = len(rows) * length <= self._most_steps and self._scheduler.at_once(len(rows), length)
        if not fits or self._table.draining:
            return None
        hot = self._table.hot.take(rows[:, _SESSION], axis=0)
        acked = np.minimum(np.maximum(rows[:, _ACKED], hot[:, Hot.ACKED]), hot[:, Hot.ADMITTED])
        sent = concatenate([block.rows for _, block in blocks])
        inputs = joined_inputs(blocks)
        if not (self._as_expected(rows, length, hot, acked) and self._valid(inputs, sent)):
            return None
        begun, now, outputs, fine = self._compute(hot, inputs, length, report)
        left: NumberedBlocks = []
        if fine is not None:
            left = _only(blocks, ~fine, length)
            hot, acked, sent = hot[fine], acked[fine], sent[fine]
        if len(hot):
            first, before = hot[:, Hot.NEXT_SEQ].copy(), hot[:, Hot.ACKED].copy()
            self._settle(sent["session"], length, hot, acked, now)
            hot[:, Hot.KEPT] = hot[:, Hot.NEXT_SEQ] - acked
            self._table.hot[sent["session"]] = hot
            self._cache.release_pages(sent["session"], before, acked)  # first: it has no more room than a window needs
            self._cache.keep(sent["session"], first, outputs)
            self._answer(hot[:, Hot.STREAM], sent, sent["first"], length, outputs)
            report.add(np.full(len(hot), length), begun - sent["arrival"], now - sent["arrival"])
        return left

    def run_calls(
        self, rows: Rows, inputs: tuple[Tensor, ...], valid: NDArray[np.bool_], report: TurnReport
    ) -> NDArray[np.bool_] | None:
        """The same for single steps of momentary callers, of distinct sessions that no stream holds, which nobody has numbered:
        their answers are not kept. Returns which rows would make their sessions non-finite: [n]."""
        sessions = rows["session"]
        hot = self._table.hot.take(sessions, axis=0)
        if not self._momentary(rows, hot, valid):
            return None
        if len(rows) != len(inputs[0]) or (np.diff(rows["offset"]) != 1).any():
            inputs = tuple(values[rows["offset"]] for values in inputs)
        begun, now, outputs, fine = self._compute(hot, inputs, 1, report)
        failed = np.zeros(len(rows), np.bool_)
        if fine is not None:
            failed, hot, rows = ~fine, hot[fine], rows[fine]
        if len(hot):
            first = hot[:, Hot.NEXT_SEQ].copy()
            self._settle(rows["session"], 1, hot, first + 1, now)
            self._table.hot[rows["session"]] = hot
            for place in np.flatnonzero(rows["ends"]).tolist():
                self._table.over[int(rows["session"][place])] = Last(int(first[place]), int(first[place]) + 1, Keep.ALL, False)
            self._answer(rows["stream"], rows, first, 1, outputs)
            report.add(np.ones(len(rows), np.int64), begun - rows["arrival"], now - rows["arrival"])
        return failed

    def _compute(
        self, hot: Ints, inputs: tuple[Tensor, ...], length: int, report: TurnReport
    ) -> tuple[float, float, tuple[Tensor, ...], NDArray[np.bool_] | None]:
        """When it began and ended, the outputs of rows that came out finite, and which these are if not all."""
        begun = self._clock()
        stepped = tuple(values.reshape(len(hot), length, *values.shape[1:]) for values in inputs)
        computed = self._backend.collect(self._backend.launch("step", hot[:, Hot.SLOT], stepped, length))
        now = self._clock()
        launch = Launch(len(hot), length, now - begun)
        report.launches.append(launch)
        self._scheduler.pace.learn(launch)
        fine = computed.finite
        if fine is None or fine.all():
            return begun, now, computed.outputs, None
        return begun, now, tuple(values[fine] for values in computed.outputs), fine

    def _answer(self, streams: Ints, rows: Rows, first: Ints, length: int, outputs: tuple[Tensor, ...]) -> None:
        lengths = np.full(len(rows), length)
        answers = [values.reshape(-1, *values.shape[2:]) for values in outputs]
        self._outbox.answer(streams, rows["tag"], first, lengths, lengths, answers)

    def _momentary(self, rows: Rows, hot: Ints, valid: NDArray[np.bool_]) -> bool:
        """Whether each row is one step that keeps no answer, of a session without any."""
        table, admitted = self._table, hot[:, Hot.ADMITTED]
        return bool(
            len(rows) <= self._most_steps
            and self._scheduler.at_once(len(rows), 1)
            and not table.draining
            and valid.all()
            and not rows["cached"].any()
            and (rows["length"] == 1).all()
            and (rows["keep"] == KEEP_ALL).all()
            and (hot[:, Hot.STREAM] == NO_STREAM).all()
            and (hot[:, Hot.ACKED] == admitted).all()
            and (hot[:, Hot.RELEASED] == admitted).all()
            and not hot[:, Hot.KEPT].any()
            and (table.status[rows["session"]] == Status.OPEN).all()
            and table.over.keys().isdisjoint(rows["session"].tolist())
            and rows["deadline"].min() > self._clock()
        )

    def _as_expected(self, rows: Ints, length: int, hot: Ints, acked: Ints) -> bool:
        """Whether each row has the next steps of a session of its own, which keeps all answers and has room for these."""
        table, admitted = self._table, hot[:, Hot.ADMITTED]
        sessions = rows[:, _SESSION]
        return bool(
            (rows[:, _COMPARED] == hot[:, _COMPARED]).all()
            and (rows[:, _LENGTH] == length).all()
            and (hot[:, Hot.ACKED] == hot[:, Hot.RELEASED]).all()
            and (hot[:, Hot.KEPT] == admitted - hot[:, Hot.ACKED]).all()
            and (admitted - acked).max() + length <= self._window
            and (table.status[sessions] == Status.OPEN).all()
            and table.over.keys().isdisjoint(sessions.tolist() if table.over else ())
            and table.firsts(sessions).all()
            and self._cache.bytes_used < self._cache_bytes
        )

    def _valid(self, inputs: tuple[Tensor, ...], rows: NDArray[np.void]) -> bool:
        """Whether the inputs are numbers that the model takes, and in time."""
        valid = self._admission.valid(inputs, rows["length"])
        return bool(valid.all() and rows["deadline"].min() > self._clock())

    def _settle(self, sessions: Ints, length: int, hot: Ints, acked: Ints, now: float) -> None:
        """Moves the numbers of sessions on, in `hot`, which the caller writes back."""
        hot[:, Hot.ADMITTED] += length
        hot[:, Hot.NEXT_SEQ] += length
        hot[:, Hot.ACKED] = hot[:, Hot.RELEASED] = acked
        self._table.used_at[sessions] = now


def _columns(blocks: NumberedBlocks) -> Ints:
    """All rows as int64, with engine-wide streams: [n, 9]."""
    return concatenate([_columns_of(door, block) for door, block in blocks])


def _columns_of(door: int, block: Block) -> Ints:
    columns: Ints = block.rows.view(np.int64).reshape(-1, _ROW_COLUMNS)
    if door:  # else its streams have the same numbers everywhere
        columns = columns.copy()
        columns[:, Hot.STREAM] = global_stream(door, columns[:, Hot.STREAM])
    return columns


def _only(blocks: NumberedBlocks, chosen: NDArray[np.bool_], length: int) -> NumberedBlocks:
    """The chosen rows [n] of all, each of `length` steps."""
    found, start = [], 0
    for door, block in blocks:
        mine = chosen[start : start + len(block.rows)]
        start += len(block.rows)
        if mine.any():
            steps = np.repeat(mine, length)
            found.append((door, Block(block.rows[mine], tuple(values[steps] for values in block.inputs))))
    return found
