"""Clients that others must be protected from: a process of its own that does one thing until it is told to end.

`python -m benchmarks.misbehave KIND PLAN` with a load.Plan as JSON, of rollouts a rolling.RollingPlan, prints a line when it has
begun, and one with counts when it gets SIGTERM, when the server has cut it off, or after ten minutes.
"""

from __future__ import annotations

import itertools
import json
import select
import signal
import struct
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from benchmarks.load import Load, Plan
from benchmarks.rolling import Rolling, RollingPlan, generate_request
from benchmarks.wire import Connection, WireError, connect
from stepstream_proto.v1 import inference_pb2, session_pb2

_PATH = "/stepstream.v1.InferenceService/Stream"
_STEP = "/stepstream.v1.InferenceService/Step"
_GENERATE = "/stepstream.v1.InferenceService/Generate"
_OPEN_SESSION = "/stepstream.v1.SessionService/OpenSession"
_SECONDS = 600.0
_SMALL_WINDOW = 65_535  # bytes: HTTP/2's default, and never widened
_BURST = 64  # messages between two looks at what came
_STREAMS_HELD = 500  # half of what the server lets one connection have at once
_STREAMS_ASKED = 256  # opened and not yet accepted
_BEATS = 500  # per second, of clients whose rate is given: far more than a client makes that has gone wrong
_NOISE = np.random.default_rng(0).bytes(100)
_MOST_PATHS = 1024  # of a rollout
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
    """Opens streams with a session each as fast as they are accepted; beyond 500 it drops the oldest for every new one."""
    connection = connect(plan.address, lenient=True)
    begun()
    held: deque[int] = deque()
    for _ in _turns(connection):
        while counts["streams"] < connection.accepted + connection.ended + _STREAMS_ASKED:
            held.append(_open(connection, plan))
            counts["streams"] += 1
            if len(held) > _STREAMS_HELD:
                connection.reset(held.popleft())


def calls(plan: Plan, counts: Counts, begun: Callable[[], None]) -> None:
    """Steps one session by calls, so many per second. No misbehaviour: what malformed ones are compared with."""
    _call(plan, counts, begun, _step_calls)


def malformed_calls(plan: Plan, counts: Counts, begun: Callable[[], None]) -> None:
    """Makes calls whose messages are wrong, each in another way, so many per second."""
    _call(plan, counts, begun, malformed_steps)


def messages(plan: Plan, counts: Counts, begun: Callable[[], None]) -> None:
    """Steps one session on a stream, so many messages per second. No misbehaviour: what malformed ones are compared with."""
    blocks = _Blocks(plan)
    _say(plan, counts, begun, iter(blocks.next, b""))


def malformed_messages(plan: Plan, counts: Counts, begun: Callable[[], None]) -> None:
    """Sends messages that are wrong, each in another way, so many per second; where one ends the stream, on the next stream."""
    _say(plan, counts, begun, itertools.cycle(malformed_blocks(plan)))


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


def crowd(plan: RollingPlan, counts: Counts, begun: Callable[[], None]) -> None:
    """Reads endless rollouts of one client over one connection, as fast as they come."""
    connection = connect(plan.address)
    for number in range(plan.callers):
        connection.send(connection.open_stream(_GENERATE), generate_request(plan, number).SerializeToString(), last=True)
    connection.flush()
    heard: set[int] = set()
    until = time.perf_counter() + _SECONDS
    while time.perf_counter() < until:
        select.select([connection], [], [], _SECONDS)
        for stream, message in connection.receive():
            counts["messages"] += 1
            counts["draws"] += len(inference_pb2.GenerateResponse.FromString(message).tokens) // 8
            if len(heard) < plan.callers:
                heard.add(stream)
                if len(heard) == plan.callers:
                    begun()
        connection.flush()


def unread(plan: RollingPlan, counts: Counts, begun: Callable[[], None]) -> None:
    """Asks for endless forecasts of as many paths as one may have, and reads nothing of them."""
    connection = connect(plan.address, window=_SMALL_WINDOW)
    request = generate_request(plan, 0)
    request.paths, request.temperature, request.commit = _MOST_PATHS, 1.0, inference_pb2.COMMIT_NONE
    for _ in range(plan.callers):
        connection.send(connection.open_stream(_GENERATE), request.SerializeToString(), last=True)
    connection.flush()
    while not connection.receive():
        pass
    begun()
    threading.Event().wait(_SECONDS)


KINDS: dict[str, Callable[[Any, Counts, Callable[[], None]], None]] = {
    each.__name__: each
    for each in (chunks, silent, flood, streams, rollouts, crowd, unread, calls, malformed_calls, messages, malformed_messages)
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


def malformed_steps(plan: Plan, session: str) -> list[bytes]:
    """StepRequests that are refused: no messages, and messages that are wrong in one thing."""
    right = _step(plan, session)
    wrong = [
        _step(plan, session, model="forged"),
        _step(plan, "forged"),
        _step(plan, "\n\x1b[2J"),
        _step(plan, session, seq=2**64 - 1),
        _step(plan, session, outputs=99),
        _step(plan, session, inputs={"forged": inference_pb2.Values(numbers=[0.0])}),
        _step(plan, session, inputs={"input": inference_pb2.Values(numbers=[0.0] * 999)}),
    ]
    return [_NOISE, right[: len(right) // 2], *wrong]


def malformed_blocks(plan: Plan) -> list[bytes]:
    """StreamRequests of which rows are refused, and two that end their stream: an empty one, and one that is none."""
    one, two = struct.pack("<I", 0), struct.pack("<II", 0, 0)
    seq, values = bytes(8), bytes(4 * plan.input_width)
    wrong = [
        inference_pb2.Block(handles=struct.pack("<I", 999), first_seqs=seq, inputs=[values]),
        inference_pb2.Block(handles=one, first_seqs=seq, inputs=[values[:-1]]),
        inference_pb2.Block(handles=one, first_seqs=seq),
        inference_pb2.Block(handles=one, first_seqs=seq[1:], inputs=[values]),
        inference_pb2.Block(handles=one, first_seqs=b"\xff" * 8, inputs=[values]),
        inference_pb2.Block(handles=one, first_seqs=seq, lengths=b"\xff" * 4, inputs=[values]),
        inference_pb2.Block(handles=one, first_seqs=seq, inputs=[b"\xff" * len(values)]),
        inference_pb2.Block(handles=two, first_seqs=seq * 2, inputs=[values * 2]),
    ]
    return [*(inference_pb2.StreamRequest(block=block).SerializeToString() for block in wrong), b"", _NOISE]


def _call(plan: Plan, counts: Counts, begun: Callable[[], None], requests: Callable[[Plan, str], Sequence[bytes]]) -> None:
    """Makes calls of `Step`, at the rate that all share, on a session of its own."""
    connection = connect(plan.address, lenient=True)
    opening = session_pb2.OpenSessionRequest(model=plan.model).SerializeToString()
    connection.send(connection.open_stream(_OPEN_SESSION), opening, last=True)
    connection.flush()
    answers: list[tuple[int, bytes]] = []
    while not answers:
        answers = connection.receive()
    session = session_pb2.OpenSessionResponse.FromString(answers[0][1]).session.id
    begun()
    for request, _ in zip(itertools.cycle(requests(plan, session)), _beats(connection), strict=False):
        connection.send(connection.open_stream(_STEP), request, last=True)
        counts["calls"] += 1


def _say(plan: Plan, counts: Counts, begun: Callable[[], None], messages: Iterator[bytes]) -> None:
    """Sends messages, at the rate that all share, on a stream with a session; on another one where that has ended."""
    connection = connect(plan.address, lenient=True)
    stream = _open(connection, plan)
    begun()
    for message, _ in zip(messages, _beats(connection), strict=False):
        if connection.ended > counts["streams ended"]:
            counts["streams ended"] = connection.ended
            stream = _open(connection, plan)
        connection.send(stream, message)
        counts["messages"] += 1


def _step_calls(plan: Plan, session: str) -> list[bytes]:
    return [_step(plan, session)]


def _step(plan: Plan, session: str, **wrong: Any) -> bytes:
    """A step of a session, right but for what is given."""
    inputs = {"input": inference_pb2.Values(numbers=[0.5] * plan.input_width)}
    return inference_pb2.StepRequest(
        **{"model": plan.model, "session_id": session, "inputs": inputs, **wrong}
    ).SerializeToString()


def _beats(connection: Connection) -> Iterator[None]:
    """So many turns per second, at even distances; what is sent in one is written, and what comes between them taken."""
    begun = time.perf_counter()
    for beat in range(round(_SECONDS * _BEATS)):
        while (left := begun + beat / _BEATS - time.perf_counter()) > 0:
            if select.select([connection], [], [], left)[0]:
                connection.receive()
        yield
        connection.flush()


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
    plan = (RollingPlan if act in (rollouts, crowd, unread) else Plan)(**json.loads(sys.argv[2]))
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
