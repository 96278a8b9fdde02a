"""The turnstile: commands on their way into a turn, a few of each stream, so that a stream that sends much holds up only itself.

Each stream's commands keep their order; there is none between streams. Momentary callers share a line, of which a turn takes as
many rows as it can compute: a front door gathers them, one of each caller in a round.
"""

from __future__ import annotations

from collections import OrderedDict, deque

from stepstream_server.engine.ports import CALLERS, NO_STREAM, Call, Command, DoorLost, Drain

_ALL = (-1, -1)  # the line of all that was said before a command that concerns all streams

Line = deque[tuple[int, Command]]


class Turnstile:
    """Lines of waiting commands, one per stream and door, served in turns."""

    def __init__(self, per_stream: int, callers_rows: int) -> None:
        self._per_stream = per_stream  # commands
        self._callers_rows = callers_rows  # of all momentary callers; one command may exceed it alone
        self._lines: OrderedDict[tuple[int, int], Line] = OrderedDict()

    def __len__(self) -> int:
        return len(self._lines)

    def add(self, door: int, command: Command) -> None:
        """Lets a command stand in its stream's line. One that concerns all streams comes after everything said before."""
        key = (door, getattr(command, "stream", NO_STREAM))
        if isinstance(command, (Drain, DoorLost)):
            said, self._lines = self._lines, OrderedDict()
            self._lines[key := _ALL] = deque(each for line in said.values() for each in line)
        self._lines.setdefault(key, deque()).append((door, command))

    def take(self, most: int) -> list[tuple[int, Command]]:
        """At most so many commands, of each line no more than its share; who was served goes to the end."""
        taken: list[tuple[int, Command]] = []
        for _ in range(len(self._lines)):
            room = most - len(taken)
            if room <= 0:
                break
            key, line = self._lines.popitem(last=False)
            taken += [line.popleft() for _ in range(min(room, self._share(key, line)))]
            if line:
                self._lines[key] = line
        return taken

    def _share(self, key: tuple[int, int], line: Line) -> int:
        """How many commands of a line one turn may take."""
        if key == _ALL:
            return len(line)
        if key[1] != CALLERS:
            return min(self._per_stream, len(line))
        rows = 0
        for count, (_, command) in enumerate(line):
            rows += len(command.ids) if isinstance(command, Call) else 1
            if rows > self._callers_rows:
                return max(1, count)
        return len(line)
