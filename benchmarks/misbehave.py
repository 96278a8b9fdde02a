"""Clients that others must be protected from: a process of its own that does one thing until it is told to end.

`python -m benchmarks.misbehave KIND PLAN` with a load.Plan as JSON, of rollouts a rolling.RollingPlan, prints a line when it has
begun, and one with counts when it gets SIGTERM, when the server has cut it off, or after ten minutes.
"""

from __future__ import annotations

import json
import select
import signal
import struct
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from benchmarks.load import Load, Plan
from benchmarks.rolling import Rolling, RollingPlan
from benchmarks.wire import Connection, WireError, connect
from stepstream_proto.v1 import inference_pb2

_PATH = "/stepstream.v1.InferenceService/Stream"
_SECONDS = 600.0
_SMALL_WINDOW = 65_535  # bytes: HTTP/2's default, and never widened
_BURST = 64  # messages between two looks at what came
_STREAMS_HELD = 5_000  # half of what the server admits by default
_STREAMS_ASKED = 256  # opened and not yet accepted
_TICK = 0.1  # seconds between two looks at how much was drawn

Counts = Counter[str]


def chunks(plan: Plan, counts: Counts, begun: Callable[[], None]) -> None:
    """Streams chunks of one session without end. No misbehaviour: a closed loop that checks its answers."""
    load = Load(plan)
    load.open()
    begun()
    try:
        load.run(_SECONDS)
    finally:
        counts["steps"] = load.steps


def silent(plan: Plan, counts: Counts, begun: Callable[[], None]) -> None:
    """Writes blocks for all its sessions and takes no more answers than fit in the first window, like a client that hangs."""
    connection = connect(plan.address, window=_SMALL_WINDOW)
    stream = _open(connection, plan)
    begun()
    blocks = _Blocks(plan)
    for _ in _turns(connection):
        while connection.takes(stream):
            connection.send(stream, blocks.next())
            counts["blocks"] += 1


def flood(plan: Plan, counts: Counts, begun: Callable[[], None]) -> None:
    """Writes single steps of one session as fast as the server's windows let it, whatever comes back."""
    connection = connect(plan.address)
    stream = _open(connection, plan)
    begun()
    blocks = _Blocks(plan)
    for _ in _turns(connection, lambda: connection.takes(stream)):
        for _ in range(_BURST):
            if not connection.takes(stream):
                break
            connection.send(stream, blocks.next())
            counts["blocks"] += 1


def streams(plan: Plan, counts: Counts, begun: Callable[[], None]) -> None:
    """Opens streams with a session each as fast as they are accepted; beyond 5,000 it drops the oldest for every new one."""
    connection = connect(plan.address, lenient=True)
    begun()
    held: deque[int] = deque()
    for _ in _turns(connection):
        while counts["streams"] < connection.accepted + connection.ended + _STREAMS_ASKED:
            held.append(_open(connection, plan))
            counts["streams"] += 1
            if len(held) > _STREAMS_HELD:
                connection.reset(held.popleft())


def rollouts(plan: RollingPlan, counts: Counts, begun: Callable[[], None]) -> None:
    """Reads endless rollouts, and says how fast they were in the plan's seconds before the end. No misbehaviour, as `chunks`."""
    rolling = Rolling(plan)
    rolling.begin()
    begun()
    drawn = deque([(time.perf_counter(), rolling.draws)], maxlen=1 + max(1, round(plan.seconds / _TICK)))
    last = time.perf_counter() + _SECONDS
    try:
        while time.perf_counter() < last:
            rolling.run(_TICK)
            drawn.append((time.perf_counter(), rolling.draws))
    finally:
        (begin, before), (end, after) = drawn[0], drawn[-1]
        counts["draws/s"] = round((after - before) / max(end - begin, _TICK))


KINDS: dict[str, Callable[[Any, Counts, Callable[[], None]], None]] = {
    each.__name__: each for each in (chunks, silent, flood, streams, rollouts)
}


class _Blocks:
    """One block after the other for all sessions of a stream, each acknowledging more than was answered."""

    def __init__(self, plan: Plan) -> None:
        values = np.random.default_rng(0).normal(size=(plan.sessions, plan.input_width)).astype("<f4")
        self._block = inference_pb2.Block(handles=_handles(plan), inputs=[values.tobytes()])
        self._sessions = plan.sessions
        self._sent = 0

    def next(self) -> bytes:
        """A step of every session."""
        self._block.first_seqs = self._block.acked = struct.pack("<Q", self._sent) * self._sessions
        self._sent += 1
        return inference_pb2.StreamRequest(block=self._block).SerializeToString()


def _turns(connection: Connection, busy: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """A turn each time that something came, or at once while `busy`; what is sent in it is written. Bounded in time."""
    end = time.perf_counter() + _SECONDS
    while time.perf_counter() < end:
        yield
        connection.flush()
        if not busy() or select.select([connection], [], [], 0)[0]:
            connection.receive()


def _open(connection: Connection, plan: Plan) -> int:
    """A stream and its sessions, without waiting for them: messages take effect in order."""
    stream = connection.open_stream(_PATH)
    request = inference_pb2.StreamRequest(open=inference_pb2.OpenOnStream(model=plan.model, handles=_handles(plan)))
    connection.send(stream, request.SerializeToString())
    return stream


def _handles(plan: Plan) -> bytes:
    return np.arange(plan.sessions, dtype="<u4").tobytes()


def main() -> None:
    """One kind and one plan in, counts out."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    act, counts = KINDS[sys.argv[1]], Counts()
    plan = (RollingPlan if act is rollouts else Plan)(**json.loads(sys.argv[2]))
    try:
        act(plan, counts, lambda: print(json.dumps({"begun": 1}), flush=True))
    except KeyboardInterrupt:
        pass
    except (WireError, OSError):
        counts["cut off"] = 1
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print(json.dumps(counts), flush=True)


if __name__ == "__main__":
    main()
