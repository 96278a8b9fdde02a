"""What a caller waits for while sessions are opened, attached or let go."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from stepstream._errors import StepStreamError
from stepstream._ledger import Ledger


class Request:
    """Opening, attaching or letting go of some sessions, until the server has confirmed it for each."""

    def __init__(self, ledgers: Sequence[Ledger], *, opens: bool = False, acked: int | None = None) -> None:
        self.ledgers = ledgers
        self.opens = opens  # rather than attaches
        self.acked = acked  # attaching: answers below have been received; None: nothing is wanted again
        self.version = 0  # of the model, as the server answered
        self.abandoned = False
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._missing = len(ledgers)
        self._error: StepStreamError | None = None

    def abandon(self) -> None:
        """Nobody waits for it any more."""
        self.abandoned = True
        self.done.cancel()

    def confirm(self, error: StepStreamError | None = None) -> None:
        """One session is done."""
        self._error = self._error or error
        self._missing -= 1
        if self._missing == 0:
            self.settle(self._error)

    def settle(self, error: StepStreamError | None) -> None:
        """The whole is done, or never will be."""
        if self.done.done():
            return
        if error is None:
            self.done.set_result(None)
        else:
            self.done.set_exception(error.again())
