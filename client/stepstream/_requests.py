"""What a caller waits for while sessions are opened, attached or let go."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from stepstream._backoff import Backoff
from stepstream._errors import StepStreamError
from stepstream._ledger import Ledger
from stepstream_proto.v1 import inference_pb2


class Request:
    """Opening, attaching or letting go of some sessions, until the server has confirmed it for each.

    `message` asks for sessions, and may do so on one stream after the other: an opening has a request id.
    """

    def __init__(
        self,
        ledgers: Sequence[Ledger],
        message: inference_pb2.StreamRequest | None = None,
        *,
        opens: bool = False,
        closes: bool = False,
        acked: int | None = None,
    ) -> None:
        self.ledgers = ledgers
        self.message = message
        self.opens = opens  # rather than attaches
        self.closes = closes  # rather than detaches
        self.acked = acked  # attaching: answers below have been received; None: nothing is wanted again
        self.version = 0  # of the model, as the server answered
        self.asked = False  # on any stream: the server may know of it
        self.sent = False  # on this stream, and not answered
        self.backoff: Backoff | None = None  # while the server puts it off
        self.abandoned = False
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._missing = len(ledgers)
        self._error: StepStreamError | None = None

    @property
    def begun(self) -> bool:
        """Whether some sessions are done."""
        return self._missing < len(self.ledgers)

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
