"""Blocks: rows that streams send for sessions which they hold. They become rows for admission, or are refused."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stepstream_server.engine.admission import Admission
from stepstream_server.engine.arrivals import NumberedBlocks, concatenate, joined_inputs
from stepstream_server.engine.backlog import ROW, Backlog, Kind, Rows
from stepstream_server.engine.ledger import Ledger
from stepstream_server.engine.outbox import Outbox, global_stream
from stepstream_server.engine.ports import Keep, Refuse, Reset, Tensor
from stepstream_server.engine.table import SessionTable
from stepstream_server.errors import Reason

_SAME = ("session", "first", "length", "tag", "keep", "arrival", "deadline")  # columns of a block that the backlog has as well


class Blocks:
    """Takes in what attached streams send."""

    def __init__(self, table: SessionTable, backlog: Backlog, ledger: Ledger, outbox: Outbox, admission: Admission) -> None:
        self._table = table
        self._backlog = backlog
        self._ledger = ledger
        self._outbox = outbox
        self._admission = admission

    def admit(self, blocks: NumberedBlocks) -> None:
        """Admits blocks, each with the number of its door, in order."""
        if len(blocks) == 1 or self._table.firsts(concatenate([block.rows["session"] for _, block in blocks])).all():
            self._admit_run(blocks)
        elif not self._admit_sequels(blocks):
            while blocks:
                run = self.first_run(blocks)
                self._admit_run(run)
                blocks = blocks[len(run) :]

    def first_run(self, blocks: NumberedBlocks) -> NumberedBlocks:
        """The first blocks, as long as no session occurs in two of them, so that their order does not matter."""
        if len(blocks) == 1 or self._table.firsts(concatenate([block.rows["session"] for _, block in blocks])).all():
            return blocks
        seen: set[int] = set()
        for count, (_, block) in enumerate(blocks):
            sessions = block.rows["session"].tolist()
            if not seen.isdisjoint(sessions):
                return blocks[:count]
            seen.update(sessions)
        return blocks

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

    def _admit_sequels(self, blocks: NumberedBlocks) -> bool:
        """Admits rows that each go on where their session's row before ends; False, with none admitted, if not all do."""
        sent, rows, inputs = _join(blocks)
        return (
            bool(self._current(sent, rows).all())
            and all(len(block.rows) == 1 or self._table.firsts(block.rows["session"]).all() for _, block in blocks)
            and self._admission.enter_sequels(
                rows, inputs, self._admission.valid(inputs, rows["length"]), lambda: self._acknowledge(sent)
            )
        )

    def _admit_run(self, blocks: NumberedBlocks) -> None:
        sent, rows, inputs = _join(blocks)
        valid = self._admission.valid(inputs, rows["length"])
        current = self._current(sent, rows)
        if not current.all():
            self._refuse_detached(rows[~current])
            sent, rows, valid = sent[current], rows[current], valid[current]
        self._acknowledge(sent)
        self._admission.enter(rows, inputs, valid)

    def _current(self, sent: Rows, rows: Rows) -> NDArray[np.bool_]:
        """Which rows are of sessions that their streams still hold: [n]."""
        return self._table.current(sent["session"], sent["generation"], rows["stream"], sent["tag"])

    def _acknowledge(self, sent: Rows) -> None:
        """What rows acknowledge, before they are admitted."""
        if sent["acked"].any():
            self._ledger.acknowledge(sent["session"], sent["acked"])

    def _refuse_detached(self, rows: Rows) -> None:
        """Answers rows of handles that have been detached: there is no session to keep them in order with."""
        columns = (rows[name].tolist() for name in ("stream", "tag", "first", "length"))
        for stream, tag, first, length in zip(*columns, strict=True):
            message = f"handle {tag} is not attached to a session on this stream"
            self._outbox.refuse(stream, tag, first, length, Reason.HANDLE_UNKNOWN, 0, message)


def _join(blocks: NumberedBlocks) -> tuple[Rows, Rows, tuple[Tensor, ...]]:
    """Rows of all blocks as they were sent and as the backlog holds them, and their inputs as one array per declared input."""
    sent = concatenate([block.rows for _, block in blocks])
    rows = np.zeros(len(sent), ROW)
    for name in _SAME:
        rows[name] = sent[name]
    rows["stream"] = concatenate([global_stream(door, block.rows["stream"]) for door, block in blocks])
    rows["offset"] = np.cumsum(sent["length"]) - sent["length"]
    rows["cached"] = True
    return sent, rows, joined_inputs(blocks)
