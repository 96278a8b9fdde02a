"""The express way: steps that nothing stands in the way of, from arrival to answer without joining the backlog.

Most turns bring nothing else: each row is the next step of a session that its stream holds, or the next few, as many in each;
nothing is pending, and there is room. Then all that is to be decided about the rows is decided by a few array operations over
columns that lie side by side for this (`table.Hot`), and what the steps change is written back at once: half of what a turn
takes otherwise beyond computing.

Nothing is decided here in another way: rows fare as they would on the ordinary way, and one that is not as expected sends all of
them there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from stepstream_server.config import EngineSettings
from stepstream_server.engine.admission import Admission
from stepstream_server.engine.answers import AnswerCache
from stepstream_server.engine.arrivals import concatenate
from stepstream_server.engine.outbox import Outbox, global_stream
from stepstream_server.engine.ports import Backend, Block, Ints, Launch, Tensor, TurnReport
from stepstream_server.engine.scheduler import Scheduler
from stepstream_server.engine.table import Hot, SessionTable, Status

_COMPARED = slice(0, 4)  # Hot.STREAM to Hot.TAG, and the same columns of a block's rows
_SESSION, _LENGTH, _ACKED = 4, 5, 6  # columns of a block's rows as int64
_ROW_COLUMNS = 9

Blocks = Sequence[tuple[int, Block]]  # each with the number of its door


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

    def run(self, blocks: Blocks, report: TurnReport) -> Blocks | None:
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
        inputs = tuple(concatenate(parts) for parts in zip(*(block.inputs for _, block in blocks), strict=True))
        if not (self._as_expected(rows, length, hot, acked) and self._valid(inputs, sent)):
            return None
        begun = self._clock()
        stepped = tuple(values.reshape(len(rows), length, *values.shape[1:]) for values in inputs)
        computed = self._backend.collect(self._backend.launch("step", hot[:, Hot.SLOT], stepped, length))
        now = self._clock()
        launch = Launch(len(rows), length, now - begun)
        report.launches.append(launch)
        self._scheduler.pace.learn(launch)
        outputs = computed.outputs
        left: Blocks = ()
        if computed.finite is not None and not computed.finite.all():
            fine = computed.finite
            left = _only(blocks, ~fine, length)
            hot, acked, sent = hot[fine], acked[fine], sent[fine]
            outputs = tuple(values[fine] for values in outputs)
        if len(hot):
            self._settle(sent["session"], length, hot, acked, outputs, now)
            lengths = np.full(len(hot), length)
            answers = [values.reshape(-1, *values.shape[2:]) for values in outputs]
            self._outbox.answer(hot[:, Hot.STREAM], sent["tag"], sent["first"], lengths, lengths, answers)
            report.add(lengths, begun - sent["arrival"], now - sent["arrival"])
        return left

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
            and table.firsts(sessions).all()
            and self._cache.bytes_used < self._cache_bytes
        )

    def _valid(self, inputs: tuple[Tensor, ...], rows: NDArray[np.void]) -> bool:
        """Whether the inputs are numbers that the model takes, and in time."""
        valid = self._admission.valid(inputs, rows["length"])
        return bool(valid.all() and rows["deadline"].min() > self._clock())

    def _settle(self, sessions: Ints, length: int, hot: Ints, acked: Ints, outputs: tuple[Tensor, ...], now: float) -> None:
        """Makes the steps known, and lets go of what was acknowledged with them: first, since the cache has no more room than a
        window needs."""
        first, before = hot[:, Hot.NEXT_SEQ].copy(), hot[:, Hot.ACKED].copy()
        hot[:, Hot.ADMITTED] += length
        hot[:, Hot.NEXT_SEQ] += length
        hot[:, Hot.ACKED] = hot[:, Hot.RELEASED] = acked
        hot[:, Hot.KEPT] = hot[:, Hot.NEXT_SEQ] - acked
        self._table.hot[sessions] = hot
        self._table.used_at[sessions] = now
        self._cache.release_pages(sessions, before, acked)
        self._cache.keep(sessions, first, outputs)


def _columns(blocks: Blocks) -> Ints:
    """All rows as int64, with engine-wide streams: [n, 9]."""
    return concatenate([_columns_of(door, block) for door, block in blocks])


def _columns_of(door: int, block: Block) -> Ints:
    columns: Ints = block.rows.view(np.int64).reshape(-1, _ROW_COLUMNS)
    if door:  # else its streams have the same numbers everywhere
        columns = columns.copy()
        columns[:, Hot.STREAM] = global_stream(door, columns[:, Hot.STREAM])
    return columns


def _only(blocks: Blocks, chosen: NDArray[np.bool_], length: int) -> Blocks:
    """The chosen rows [n] of all, each of `length` steps."""
    found, start = [], 0
    for door, block in blocks:
        mine = chosen[start : start + len(block.rows)]
        start += len(block.rows)
        if mine.any():
            steps = np.repeat(mine, length)
            found.append((door, Block(block.rows[mine], tuple(values[steps] for values in block.inputs))))
    return found
