"""One stream of the open loop: what it sends when, and what it does when the server pushes back.

Each stream carries one session and sends one step per message, like a sensor that does not wait. A step that is due is sent at
once, as long as the server's HTTP/2 windows take it and the session has fewer than `in_flight` steps under way. Otherwise the
server is pushing back: the step waits here, as it would in a client's queue, and is given up when less time is left than twice
the latest round trip. It stays offered: it counts, and the next ones keep coming. A sent step carries as `timeout` what is left
until its deadline. When one is refused, the lane goes back: once all outcomes are there, what was sent behind it is sent again.
"""

from __future__ import annotations

import math
import struct
from collections import Counter, deque
from dataclasses import dataclass

import numpy as np

from benchmarks.schedule import ANSWERED, GIVEN_UP, REFUSED, Log
from benchmarks.wire import Connection, WireError
from stepstream_proto.v1 import inference_pb2

_PATH = "/stepstream.v1.InferenceService/Stream"
_HANDLE = bytes(4)  # each stream has one session
_COUNT = struct.Struct("<Q")
_VARIETY = 8  # different inputs per stream, prepared before the clock runs
_MARGIN = 2.0  # times the latest round trip: the next one may well be longer


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
        if sum(map(len, answers.outputs)) != 4 * sum(lengths) * self._plan.output_width:
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
