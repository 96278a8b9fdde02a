"""The generator that opens and closes sessions without a step between: a process of its own, closed loop.

Callers take turns between opening and closing: by unary calls, or on a stream of their own with so many sessions per message.

`python -m benchmarks.openings PLAN` with an OpeningsPlan as JSON prints an OpeningsResult as JSON.
"""

from __future__ import annotations

import json
import selectors
import sys
import time
from dataclasses import asdict, dataclass
from typing import Protocol

import numpy as np

from benchmarks.process import cpu_seconds
from benchmarks.wire import Connection, WireError, connect
from stepstream_proto.v1 import inference_pb2, session_pb2

_STREAM = "/stepstream.v1.InferenceService/Stream"
_OPEN, _CLOSE = "/stepstream.v1.SessionService/OpenSession", "/stepstream.v1.SessionService/CloseSession"
_STALLED_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class OpeningsPlan:
    """What to ask of whom."""

    address: str  # HOST:PORT
    pid: int
    model: str
    callers: int  # each with a connection
    sessions: int = 0  # per message on a stream; 0: unary calls
    warm_up_seconds: float = 0.3
    seconds: float = 1.5


@dataclass(frozen=True, slots=True)
class OpeningsResult:
    """What happened in the measured part."""

    sessions: int  # opened and closed
    seconds: float
    generator_cpu: float
    server_cpu: float


class Caller(Protocol):
    """Somebody who opens and closes in turn."""

    def begin(self) -> None:
        """Asks for the first opening."""

    def take(self, message: bytes) -> int:
        """Takes an answer and asks for what follows; returns how many sessions it closed. Raises WireError."""


class UnaryCaller:
    """One session at a time, by OpenSession and CloseSession."""

    def __init__(self, connection: Connection, plan: OpeningsPlan) -> None:
        self._connection = connection
        self._model = plan.model
        self._opening = True

    def begin(self) -> None:
        self._call(_OPEN, session_pb2.OpenSessionRequest(model=self._model).SerializeToString())

    def take(self, message: bytes) -> int:
        self._opening = not self._opening
        if self._opening:
            session_pb2.CloseSessionResponse.FromString(message)
            self.begin()
            return 1
        opened = session_pb2.OpenSessionResponse.FromString(message)
        request = session_pb2.CloseSessionRequest(model=self._model, id=opened.session.id, secret=opened.secret)
        self._call(_CLOSE, request.SerializeToString())
        return 0

    def _call(self, path: str, request: bytes) -> None:
        self._connection.send(self._connection.open_stream(path), request, last=True)


class StreamCaller:
    """So many sessions per message, on a stream that stays."""

    def __init__(self, connection: Connection, plan: OpeningsPlan) -> None:
        self._connection = connection
        handles = np.arange(plan.sessions, dtype="<u4").tobytes()
        opening = inference_pb2.OpenOnStream(model=plan.model, handles=handles)
        self._open = inference_pb2.StreamRequest(open=opening).SerializeToString()
        closing = inference_pb2.Detach(handles=handles, close=True)
        self._close = inference_pb2.StreamRequest(detach=closing).SerializeToString()
        self._sessions = plan.sessions
        self._attached = 0
        self._stream = connection.open_stream(_STREAM)

    def begin(self) -> None:
        self._connection.send(self._stream, self._open)

    def take(self, message: bytes) -> int:
        response = inference_pb2.StreamResponse.FromString(message)
        kind = response.WhichOneof("message")
        if kind == "attached" and not any(each.HasField("error") for each in response.attached.sessions):
            self._attached += len(response.attached.sessions)
            if self._attached == self._sessions:
                self._connection.send(self._stream, self._close)
            return 0
        if kind != "detached" or response.detached.HasField("error"):
            raise WireError(f"expected sessions opened or closed, got {str(response)[:500]}")
        closed = len(response.detached.handles) // 4
        self._attached -= closed
        if not self._attached:
            self.begin()
        return closed


def measure(plan: OpeningsPlan) -> OpeningsResult:
    """Warms up and measures. Raises WireError."""
    selector = selectors.DefaultSelector()
    callers: dict[Connection, Caller] = {}
    for _ in range(plan.callers):
        connection = connect(plan.address)
        selector.register(connection, selectors.EVENT_READ, connection)
        callers[connection] = StreamCaller(connection, plan) if plan.sessions else UnaryCaller(connection, plan)
    for connection, caller in callers.items():
        caller.begin()
        connection.flush()
    _go_on(selector, callers, plan.warm_up_seconds)
    begun, own, servers = time.perf_counter(), time.process_time(), cpu_seconds(plan.pid)
    sessions = _go_on(selector, callers, plan.seconds)
    seconds = time.perf_counter() - begun
    own, servers = time.process_time() - own, cpu_seconds(plan.pid) - servers
    for connection in callers:
        connection.close()
    return OpeningsResult(sessions, seconds, own, servers)


def _go_on(selector: selectors.BaseSelector, callers: dict[Connection, Caller], seconds: float) -> int:
    """Lets all callers go on for so long; returns how many sessions they closed."""
    end, closed = time.perf_counter() + seconds, 0
    while time.perf_counter() < end:
        ready = selector.select(_STALLED_SECONDS)
        if not ready:
            raise WireError(f"no answer for {_STALLED_SECONDS:.0f} s")
        for key, _ in ready:
            connection = key.data
            closed += sum(callers[connection].take(message) for _, message in connection.receive())
            connection.flush()
    return closed


def main() -> None:
    """One plan in, one result out."""
    print(json.dumps(asdict(measure(OpeningsPlan(**json.loads(sys.argv[1]))))), flush=True)


if __name__ == "__main__":
    main()
