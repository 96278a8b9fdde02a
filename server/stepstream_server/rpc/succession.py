"""Streams that take each other's place: of one client's only the newest counts.

What a client wrote to a connection that broke may arrive long after it has gone on over another one. An Attach among it would
take sessions away from the very stream that holds them now. So a client may name itself and number its streams, in the
metadata `stepstream-client` and `stepstream-stream`; a newer stream ends those before it, and an older one is refused. That is
of one front door; streams that others have are held apart by the engines (`engine.newest`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple, Protocol

from stepstream_server.errors import CallerError, Reason, StepStreamError

CLIENT, NUMBER = "stepstream-client", "stepstream-stream"


class Replaceable(Protocol):
    """A stream, as far as another can take its place."""

    def abandon(self, error: StepStreamError) -> None:
        """Ends it; its client hears the error if it reads again."""


class Place(NamedTuple):
    """A stream's place among its client's; without a name it has none."""

    client: str = ""
    number: int = 0


class Succession:
    """The newest open stream of each client that numbers its streams. On the event loop's thread."""

    def __init__(self) -> None:
        self._newest: dict[str, tuple[int, Replaceable]] = {}

    def make_way(self, place: Place) -> None:
        """Ends the stream before. Raises CallerError if there is a newer one."""
        number, stream = self._newest.get(place.client, (-1, None))
        if stream is None:
            return
        if place.number <= number:
            raise CallerError(Reason.STREAM_REPLACED, f"{NUMBER}: expected more than {number}, got {place.number}", field=NUMBER)
        stream.abandon(CallerError(Reason.STREAM_REPLACED, f"{NUMBER}: stream {place.number} has taken this one's place"))

    def enter(self, place: Place, stream: Replaceable) -> None:
        """The stream is its client's newest."""
        if place.client:
            self._newest[place.client] = (place.number, stream)

    def leave(self, place: Place, stream: Replaceable) -> None:
        """The stream has ended."""
        if self._newest.get(place.client, (0, None))[1] is stream:
            del self._newest[place.client]


def place_of(metadata: Iterable[tuple[str, Any]] | None) -> Place:
    """Where a stream stands by its call's metadata. Raises CallerError for a number that is none."""
    given = dict(metadata or ())
    client, number = given.get(CLIENT, ""), given.get(NUMBER, "0")
    if not (isinstance(number, str) and number.isdecimal() and len(number) < 20):
        raise CallerError(Reason.INVALID_ARGUMENT, f"{NUMBER}: expected a decimal number, got {str(number)[:50]!r}", field=NUMBER)
    return Place(str(client), int(number))
