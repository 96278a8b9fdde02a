"""The generator of unary calls: a process of its own whose callers each step a session of their own, one call at a time.

Closed loop: a caller calls again when it is answered. It checks that each answer is the next of its session and has outputs of
the right size.

`python -m benchmarks.calls PLAN` with a Plan as JSON, whose streams are callers on one connection, prints a Result as JSON.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict

import numpy as np

from benchmarks.inputs import random_inputs
from benchmarks.load import Plan, Result, dial, measured
from benchmarks.wire import WireError
from stepstream_proto.v1 import inference_pb2, session_pb2

_STEP = "/stepstream.v1.InferenceService/Step"
_OPEN, _CLOSE = "/stepstream.v1.SessionService/OpenSession", "/stepstream.v1.SessionService/CloseSession"


class Calls:
    """All callers of a plan, on one connection."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._connection = dial(plan)
        self._calls: dict[int, Callable[[bytes], object]] = {}  # what takes the answer, by stream
        self._requests: list[bytes] = []  # a caller's step, once its session is open
        self._sessions: list[session_pb2.OpenSessionResponse] = []
        self._values = random_inputs(np.random.default_rng(0), (plan.input_width,), plan.tokens, plan.range).tolist()
        self._answered = [0] * plan.streams  # by caller
        self._until = 0.0  # when callers stop
        self.round_trips: list[float] = []

    @property
    def steps(self) -> int:
        """Answered so far."""
        return sum(self._answered)

    def open(self) -> None:
        """Opens a session for each caller."""
        request = session_pb2.OpenSessionRequest(model=self._plan.model)
        for _ in range(self._plan.streams):
            self._call(_OPEN, request.SerializeToString(), self._opened)
        self.drain()

    def run(self, seconds: float) -> None:
        """Has all callers call, those that are answered after so long for the last time."""
        self._until = time.perf_counter() + seconds
        for caller in range(self._plan.streams):
            self._step(caller)
        self.drain()

    def drain(self) -> None:
        """Takes answers until none is waited for."""
        while self._calls:
            self._connection.flush()
            for stream, message in self._connection.receive():
                self._calls.pop(stream)(message)

    def close(self) -> None:
        """Closes sessions, then the connection."""
        for each in self._sessions:
            request = session_pb2.CloseSessionRequest(model=self._plan.model, id=each.session.id, secret=each.secret)
            self._call(_CLOSE, request.SerializeToString(), session_pb2.CloseSessionResponse.FromString)
        self.drain()
        self._connection.close()

    def _call(self, path: str, request: bytes, take: Callable[[bytes], object]) -> None:
        stream = self._connection.open_stream(path)
        self._connection.send(stream, request, last=True)
        self._calls[stream] = take

    def _opened(self, message: bytes) -> None:
        opened = session_pb2.OpenSessionResponse.FromString(message)
        step = inference_pb2.StepRequest(model=self._plan.model, session_id=opened.session.id)
        step.inputs["input"].numbers.extend(self._values)
        self._sessions.append(opened)
        self._requests.append(step.SerializeToString())

    def _step(self, caller: int) -> None:
        begun = time.perf_counter()
        self._call(_STEP, self._requests[caller], lambda message: self._stepped(caller, begun, message))

    def _stepped(self, caller: int, begun: float, message: bytes) -> None:
        now = time.perf_counter()
        answer = inference_pb2.StepResponse.FromString(message)
        outputs = sum(len(each.numbers) for each in answer.outputs.values())
        expected = self._answered[caller], self._plan.output_width
        if (answer.seq, outputs) != expected:
            raise WireError(f"caller {caller}: expected a step's number and outputs {expected}, got {answer.seq, outputs}")
        self._answered[caller] += 1
        self.round_trips.append(now - begun)
        if now < self._until:
            self._step(caller)


def measure(plan: Plan) -> Result:
    """Warms up, measures and closes. Raises WireError for an answer that is not right."""
    return measured(Calls(plan), plan)


def main() -> None:
    """One plan in, one result out."""
    print(json.dumps(asdict(measure(Plan(**json.loads(sys.argv[1]))))), flush=True)


if __name__ == "__main__":
    main()
