"""How far a stream may be ahead of the engines: what they have not taken in yet stands before what others say.

An engine takes in what its front doors say in the order in which they said it. So a client that sends without end would hold
everybody up, if its stream were read as fast as it writes. It is read again when the engines have heard it.
"""

from __future__ import annotations

from collections import deque

from stepstream_server.rpc.door import ModelDoor

# Messages of one stream: more than arrive of one in the half millisecond of a turn, and 3 ms of the costliest kind.
_MESSAGES = 16


class Lookahead:
    """The last messages of one stream."""

    def __init__(self) -> None:
        self._sent: deque[tuple[ModelDoor, int]] = deque(maxlen=_MESSAGES)  # whom each was for, and in which envelope

    def sent(self, door: ModelDoor) -> None:
        """A message's part for one engine was said to its door."""
        self._sent.append((door, door.envelope))

    @property
    def used_up(self) -> bool:
        """Whether the stream must wait."""
        if len(self._sent) < _MESSAGES:
            return False
        door, envelope = self._sent[0]
        return not door.has_heard(envelope)

    async def room(self) -> None:
        """Waits until something may be read again."""
        door, envelope = self._sent[0]
        await door.until_heard(envelope)
