"""The newest stream of each client that numbers its streams, over all front doors.

What a client wrote to a connection that broke may be read long after it has gone on over another one, and by another front door.
An Attach or Open among it would take sessions away from the very stream that holds them now.
"""

from __future__ import annotations

from stepstream_server.engine.outbox import door_of
from stepstream_server.engine.ports import Attach, Open
from stepstream_server.errors import CallerError, Reason


class Newest:
    """Known for as long as that stream is open."""

    def __init__(self) -> None:
        self._by_client: dict[str, tuple[int, int]] = {}  # number among its client's, and the engine's own
        self._clients: dict[int, str] = {}  # of those streams

    def check(self, command: Attach | Open, stream: int) -> None:
        """A stream wants sessions. Raises CallerError(STREAM_REPLACED) if its client has wanted some over a newer one."""
        client, number = command.client, command.number
        newest, before = self._by_client.get(client, (-1, stream))
        if number < newest:
            message = f"stream {newest} of this client has taken the place of its stream {number}"
            raise CallerError(Reason.STREAM_REPLACED, message)
        if client:
            self._clients.pop(before, None)
            self._by_client[client] = (number, stream)
            self._clients[stream] = client

    def forget(self, stream: int) -> None:
        """The stream has ended."""
        client = self._clients.pop(stream, "")
        if client:
            del self._by_client[client]

    def forget_door(self, door: int) -> None:
        """The same for all streams of a door."""
        for stream in [each for each in self._clients if door_of(each) == door]:
            self.forget(stream)
