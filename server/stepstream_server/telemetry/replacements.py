"""A line in the log where a live session was closed because another was started under its id: mostly a client that reuses ids.

Such a client may do it with every request, so there is at most one line a second for a model; it says how many there were.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import structlog

from stepstream_server.engine.ports import InferenceTotals, Observer, TurnReport

_SECONDS_BETWEEN_LINES = 1.0
_IDS_PER_LINE = 10  # enough to recognise the client

log = structlog.get_logger(__name__)


class Replacements:
    """The engine's observer port, in front of another observer of the same model."""

    def __init__(self, model: str, version: int, observer: Observer, clock: Callable[[], float] = time.monotonic) -> None:
        self._model = model
        self._version = version
        self._observer = observer
        self._clock = clock
        self._next_line = float("-inf")  # monotonic seconds
        self._ids: list[str] = []  # of the sessions that no line has told of, the first few
        self._count = 0  # of all of them

    def turn(self, report: TurnReport) -> None:
        """What was held back is told with the first turn that comes when it may be: some 0.1 us where there is nothing."""
        self._observer.turn(report)
        if report.replaced:
            self._count += len(report.replaced)
            self._ids += report.replaced[: _IDS_PER_LINE - len(self._ids)]
        if self._count and self._clock() >= self._next_line:
            self._tell()

    def totals(self) -> InferenceTotals:
        """The other observer's."""
        return self._observer.totals()

    def _tell(self) -> None:
        self._next_line = self._clock() + _SECONDS_BETWEEN_LINES
        ids, self._ids = self._ids, []
        count, self._count = self._count, 0
        log.warning("sequence_replaced", model=self._model, version=self._version, count=count, ids=ids)
