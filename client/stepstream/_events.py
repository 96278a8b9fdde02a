"""What becomes of a client's connection: logged, and told to whoever iterates over it.

The logger is `stepstream`. It is silent until the program configures logging.
"""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Literal

from stepstream._errors import StepStreamError

Kind = Literal["connected", "replayed", "at risk", "draining", "left", "lost", "ended"]

_UNREAD = 1000  # events kept for one who iterates slowly; beyond, the oldest are dropped: hours of a connection that flaps
_LEVELS = {
    "connected": logging.INFO,
    "replayed": logging.INFO,
    "at risk": logging.WARNING,
    "draining": logging.INFO,
    "left": logging.INFO,
    "lost": logging.WARNING,
    "ended": logging.ERROR,
}

_log = logging.getLogger("stepstream")
_log.addHandler(logging.NullHandler())  # off unless the program wants it, also its warnings


@dataclass(frozen=True, slots=True)
class ConnectionEvent:
    """Something that a stream of the client to its server does.

    kind: `connected`: the server has answered. `replayed`: sessions are attached anew after a loss, and what had no answer was
    sent again. `at risk`: the server's store does not keep up, and the oldest inputs of a durable session that goes on all the
    same (`on_lag="serve"`) were let go of; told once for a stream. `draining`: the server is about to stop. `left`: the client
    has let go of such a server, and another one is tried if there is a use for it. `lost`: the stream has broken and another one
    is tried. `ended`: no more streams are tried, and its sessions have ended.
    """

    kind: Kind
    address: str
    sessions: int
    """Held on the stream."""
    steps: int = 0
    """Sent again, where it was replayed."""
    error: StepStreamError | None = None
    """Why it was left or lost or has ended."""


class Journal:
    """The events of one client."""

    def __init__(self, address: str) -> None:
        self._address = address
        # Weak, for those who never begin to iterate.
        self._readers: weakref.WeakSet[asyncio.Queue[ConnectionEvent | None]] = weakref.WeakSet()
        self.closed = False

    def note(
        self,
        kind: Kind,
        sessions: int,
        *,
        steps: int = 0,
        error: StepStreamError | None = None,
    ) -> None:
        """Logs it and tells it."""
        event = ConnectionEvent(kind, self._address, sessions, steps, error)
        reason = "" if error is None else f": {error.message}"
        again = f", {steps} steps sent again" if kind == "replayed" else ""
        _log.log(_LEVELS[kind], "%s %s (%d sessions%s)%s", self._address, kind, sessions, again, reason)
        for reader in self._readers:
            if reader.full():
                reader.get_nowait()
            reader.put_nowait(event)

    def events(self) -> AsyncGenerator[ConnectionEvent, None]:
        """Everything noted from this call on, until the client is closed."""
        reader: asyncio.Queue[ConnectionEvent | None] = asyncio.Queue(_UNREAD)
        self._readers.add(reader)
        return self._read(reader)

    async def _read(self, reader: asyncio.Queue[ConnectionEvent | None]) -> AsyncGenerator[ConnectionEvent, None]:
        while not (self.closed and reader.empty()) and (event := await reader.get()) is not None:
            yield event

    def close(self) -> None:
        """Ends all iterations, behind what is unread."""
        self.closed = True
        for reader in self._readers:
            if reader.full():
                reader.get_nowait()
            reader.put_nowait(None)
