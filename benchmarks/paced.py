"""The open-loop generator: a process of its own that sends steps when they are due, whether or not earlier ones were answered.

Each stream carries one session and sends one step per message, like a sensor that does not wait. A step that is due is sent at
once, as long as the server's HTTP/2 windows take it and the session has fewer than `in_flight` steps under way. Otherwise the
server is pushing back: the step waits here, as it would in a client's queue, and is given up when less time is left than twice
the latest round trip. It stays offered: it counts, and the next ones keep coming. A sent step carries as `timeout` what is left
until its deadline. When one is refused, the lane goes back: once all outcomes are there, what was sent behind it is sent again.

`python -m benchmarks.paced PLAN` with a PacedPlan as JSON prints a PacedResult as JSON.
"""

from __future__ import annotations

import json
import math
import selectors
import struct
import sys
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from benchmarks.process import cpu_seconds
from benchmarks.schedule import ANSWERED, GIVEN_UP, REFUSED, Figures, Log, Schedule, poisson
from benchmarks.wire import Connection, WireError, connect
from stepstream_proto.v1 import inference_pb2

_PATH = "/stepstream.v1.InferenceService/Stream"
_HANDLE = bytes(4)  # each stream has one session
_COUNT = struct.Struct("<Q")
_VARIETY = 8  # different inputs per stream, prepared before the clock runs
_MARGIN = 2.0  # times the latest round trip: the next one may well be longer
_STALLED_SECONDS = 30.0  # without an outcome for this long, something is wrong
_TAIL_SECONDS = 0.2  # how long load goes on behind the measured part, if steps have no deadline


@dataclass(frozen=True, slots=True)
class PacedPlan:
    """What to send where."""

    address: str  # HOST:PORT
    pid: int  # of the server, whose CPU time is read at both ends of the measurement
    model: str
    input_width: int  # float32 values per step
    output_width: int
    streams: int
    rate: float  # steps per second over all streams
    seconds: float = 1.5
    warm_up_seconds: float = 0.4
    deadline_seconds: float = 0.0  # after a step is due; 0: none
    in_flight: int = 512  # steps per stream
    connections: int = 64
    seed: int = 0


@dataclass(frozen=True, slots=True)
class PacedResult(Figures):
    """What became of the steps that were due in the measured part, and what it took."""

    seconds: float
    generator_cpu: float
    server_cpu: float
    steps: int  # answered by the server while its CPU time was measured
    reasons: dict[str, int]  # of refusals, warm-up included


class PacedLane:
    """One stream with one session."""

    def __init__(self, connection: Connection, plan: PacedPlan, log: Log, seed: int) -> None:
        self.connection = connection
        self._plan = plan
        self._log = log
        self._deadline = plan.deadline_seconds or math.inf
        values = np.random.default_rng(seed).normal(size=(_VARIETY, plan.input_width))
        self._inputs = [row.astype("<f4").tobytes() for row in values]
        self._waiting: deque[int] = deque()  # steps that are due and not sent
        self._flight: deque[tuple[int, int, float]] = deque()  # steps sent, their numbers, and when
        self._again: list[int] = []  # to be sent once more, when nothing is in flight any more
        self._going_back = False
        self._next_seq = 0
        self._round_trip = 0.0  # of the latest answer
        self._received = 0
        self.stream = 0
        self.attached = False
        self.answered = 0
        self.reasons: Counter[str] = Counter()

    def open(self) -> None:
        """Asks for the session."""
        self.stream = self.connection.open_stream(_PATH)
        self._send(inference_pb2.StreamRequest(open=inference_pb2.OpenOnStream(model=self._plan.model, handles=_HANDLE)))

    def close(self) -> None:
        """Asks to close the session."""
        self._send(inference_pb2.StreamRequest(detach=inference_pb2.Detach(handles=_HANDLE, close=True)))

    def offer(self, step: int, now: float) -> None:
        """A step is due."""
        self._log.take(step, now)
        self._waiting.append(step)
        self.pump(now)

    def pump(self, now: float) -> None:
        """Sends what waits, as far as the server takes it, and gives up what cannot be answered in time any more."""
        if self._going_back and not self._flight:
            self._waiting.extendleft(reversed(self._again))
            self._again, self._going_back = [], False
        while self._waiting:
            left = self._log.due[self._waiting[0]] + self._deadline - now
            if left <= self._needed:
                self._log.end(self._waiting.popleft(), now, GIVEN_UP)
            elif not self._going_back and len(self._flight) < self._plan.in_flight and self.connection.takes(self.stream):
                self._send_step(self._waiting.popleft(), left, now)
            else:
                return

    @property
    def next_late(self) -> float:
        """When the next waiting step will be too late, in seconds from the start; inf if none waits."""
        return self._log.due[self._waiting[0]] + self._deadline - self._needed if self._waiting else math.inf

    @property
    def _needed(self) -> float:
        """Seconds without which a step is not worth sending. With nothing in flight the latest round trip says little."""
        return _MARGIN * self._round_trip if self._flight else 0.0

    def take(self, message: bytes, now: float) -> None:
        """Takes what the server said. Raises WireError."""
        response = inference_pb2.StreamResponse.FromString(message)
        kind = response.WhichOneof("message")
        if kind == "answers":
            self._answers(response.answers, now)
        elif kind == "attached" and not response.attached.sessions[0].HasField("error"):
            self.attached = True
        elif kind == "detached" and not response.detached.HasField("error"):
            self.attached = False
        else:
            raise WireError(f"stream {self.stream}: expected answers, got {str(response)[:500]}")

    def _send(self, request: inference_pb2.StreamRequest) -> None:
        self.connection.send(self.stream, request.SerializeToString())

    def _send_step(self, step: int, left: float, now: float) -> None:
        request = inference_pb2.StreamRequest()
        block = request.block
        block.handles = _HANDLE
        block.first_seqs = _COUNT.pack(self._next_seq)
        block.inputs.append(self._inputs[step % _VARIETY])
        block.acked = _COUNT.pack(self._received)
        if left < math.inf:
            block.timeout.FromNanoseconds(int(left * 1e9))
        self._flight.append((step, self._next_seq, now))
        self._next_seq += 1
        self._send(request)

    def _answers(self, answers: inference_pb2.Answers, now: float) -> None:
        rows = len(answers.handles) // 4
        first_seqs = struct.unpack(f"<{rows}Q", answers.first_seqs)
        lengths = struct.unpack(f"<{rows}I", answers.lengths) if answers.lengths else (1,) * rows
        if [len(each) for each in answers.outputs] != [4 * sum(lengths) * self._plan.output_width] and rows:
            raise WireError(f"stream {self.stream}: {sum(lengths)} steps came with outputs of another size")
        for first, length in zip(first_seqs, lengths, strict=True):
            for seq in range(first, first + length):
                step, sent = self._next_outcome(seq)
                self._log.end(step, now, ANSWERED)
                self._round_trip = now - sent
                self._received = seq + 1
                self.answered += 1
        for error in answers.errors:
            self._refused(error, now)

    def _refused(self, error: inference_pb2.RowError, now: float) -> None:
        """The first refusal is of a step itself; numbering goes back to it, and those sent behind it are to be sent again."""
        for seq in range(error.first_seq, error.first_seq + error.length):
            step, _ = self._next_outcome(seq)
            self.reasons[error.error.reason] += 1
            if self._going_back:
                self._again.append(step)
            else:
                self._log.end(step, now, REFUSED)
                self._next_seq, self._going_back = error.expected_seq, True

    def _next_outcome(self, seq: int) -> tuple[int, float]:
        """The step that the outcome is of, and when it was sent. Raises WireError: outcomes come in the order of inputs."""
        step, expected, sent = self._flight.popleft() if self._flight else (0, -1, 0.0)
        if seq != expected:
            raise WireError(f"stream {self.stream}: expected the outcome of step {expected}, got that of {seq}")
        return step, sent


class Paced:
    """All lanes of a plan, driven by one thread."""

    def __init__(self, plan: PacedPlan, schedule: Schedule, connections: Sequence[Connection]) -> None:
        self._streams: list[int] = schedule.streams.tolist()
        self.log = Log(schedule, plan.deadline_seconds or math.inf)
        self._connections = connections
        owners = [connections[each % len(connections)] for each in range(plan.streams)]
        self.lanes = [PacedLane(connection, plan, self.log, seed) for seed, connection in enumerate(owners)]
        self._by_connection = {each: [lane for lane in self.lanes if lane.connection is each] for each in connections}
        self._by_stream: dict[tuple[Connection, int], PacedLane] = {}
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


def measure(plan: PacedPlan) -> PacedResult:
    """Warms up, measures, goes on for a little, waits for what is under way and closes. Raises WireError."""
    tail = plan.deadline_seconds or _TAIL_SECONDS
    schedule = poisson(plan.rate, plan.streams, plan.warm_up_seconds, plan.seconds, tail, plan.seed)
    connections = [connect(plan.address) for _ in range(min(plan.connections, plan.streams))]
    load = Paced(plan, schedule, connections)
    load.open()
    load.start()
    load.follow(schedule.begin)
    answered, own, servers = load.answered, time.process_time(), cpu_seconds(plan.pid)
    load.follow(schedule.end)
    answered, own, servers = load.answered - answered, time.process_time() - own, cpu_seconds(plan.pid) - servers
    load.follow(schedule.end + tail)
    load.settle()
    load.close()
    reasons = sum((lane.reasons for lane in load.lanes), Counter())
    figures = asdict(load.log.figures())
    return PacedResult(
        **figures, seconds=plan.seconds, generator_cpu=own, server_cpu=servers, steps=answered, reasons=dict(reasons)
    )


def main() -> None:
    """One plan in, one result out."""
    print(json.dumps(asdict(measure(PacedPlan(**json.loads(sys.argv[1]))))), flush=True)


if __name__ == "__main__":
    main()
