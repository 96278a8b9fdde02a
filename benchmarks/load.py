"""The load generator: a process of its own that opens sessions, keeps blocks in flight, checks every answer, and prints one line.

Closed loop: a stream sends its next block when an answer makes room, so it is bounded in what is in flight as well as in time
and number. The same plan drives the server, the echo and the plain server, which see the same bytes. It checks that each step
is answered once, in order and with outputs of the right size; anything else ends it with an error.

`python -m benchmarks.load PLAN` with a Plan as JSON prints a Result as JSON.
"""

from __future__ import annotations

import json
import selectors
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from benchmarks.inputs import random_inputs
from benchmarks.process import cpu_seconds
from benchmarks.wire import Connection, WireError, connect
from stepstream_proto.v1 import inference_pb2

_PATH = "/stepstream.v1.InferenceService/Stream"
_VARIETY = 8  # different inputs per stream, prepared before the clock runs
_SHOWN = 500  # characters of a message that should not have come
_STALLED_SECONDS = 60.0  # without a single answer for this long, something is wrong

Seqs = NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Plan:
    """What to send where. Blocks have one row for each session of their stream."""

    address: str  # HOST:PORT
    pid: int  # of the server, whose CPU time is read at both ends of the measurement
    model: str
    input_width: int  # values per step
    output_width: int  # values per step of all outputs together
    tokens: int = 0  # below which inputs are, which are int64 then; 0: they are float32
    range: float = 0.0  # beyond which float32 inputs are not; 0: they are as they are drawn
    streams: int = 1
    sessions: int = 1  # per stream
    length: int = 1  # steps per row
    in_flight: int = 1  # blocks per stream
    connections: int = 1
    warm_up_seconds: float = 0.3
    seconds: float = 1.5
    max_blocks: int = 1_000_000  # per stream; the run ends when it reaches them, however early
    idle: bool = False  # step each session once, then hold the streams open until standard input ends
    authority_file: str = ""  # path of the certificate (PEM) of who vouches for the server; empty: plaintext
    token: str = ""  # that calls show; empty: none
    durable: bool = False  # sessions that survive their server, which must have a store


@dataclass(frozen=True, slots=True)
class Result:
    """What happened between the end of the warm-up and the end of the run. Times in seconds.

    Of rollouts (`rolling`) steps are what was drawn, blocks the messages in which it came, and times those from a request to the
    first of its draws, warm-up included.
    """

    steps: int
    blocks: int
    seconds: float
    generator_cpu: float
    server_cpu: float
    p50: float  # of a block's round trip: sent to last row answered
    p99: float
    p999: float


class Lane:
    """One stream with its sessions. Its blocks step all of them, so one number says where they all are."""

    def __init__(self, connection: Connection, plan: Plan, seed: int) -> None:
        self._connection = connection
        self._plan = plan
        self._handles = np.arange(plan.sessions, dtype="<u4").tobytes()
        self._lengths = b"" if plan.length == 1 else np.full(plan.sessions, plan.length, "<u4").tobytes()
        shape = (_VARIETY, plan.sessions * plan.length * plan.input_width)
        self._inputs = [row.tobytes() for row in random_inputs(np.random.default_rng(seed), shape, plan.tokens, plan.range)]
        self._received: Seqs = np.zeros(plan.sessions, "<u8")  # answered so far, per session
        self._sent: deque[float] = deque()  # when each block in flight was sent
        self._block_steps = plan.sessions * plan.length
        self.stream = 0
        self.blocks = 0  # sent
        self.steps = 0  # answered
        self.attached = 0
        self.first_id = ""  # of a session, once they are open

    @property
    def in_flight(self) -> int:
        """Blocks sent and not completely answered."""
        return len(self._sent)

    def open(self) -> None:
        """Asks for the sessions."""
        self.stream = self._connection.open_stream(_PATH)
        opening = inference_pb2.OpenOnStream(model=self._plan.model, handles=self._handles, durable=self._plan.durable)
        self._send(inference_pb2.StreamRequest(open=opening))

    def close(self, for_good: bool = True) -> None:
        """Asks to close the sessions, or only to let them go."""
        self._send(inference_pb2.StreamRequest(detach=inference_pb2.Detach(handles=self._handles, close=for_good)))

    def acknowledge(self) -> None:
        """Says what was received, outside a block."""
        counts = self._received.tobytes()
        self._send(inference_pb2.StreamRequest(acknowledge=inference_pb2.Acknowledge(handles=self._handles, counts=counts)))

    def fill(self) -> None:
        """Sends blocks until as many are in flight as planned."""
        while len(self._sent) < self._plan.in_flight and self.blocks < self._plan.max_blocks:
            self.send_block()

    def take(self, message: bytes, now: float) -> Iterable[float]:
        """Takes what the server said; returns the round trips of the blocks that it completes. Raises WireError."""
        response = inference_pb2.StreamResponse.FromString(message)
        kind = response.WhichOneof("message")
        if kind == "answers":
            return self._answers(response.answers, now)
        if kind == "attached" and not any(each.HasField("error") for each in response.attached.sessions):
            self.attached += len(response.attached.sessions)
            self.first_id = self.first_id or response.attached.sessions[0].id
        elif kind == "durable":
            return ()  # no inputs are kept that it would let go of
        elif kind == "detached" and not response.detached.HasField("error"):
            self.attached -= len(response.detached.handles) // 4
        else:
            raise WireError(f"stream {self.stream}: expected answers, got {str(response)[:_SHOWN]}")
        return ()

    def _send(self, request: inference_pb2.StreamRequest) -> None:
        self._connection.send(self.stream, request.SerializeToString())

    def send_block(self) -> None:
        """Sends steps of every session. Acknowledges in the block what was received, as a client does, so that windows never
        fill."""
        request = inference_pb2.StreamRequest()
        block = request.block
        block.handles = self._handles
        block.first_seqs = np.full(self._plan.sessions, self.blocks * self._plan.length, "<u8").tobytes()
        block.lengths = self._lengths
        block.inputs.append(self._inputs[self.blocks % _VARIETY])
        block.acked = self._received.tobytes()
        self.blocks += 1
        self._sent.append(time.perf_counter())
        self._send(request)

    def _answers(self, answers: inference_pb2.Answers, now: float) -> list[float]:
        if answers.errors or answers.kept:
            raise WireError(f"stream {self.stream}: expected every step answered, got {answers.errors[:1]}")
        steps = self._count(answers)
        if sum(map(len, answers.outputs)) != 4 * steps * self._plan.output_width:
            raise WireError(f"stream {self.stream}: {steps} steps came with outputs of another size")
        before, self.steps = self.steps // self._block_steps, self.steps + steps
        return [now - self._sent.popleft() for _ in range(self.steps // self._block_steps - before)]

    def _count(self, answers: inference_pb2.Answers) -> int:
        """Steps answered, once each is known to be the next of its session."""
        handles = np.frombuffer(answers.handles, "<u4")
        first = np.frombuffer(answers.first_seqs, "<u8")
        lengths = np.frombuffer(answers.lengths, "<u4") if answers.lengths else np.ones(len(handles), "<u4")
        if len(handles) > 1 and not (handles[1:] > handles[:-1]).all():  # regrouped: bring each session's rows together
            order = np.argsort(handles, kind="stable")
            handles, first, lengths = handles[order], first[order], lengths[order]
        ends = np.cumsum(lengths, dtype=np.uint64)
        starts = np.flatnonzero(np.concatenate(([True], handles[1:] != handles[:-1])))
        before = np.repeat((ends - lengths)[starts], np.diff(np.append(starts, len(handles))))  # steps of smaller handles
        if (first != self._received[handles] + (ends - lengths) - before).any():
            raise WireError(f"stream {self.stream}: an answer is missing, repeated or out of order")
        np.add.at(self._received, handles, lengths)
        return int(ends[-1])


class Closed(Protocol):
    """A closed loop: of streams, or of calls."""

    round_trips: list[float]  # seconds

    @property
    def steps(self) -> int:
        """Answered so far."""

    def open(self) -> None:
        """Opens sessions."""

    def run(self, seconds: float) -> None:
        """Keeps steps in flight for so long."""

    def drain(self) -> None:
        """Waits for what is in flight."""

    def close(self) -> None:
        """Closes sessions, then connections."""


def dial(plan: Plan) -> Connection:
    """A new connection of a plan. Raises OSError."""
    return connect(plan.address, authority_file=plan.authority_file, token=plan.token)


class Load:
    """All lanes of a plan, driven by one thread."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._connections = [dial(plan) for _ in range(min(plan.connections, plan.streams))]
        self._lanes = [Lane(self._connections[each % len(self._connections)], plan, each) for each in range(plan.streams)]
        self._by_stream: dict[tuple[Connection, int], Lane] = {}
        self._selector = selectors.DefaultSelector()
        self.round_trips: list[float] = []

    def open(self) -> None:
        """Opens streams and sessions."""
        for connection in self._connections:
            self._selector.register(connection, selectors.EVENT_READ, connection)
        for lane, connection in zip(self._lanes, self._owners(), strict=True):
            lane.open()
            self._by_stream[connection, lane.stream] = lane
        self._until(lambda: all(lane.attached == self._plan.sessions for lane in self._lanes))

    def run(self, seconds: float) -> None:
        """Keeps blocks in flight for so long, or until every lane has sent its last."""
        end = time.perf_counter() + seconds
        for lane in self._lanes:
            lane.fill()
        self._until(lambda: time.perf_counter() >= end or not any(lane.in_flight for lane in self._lanes), refill=True)

    def drain(self) -> None:
        """Waits for what is in flight."""
        self._until(lambda: not any(lane.in_flight for lane in self._lanes))

    def close(self) -> None:
        """Closes sessions, then connections."""
        for lane in self._lanes:
            lane.close()
        self._until(lambda: not any(lane.attached for lane in self._lanes))
        for connection in self._connections:
            connection.close()

    def acknowledge(self) -> None:
        """Acknowledges everything received."""
        for lane in self._lanes:
            lane.acknowledge()
        self._flush()

    @property
    def steps(self) -> int:
        """Answered so far."""
        return sum(lane.steps for lane in self._lanes)

    def _owners(self) -> list[Connection]:
        return [self._connections[each % len(self._connections)] for each in range(len(self._lanes))]

    def _flush(self) -> None:
        for connection in self._connections:
            connection.flush()

    def _until(self, done: Callable[[], bool], refill: bool = False) -> None:
        """Takes what comes until `done`; with `refill`, lanes that an answer gives room send again."""
        self._flush()
        while not done():
            ready = self._selector.select(_STALLED_SECONDS)
            if not ready:
                raise WireError(f"no answer for {_STALLED_SECONDS:.0f} s")
            for key, _ in ready:
                connection = key.data
                messages = connection.receive()
                now = time.perf_counter()
                for stream, message in messages:
                    lane = self._by_stream[connection, stream]
                    self.round_trips += lane.take(message, now)
                    if refill:
                        lane.fill()
                connection.flush()


def measure(plan: Plan) -> Result:
    """Warms up, measures, drains and closes. Raises WireError for an answer that is not right."""
    return measured(Load(plan), plan)


def measured(load: Closed, plan: Plan) -> Result:
    """One run of a closed loop."""
    load.open()
    load.run(plan.warm_up_seconds)
    load.round_trips.clear()
    steps, begun = load.steps, time.perf_counter()
    own, servers = time.process_time(), cpu_seconds(plan.pid)
    load.run(plan.seconds)
    own, servers = time.process_time() - own, cpu_seconds(plan.pid) - servers
    steps, seconds = load.steps - steps, time.perf_counter() - begun
    quantiles = np.quantile(load.round_trips or [0.0], [0.5, 0.99, 0.999]).tolist()
    blocks = len(load.round_trips)
    load.drain()
    load.close()
    return Result(steps, blocks, seconds, own, servers, *quantiles)


def hold(plan: Plan) -> Result:
    """Opens sessions, steps each once so that it has a state, acknowledges, and holds them until standard input ends."""
    load = Load(plan)
    begun = time.perf_counter()
    load.open()
    load.run(_STALLED_SECONDS)
    load.acknowledge()
    result = Result(load.steps, len(load.round_trips), time.perf_counter() - begun, 0.0, 0.0, 0.0, 0.0, 0.0)
    print(json.dumps(asdict(result)), flush=True)
    sys.stdin.read()
    load.close()
    return result


def main() -> None:
    """One plan in, one result out."""
    plan = Plan(**json.loads(sys.argv[1]))
    if plan.idle:
        hold(plan)
    else:
        print(json.dumps(asdict(measure(plan))), flush=True)


if __name__ == "__main__":
    main()
