"""The generator of sessions that come and go, and of the memory that their server takes meanwhile: a process of its own.

Each stream opens its sessions, steps them for a while in packed blocks, and lets them go in one of three ways, in turn: closed,
detached so that they expire, or abandoned by a client that vanishes. Now and then sessions are forked; forks only expire. Then
another stream follows on the same connection. Every answer is checked as in a closed loop.

`python -m benchmarks.churn PLAN` with a ChurnPlan as JSON prints a ChurnResult as JSON.
"""

from __future__ import annotations

import json
import selectors
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass

from benchmarks.load import Lane, Plan
from benchmarks.process import resident_bytes
from benchmarks.wire import Connection, WireError, connect
from stepstream_proto.v1 import session_pb2

_FORK = "/stepstream.v1.SessionService/ForkSession"
_WAYS = ("closed", "expired", "abandoned")
_STALLED_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class ChurnPlan:
    """What each stream does, and how long in all."""

    life: Plan  # of one stream: its sessions, and `max_blocks` of its blocks
    steps: int  # after which it ends
    samples: int  # of memory, evenly over the steps
    forks: int = 16  # of one session of each stream that detaches


@dataclass(frozen=True, slots=True)
class ChurnResult:
    """What happened, and the server's memory over the steps."""

    seconds: float
    sessions: int
    streams: int
    forks: int
    at_steps: list[int]
    resident: list[int]  # bytes


class Life:
    """One connection, on which one stream's life follows another's."""

    def __init__(self, connection: Connection, plan: ChurnPlan, number: int) -> None:
        self._connection = connection
        self._plan = plan
        self._way = number % len(_WAYS)
        self._forking = 0  # stream of a call that is not answered yet
        self.counts: Counter[str] = Counter()
        self.begin()

    def begin(self) -> None:
        """Opens the next stream."""
        self._way = (self._way + 1) % len(_WAYS)
        self._leaving = False
        self._lane = Lane(self._connection, self._plan.life, self.counts["streams"])
        self._lane.open()
        self.counts["streams"] += 1
        self.counts["sessions"] += self._plan.life.sessions

    def take(self, stream: int, message: bytes) -> int:
        """Takes what the server said and goes on; returns how many steps it answered."""
        if stream == self._forking:
            self._forked(message)
            return 0
        before = self._lane.steps
        self._lane.take(message, 0.0)
        steps = self._lane.steps - before
        if self._leaving:
            if not self._lane.attached:
                self._left()
        elif self._lane.attached == self._plan.life.sessions:
            self._lane.fill()
            if not self._lane.in_flight:
                self._leave()
        return steps

    def _leave(self) -> None:
        """All blocks are answered."""
        self._leaving = True
        if _WAYS[self._way] == "abandoned":
            self._connection.reset(self._lane.stream)
            self.begin()
        else:
            self._lane.close(for_good=_WAYS[self._way] == "closed")

    def _left(self) -> None:
        """All sessions are let go. Nobody holds those that will expire, so that their id is all that a fork takes."""
        self._connection.finish(self._lane.stream)
        if _WAYS[self._way] == "closed" or not self._plan.forks:
            self.begin()
            return
        self._forking = self._connection.open_stream(_FORK)
        request = session_pb2.ForkSessionRequest(model=self._plan.life.model, id=self._lane.first_id, count=self._plan.forks)
        self._connection.send(self._forking, request.SerializeToString(), last=True)

    def _forked(self, message: bytes) -> None:
        sessions = session_pb2.ForkSessionResponse.FromString(message).sessions
        if len(sessions) != self._plan.forks or any(each.HasField("error") for each in sessions):
            raise WireError(f"expected {self._plan.forks} forks, got {str(sessions)[:500]}")
        self.counts["forks"] += len(sessions)
        self._forking = 0
        self.begin()


def churn(plan: ChurnPlan) -> ChurnResult:
    """Goes on until so many steps are answered. Raises WireError for an answer that is not right."""
    selector = selectors.DefaultSelector()
    connections = [connect(plan.life.address) for _ in range(plan.life.connections)]
    lives = {connection: Life(connection, plan, number) for number, connection in enumerate(connections)}
    for connection in connections:
        selector.register(connection, selectors.EVENT_READ, connection)
        connection.flush()
    begun, steps = time.perf_counter(), 0
    at_steps, resident = [0], [resident_bytes(plan.life.pid)]
    while steps < plan.steps:
        ready = selector.select(_STALLED_SECONDS)
        if not ready:
            raise WireError(f"no answer for {_STALLED_SECONDS:.0f} s")
        for key, _ in ready:
            connection = key.data
            steps += sum(lives[connection].take(stream, message) for stream, message in connection.receive())
            connection.flush()
        if steps >= len(at_steps) * plan.steps / plan.samples:
            at_steps.append(steps)
            resident.append(resident_bytes(plan.life.pid))
    seconds = time.perf_counter() - begun
    for connection in connections:
        connection.close()
    counts = sum((life.counts for life in lives.values()), Counter())
    return ChurnResult(seconds, counts["sessions"], counts["streams"], counts["forks"], at_steps, resident)


def main() -> None:
    """One plan in, one result out."""
    values = json.loads(sys.argv[1])
    plan = ChurnPlan(**values | {"life": Plan(**values["life"])})
    print(json.dumps(asdict(churn(plan))), flush=True)


if __name__ == "__main__":
    main()
