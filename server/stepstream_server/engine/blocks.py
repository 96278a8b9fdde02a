"""Blocks: rows that streams send for sessions which they hold. They become rows for admission, or are refused."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stepstream_server.engine.admission import Admission
from stepstream_server.engine.arrivals import concatenate
from stepstream_server.engine.backlog import ROW, Backlog, Kind, Rows
from stepstream_server.engine.ledger import Ledger
from stepstream_server.engine.outbox import Outbox
from stepstream_server.engine.ports import Block, Ints, Keep, Refuse, Reset, Tensor
from stepstream_server.engine.table import SessionTable
from stepstream_server.errors import Reason


class Blocks:
    """Takes in what attached streams send."""

    def __init__(self, table: SessionTable, backlog: Backlog, ledger: Ledger, outbox: Outbox, admission: Admission) -> None:
        self._table = table
        self._backlog = backlog
        self._ledger = ledger
        self._outbox = outbox
        self._admission = admission

    def admit(self, blocks: Sequence[tuple[int, Block]]) -> None:
        """Admits blocks, each with its engine-wide stream, in order."""
        if len(blocks) == 1 or self._table.firsts(concatenate([block.sessions for _, block in blocks])).all():
            self._admit_run(blocks)
        elif not self._admit_sequels(blocks):
            for run in self._runs(blocks):
                self._admit_run(run)

    def reset(self, reset: Reset, stream: int) -> None:
        """Admits resets: like steps without inputs and outputs."""
        rows = np.zeros(len(reset.sessions), ROW)
        rows["session"], rows["stream"], rows["tag"] = reset.sessions, stream, reset.tags
        rows["first"], rows["length"], rows["kind"] = reset.seqs, 1, Kind.RESET
        rows["keep"], rows["cached"] = Keep.NONE, True
        rows["arrival"], rows["deadline"] = reset.arrival, np.inf
        current = self._table.current(reset.sessions, reset.generations, stream, reset.tags)
        self._refuse_detached(rows[~current])
        self._admission.enter(rows[current], (), np.ones(int(current.sum()), np.bool_))

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
        """Admits rows that each go on where their session's row before ends; False, with none admitted, if not all do."""
        rows, generations, inputs = _join(blocks)
        return (
            bool(self._table.current(rows["session"], generations, rows["stream"], rows["tag"]).all())
            and all(len(block.sessions) == 1 or self._table.firsts(block.sessions).all() for _, block in blocks)
            and self._admission.enter_sequels(
                rows,
                inputs,
                self._admission.valid(inputs, rows["length"]),
                lambda: self._acknowledge(blocks, np.ones(len(rows), np.bool_)),
            )
        )

    def _admit_run(self, blocks: Sequence[tuple[int, Block]]) -> None:
        rows, generations, inputs = _join(blocks)
        valid = self._admission.valid(inputs, rows["length"])
        current = self._table.current(rows["session"], generations, rows["stream"], rows["tag"])
        self._acknowledge(blocks, current)
        if not current.all():
            self._refuse_detached(rows[~current])
            rows, valid = rows[current], valid[current]
        self._admission.enter(rows, inputs, valid)

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
            self._ledger.acknowledge(concatenate(sessions), concatenate(counts))

    def _refuse_detached(self, rows: Rows) -> None:
        """Answers rows of handles that have been detached: there is no session to keep them in order with."""
        columns = (rows[name].tolist() for name in ("stream", "tag", "first", "length"))
        for stream, tag, first, length in zip(*columns, strict=True):
            message = f"handle {tag} is not attached to a session on this stream"
            self._outbox.refuse(stream, tag, first, length, Reason.HANDLE_UNKNOWN, 0, message)


def _join(blocks: Sequence[tuple[int, Block]]) -> tuple[Rows, Ints, tuple[Tensor, ...]]:
    """Rows of all blocks, their generations, and their inputs as one array per declared input."""
    only = [block for _, block in blocks]
    counts = [len(block.sessions) for block in only]
    rows = np.zeros(sum(counts), ROW)
    rows["session"] = concatenate([block.sessions for block in only])
    rows["first"] = concatenate([block.first_seqs for block in only])
    rows["length"] = lengths = concatenate([block.lengths for block in only])
    rows["offset"] = np.cumsum(lengths) - lengths
    rows["tag"] = concatenate([block.tags for block in only])
    rows["cached"] = True
    rows["stream"] = _spread([stream for stream, _ in blocks], counts)
    rows["keep"] = _spread([int(block.keep) for block in only], counts)
    rows["arrival"] = _spread([block.arrival for block in only], counts)
    rows["deadline"] = _spread([block.deadline for block in only], counts)
    inputs = tuple(concatenate(parts) for parts in zip(*(block.inputs for block in only), strict=True))
    return rows, concatenate([block.generations for block in only]), inputs


def _spread(values: Sequence[float], counts: Sequence[int]) -> float | NDArray[Any]:
    """Each block's value for each of its rows."""
    return values[0] if len(values) == 1 else np.repeat(values, counts)
