"""The turnstile: commands on their way into a turn, a few of each stream, so that a stream that sends much holds up only itself.

Each stream's commands keep their order; there is none between streams.
"""

from __future__ import annotations

from collections import OrderedDict, deque

from stepstream_server.engine.ports import NO_STREAM, Command, DoorLost

_ALL = -2  # where a door's commands stand in line once it is lost

Line = deque[tuple[int, Command]]


class Turnstile:
    """Lines of waiting commands, one per stream and door, served in turns."""

    def __init__(self, per_stream: int) -> None:
        self._per_stream = per_stream
        self._lines: OrderedDict[tuple[int, int], Line] = OrderedDict()

    def __len__(self) -> int:
        return len(self._lines)

    def add(self, door: int, command: Command) -> None:
        """Lets a command stand in its stream's line. A door that is lost comes after everything that it has said."""
        stream = getattr(command, "stream", NO_STREAM)
        if isinstance(command, DoorLost):
            said = [key for key in self._lines if key[0] == door]
            self._lines[door, stream := _ALL] = deque(each for key in said for each in self._lines.pop(key))
        self._lines.setdefault((door, stream), deque()).append((door, command))

    def take(self, most: int) -> list[tuple[int, Command]]:
        """At most so many commands, and at most `per_stream` of each stream; who was served goes to the end."""
        taken: list[tuple[int, Command]] = []
        for _ in range(len(self._lines)):
            if len(taken) >= most:
                break
            key, line = self._lines.popitem(last=False)
            count = min(len(line), self._per_stream, most - len(taken))
            taken += [line.popleft() for _ in range(count)]
            if line:
                self._lines[key] = line
        return taken
