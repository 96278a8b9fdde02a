"""Request ids: what was made for which, so that a caller who heard no answer can ask again and nothing is made twice."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from stepstream_server.errors import CallerError, Reason
from stepstream_server.snapshots import Snapshot

_MOST_BYTES = 64 << 20  # of all that is remembered: snapshots of a thousand sessions that move, or 300,000 sessions opened
_ENTRY_BYTES = 1024  # of one request: its id, and the fields of a snapshot
_MADE_BYTES = 200  # of one session made: its id, its number, and its place here
_FORGOTTEN_AT_ONCE = 1000  # requests, about a millisecond


@dataclass(frozen=True, slots=True)
class Made:
    """A session that was made for a request."""

    session: int
    generation: int
    id: str


@dataclass(slots=True)
class _Entry:
    what: str
    forgotten_at: float  # monotonic seconds
    made: list[Made | None]  # None: was refused
    snapshot: Snapshot | None = None

    @property
    def bytes(self) -> int:
        return _ENTRY_BYTES + len(self.made) * _MADE_BYTES + (self.snapshot.bytes if self.snapshot else 0)


class Requests:
    """Remembers for a while, the newest first if there is too much of it. An empty request id is never remembered."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._bytes = 0

    def made(self, request_id: str, what: str, count: int, now: float) -> list[Made | None]:
        """What a former request of this id has made, one entry per session asked for. what: says what is asked for.

        Raises CallerError(INVALID_ARGUMENT) if it asked for something else.
        """
        entry = self._find(request_id, what, now)
        if entry is None:
            return [None] * count
        if len(entry.made) != count:
            message = f"request_id: {request_id!r} was used for {len(entry.made)} sessions, got {count}"
            raise CallerError(Reason.INVALID_ARGUMENT, message, field="request_id")
        return list(entry.made)

    def snapshot(self, request_id: str, what: str, now: float) -> Snapshot | None:
        """What a former export of this id has read out. Raises CallerError as `made` does."""
        entry = self._find(request_id, what, now)
        return entry.snapshot if entry else None

    def remember(
        self, request_id: str, what: str, made: Sequence[Made | None], now: float, snapshot: Snapshot | None = None
    ) -> None:
        """Keeps what a request has made, if anything, in place of what was kept for it before."""
        if not request_id or not (snapshot or any(made)):
            return
        self._drop(request_id)
        entry = _Entry(what, now + self._seconds, list(made), snapshot)
        self._entries[request_id] = entry
        self._bytes += entry.bytes
        while self._bytes > _MOST_BYTES:
            self._drop(next(iter(self._entries)))

    def _find(self, request_id: str, what: str, now: float) -> _Entry | None:
        for _ in range(min(_FORGOTTEN_AT_ONCE, len(self._entries))):
            oldest = next(iter(self._entries))
            if self._entries[oldest].forgotten_at > now:
                break
            self._drop(oldest)
        entry = self._entries.get(request_id)
        if entry is not None and entry.what != what:
            message = f"request_id: {request_id!r} was used for {entry.what}, got {what}"
            raise CallerError(Reason.INVALID_ARGUMENT, message, field="request_id")
        return entry

    def _drop(self, request_id: str) -> None:
        entry = self._entries.pop(request_id, None)
        if entry is not None:
            self._bytes -= entry.bytes
