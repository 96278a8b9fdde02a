"""The open-loop generator: a process of its own that sends steps when they are due, whether or not earlier ones were answered.

How a stream sends is its lane's: `paced_lane` sends single steps at random moments, `frames` blocks at a steady beat.
`python -m benchmarks.paced PLAN` with a PacedPlan as JSON prints a PacedResult as JSON.
"""

from __future__ import annotations

import json
import math
import selectors
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Protocol

from benchmarks.paced_lane import PacedLane, PacedPlan
from benchmarks.process import cpu_seconds
from benchmarks.schedule import Figures, Log, Schedule, poisson
from benchmarks.wire import Connection, WireError, connect

_STALLED_SECONDS = 30.0  # without an outcome for this long, something is wrong
TAIL_SECONDS = 0.2  # how long load goes on behind the measured part, if steps have no deadline


@dataclass(frozen=True, slots=True)
class PacedResult(Figures):
    """What became of the steps that were due in the measured part, and what it took."""

    seconds: float
    generator_cpu: float
    server_cpu: float
    steps: int  # answered by the server while its CPU time was measured
    reasons: dict[str, int]  # of refusals, warm-up included


class OpenLane(Protocol):
    """One stream of an open loop."""

    stream: int

    @property
    def connection(self) -> Connection:
        """The connection that it is on."""

    @property
    def attached(self) -> bool:
        """Tells whether its sessions are open."""

    @property
    def answered(self) -> int:
        """Steps so far."""

    @property
    def next_late(self) -> float:
        """When the next waiting step will be too late, in seconds from the start; inf if none waits."""

    def open(self) -> None:
        """Asks for its sessions."""

    def close(self) -> None:
        """Asks to close them."""

    def offer(self, step: int, now: float) -> None:
        """A step of the schedule is due."""

    def pump(self, now: float) -> None:
        """Sends what waits, as far as the server takes it."""

    def take(self, message: bytes, now: float) -> None:
        """Takes what the server said. Raises WireError."""


class Paced:
    """All lanes of a plan, driven by one thread."""

    def __init__(self, log: Log, lanes: Sequence[OpenLane], connections: Sequence[Connection]) -> None:
        self._streams = log.streams
        self.log = log
        self._connections = connections
        self.lanes = lanes
        self._by_connection = {each: [lane for lane in lanes if lane.connection is each] for each in connections}
        self._by_stream: dict[tuple[Connection, int], OpenLane] = {}
        self._selector = selectors.SelectSelector()  # epoll rounds times up to milliseconds, which steps would wait
        self._next = 0  # of the schedule
        self._epoch = math.inf  # on the performance counter: when the schedule began

    def open(self) -> None:
        """Opens streams and sessions."""
        for connection in self._connections:
            self._selector.register(connection, selectors.EVENT_READ, connection)
        for lane in self.lanes:
            lane.open()
            self._by_stream[lane.connection, lane.stream] = lane
        while not all(lane.attached for lane in self.lanes):
            self._exchange(_STALLED_SECONDS)

    def start(self) -> None:
        """The schedule begins now."""
        self._epoch = time.perf_counter()

    def follow(self, until: float) -> None:
        """Offers what is due before `until`, seconds from the start, when it is due."""
        while (now := self._now()) < until:
            self._offer_due(now)
            following = self.log.due[self._next] if self._next < len(self.log.due) else math.inf
            self._exchange(max(0.0, min(until, following) - self._now()), patient=True)

    def settle(self) -> None:
        """Waits until something has become of every step."""
        self._offer_due(self._now())
        while self.log.open:
            late = min((lane.next_late for lane in self.lanes), default=math.inf)
            self._exchange(min(_STALLED_SECONDS, max(0.0, late - self._now())), patient=late < math.inf)
            for lane in self.lanes:
                lane.pump(self._now())

    def close(self) -> None:
        """Closes sessions, then connections."""
        for lane in self.lanes:
            lane.close()
        while any(lane.attached for lane in self.lanes):
            self._exchange(_STALLED_SECONDS)
        for connection in self._connections:
            connection.close()

    @property
    def answered(self) -> int:
        """Steps so far."""
        return sum(lane.answered for lane in self.lanes)

    def _now(self) -> float:
        return time.perf_counter() - self._epoch

    def _offer_due(self, now: float) -> None:
        due, streams = self.log.due, self._streams
        while self._next < len(due) and due[self._next] <= now:
            self.lanes[streams[self._next]].offer(self._next, now)
            self._next += 1
            now = self._now()

    def _exchange(self, seconds: float, patient: bool = False) -> None:
        """Writes what there is, waits so long for something to come, and takes it. Raises WireError if nothing came."""
        for connection in self._connections:
            wanted = selectors.EVENT_READ | (0 if connection.write() else selectors.EVENT_WRITE)
            if self._selector.get_key(connection).events != wanted:
                self._selector.modify(connection, wanted, connection)
        ready = self._selector.select(seconds)
        if not ready and not patient:
            raise WireError(f"nothing came for {seconds:.0f} s")
        for key, events in ready:
            if events & selectors.EVENT_READ:
                self._receive(key.data)
                self._offer_due(self._now())

    def _receive(self, connection: Connection) -> None:
        messages = connection.receive()
        now = self._now()
        for stream, message in messages:
            self._by_stream[connection, stream].take(message, now)
        for lane in self._by_connection[connection]:
            lane.pump(now)


@dataclass(frozen=True, slots=True)
class Spent:
    """Steps that were answered in the measured part, and how long they took."""

    answered: int
    generator_cpu: float
    server_cpu: float


def run(load: Paced, schedule: Schedule, tail: float, pid: int) -> Spent:
    """Warms up, measures, goes on for a little, waits for what is under way and closes. Raises WireError."""
    load.open()
    load.start()
    load.follow(schedule.begin)
    answered, own, servers = load.answered, time.process_time(), cpu_seconds(pid)
    load.follow(schedule.end)
    spent = Spent(load.answered - answered, time.process_time() - own, cpu_seconds(pid) - servers)
    load.follow(schedule.end + tail)
    load.settle()
    load.close()
    return spent


def measure(plan: PacedPlan) -> PacedResult:
    """Offers what the plan says. Raises WireError."""
    tail = plan.deadline_seconds or TAIL_SECONDS
    schedule = poisson(plan.rate, plan.streams, plan.warm_up_seconds, plan.seconds, tail, plan.seed)
    connections = [connect(plan.address) for _ in range(min(plan.connections, plan.streams))]
    log = Log(schedule, plan.deadline_seconds or math.inf)
    lanes = [PacedLane(connections[each % len(connections)], plan, log, each) for each in range(plan.streams)]
    spent = run(Paced(log, lanes, connections), schedule, tail, plan.pid)
    return PacedResult(
        **asdict(log.figures()),
        seconds=plan.seconds,
        generator_cpu=spent.generator_cpu,
        server_cpu=spent.server_cpu,
        steps=spent.answered,
        reasons=dict(sum((lane.reasons for lane in lanes), Counter())),
    )


def main() -> None:
    """One plan in, one result out."""
    print(json.dumps(asdict(measure(PacedPlan(**json.loads(sys.argv[1]))))), flush=True)


if __name__ == "__main__":
    main()
