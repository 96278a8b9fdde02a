"""The entrance: what front doors have said since the last turn, taken in in its order, and at once where that can be.

Steps that nothing stands in the way of go the express way, launch after launch, for as long as others may be held up by them;
what time is lacking for waits as it is, and comes first in the next turn. All others join the backlog.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from stepstream_server.config import EngineSettings
from stepstream_server.engine.arrivals import NumberedBlocks
from stepstream_server.engine.backlog import Backlog
from stepstream_server.engine.blocks import Blocks
from stepstream_server.engine.calls import Calls
from stepstream_server.engine.copies import Copies
from stepstream_server.engine.express import Express
from stepstream_server.engine.outbox import Outbox
from stepstream_server.engine.outcomes import Outcomes
from stepstream_server.engine.ports import Block, Call, Command, TurnReport
from stepstream_server.engine.table import SessionTable

Parcel = tuple[int, Sequence[Command]]  # the number of a door, and what it said at once


class Entrance:
    """`carry_out` is called with every command but blocks and calls."""

    def __init__(
        self,
        settings: EngineSettings,
        table: SessionTable,
        backlog: Backlog,
        outbox: Outbox,
        outcomes: Outcomes,
        blocks: Blocks,
        calls: Calls,
        copies: Copies,
        express: Express,
        carry_out: Callable[[int, Command, TurnReport], None],
        clock: Callable[[], float],
    ) -> None:
        self._turn_budget = settings.turn_budget_seconds
        self._most_pending = settings.max_pending_steps
        self._table = table
        self._backlog = backlog
        self._outbox = outbox
        self._outcomes = outcomes
        self._blocks = blocks
        self._calls = calls
        self._copies = copies
        self._express = express
        self._carry_out = carry_out
        self._clock = clock
        self._held: NumberedBlocks = []  # left to the next turn

    @property
    def held_steps(self) -> int:
        """Steps that were taken in and wait for the next turn."""
        return sum(int(block.rows["length"].sum()) for _, block in self._held)

    @property
    def empty(self) -> bool:
        """Whether there are none."""
        return not self._held

    def take_in(self, parcels: Iterable[Parcel], report: TurnReport) -> None:
        """Commands in their order; blocks with no other command between them are admitted together, and so are calls.

        A block and a call may overtake each other: they are of different streams, between which there is no order.
        """
        blocks, self._held = self._held, []
        calls: list[tuple[int, Call]] = []
        for door, commands in parcels:
            self._outbox.heard(door)
            for command in commands:
                if isinstance(command, Block):
                    blocks.append((door, command))
                elif isinstance(command, Call):
                    calls.append((door, command))
                else:
                    self._admit(blocks, calls, report, last=False)
                    blocks, calls = [], []
                    self._carry_out(door, command, report)
        self._admit(self._at_once(blocks, report), calls, report, last=True)

    def _admit(self, blocks: NumberedBlocks, calls: Sequence[tuple[int, Call]], report: TurnReport, *, last: bool) -> None:
        if blocks:
            self._blocks.admit(blocks)
        if calls:
            self._calls.admit(calls, self._clock(), report, last=last and not self._copies.waiting)

    def _at_once(self, blocks: NumberedBlocks, report: TurnReport) -> NumberedBlocks:
        """Computes and answers what can be. Returns the blocks that must go the ordinary way."""
        until = self._clock() + self._turn_budget
        while blocks and not len(self._backlog) and not self._copies.waiting:
            if report.launches and self._clock() >= until:
                return self._hold(blocks)
            run = self._blocks.first_run(blocks)
            failed = self._express.run(run, report)
            if failed is None:
                break
            blocks = blocks[len(run) :]
            if failed:
                self._blocks.admit(failed)
                self._outcomes.quarantine_all()
        return blocks

    def _hold(self, blocks: NumberedBlocks) -> NumberedBlocks:
        """Leaves blocks to the next turn, unless they are more than may be pending. Returns those that go the ordinary way."""
        rows = np.concatenate([block.rows for _, block in blocks])
        if rows["length"].sum() > self._most_pending:
            return blocks
        self._table.used_at[rows["session"]] = self._clock()  # they are not idle, though nothing of theirs is admitted yet
        self._held = blocks
        return []
