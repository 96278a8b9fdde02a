"""The generator of live streams: each sends a block of all its sessions at a steady beat, as gateways do that gather the frames
of many sources, or as a single source does. It sends on time, whether or not the block before was answered.

`python -m benchmarks.frames PLAN` with a FramesPlan as JSON prints a FramesResult as JSON.
"""

from __future__ import annotations

import json
import math
import sys
from collections import deque
from dataclasses import asdict, dataclass, replace

from benchmarks.load import Lane, Plan
from benchmarks.paced import TAIL_SECONDS, Paced, run
from benchmarks.schedule import ANSWERED, Figures, Log, periodic
from benchmarks.wire import Connection, connect


@dataclass(frozen=True, slots=True)
class FramesPlan:
    """A load to send, and the server that gets it."""

    stream: Plan  # where, to which model, and with how many sessions on each stream
    sessions: int  # over all streams; the last stream has what is left
    period: float  # seconds between two blocks of a stream
    seed: int = 0


@dataclass(frozen=True, slots=True)
class FramesResult(Figures):
    """Delays of the blocks that were due in the measured part, and the processor time that they took."""

    seconds: float
    generator_cpu: float
    server_cpu: float


class FrameLane:
    """One stream of an open loop whose blocks step all of its sessions."""

    next_late = math.inf  # blocks have no deadline

    def __init__(self, connection: Connection, plan: Plan, log: Log, seed: int) -> None:
        self.connection = connection
        self._lane = Lane(connection, plan, seed)
        self._sessions = plan.sessions
        self._log = log
        self._flight: deque[int] = deque()  # steps of the schedule that were sent and not answered
        self.stream = 0

    @property
    def attached(self) -> bool:
        """Tells whether its sessions are open."""
        return self._lane.attached == self._sessions

    @property
    def answered(self) -> int:
        """Steps so far, of all sessions together."""
        return self._lane.steps

    def open(self) -> None:
        """Asks for the sessions."""
        self._lane.open()
        self.stream = self._lane.stream

    def close(self) -> None:
        """Asks to close them."""
        self._lane.close()

    def offer(self, step: int, now: float) -> None:
        """A block is due, and is sent."""
        self._log.take(step, now)
        self._flight.append(step)
        self._lane.send_block()

    def pump(self, now: float) -> None:
        """Nothing waits here."""

    def take(self, message: bytes, now: float) -> None:
        """Takes what the server said; a block ends with its last row. Raises WireError."""
        for _ in self._lane.take(message, now):
            self._log.end(self._flight.popleft(), now, ANSWERED)


def measure(plan: FramesPlan) -> FramesResult:
    """Offers what the plan says. Raises WireError."""
    each, whole = plan.stream, -(-plan.sessions // plan.stream.sessions)
    schedule = periodic(plan.period, whole, each.warm_up_seconds, each.seconds, TAIL_SECONDS, plan.seed)
    connections = [connect(each.address) for _ in range(min(each.connections, whole))]
    log = Log(schedule, math.inf)
    sizes = [min(each.sessions, plan.sessions - each.sessions * stream) for stream in range(whole)]
    lanes = [
        FrameLane(connections[stream % len(connections)], replace(each, sessions=size), log, stream)
        for stream, size in enumerate(sizes)
    ]
    spent = run(Paced(log, lanes, connections), schedule, TAIL_SECONDS, each.pid)
    return FramesResult(
        **asdict(log.figures()), seconds=each.seconds, generator_cpu=spent.generator_cpu, server_cpu=spent.server_cpu
    )


def main() -> None:
    """One plan in, one result out."""
    plan = json.loads(sys.argv[1])
    print(json.dumps(asdict(measure(FramesPlan(**plan | {"stream": Plan(**plan["stream"])})))), flush=True)


if __name__ == "__main__":
    main()
