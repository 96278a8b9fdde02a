"""The open-loop generator: it offers what is due, whatever the server does, and does what a sound client would."""

from __future__ import annotations

import dataclasses
import math
import socket
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from benchmarks.paced import measure
from benchmarks.paced_lane import PacedLane, PacedPlan
from benchmarks.process import Server
from benchmarks.schedule import Log, Schedule
from benchmarks.wire import Connection, WireError
from stepstream_proto.v1 import inference_pb2

PLAN = PacedPlan("unused", 0, "model", 2, 1, streams=1, rate=1000.0, deadline_seconds=1.0, in_flight=3)
DUE = [float(each) / 10 for each in range(8)]

Make = Callable[[float], tuple[PacedLane, Log]]


@pytest.fixture
def make() -> Iterator[Make]:
    """Makes a lane towards nobody, whose steps are due every tenth of a second, with so many seconds until its deadline."""
    ours, theirs = socket.socketpair()

    def build(deadline: float) -> tuple[PacedLane, Log]:
        log = Log(Schedule(np.array(DUE), np.zeros(len(DUE), np.int64), 0.0, 9.0), deadline or math.inf)
        lane = PacedLane(Connection(ours, "nobody"), dataclasses.replace(PLAN, deadline_seconds=deadline), log, 0)
        lane.open()
        return lane, log

    with ours, theirs:
        yield build


def _answer(lane: PacedLane, first: int, count: int, now: float) -> None:
    answers = inference_pb2.Answers(
        handles=bytes(4),
        first_seqs=np.array([first], "<u8").tobytes(),
        lengths=np.array([count], "<u4").tobytes(),
        outputs=[bytes(4 * count)],
    )
    lane.take(inference_pb2.StreamResponse(answers=answers).SerializeToString(), now)


def _refuse(lane: PacedLane, seq: int, expected: int, now: float) -> None:
    error = inference_pb2.RowError(first_seq=seq, length=1, expected_seq=expected, error={"reason": "DEADLINE_EXCEEDED"})
    lane.take(inference_pb2.StreamResponse(answers=inference_pb2.Answers(errors=[error])).SerializeToString(), now)


def test_more_than_may_be_in_flight_waits_and_stays_offered(make: Make) -> None:
    """The fourth step waits for an answer; its time counts from when it was due all the same."""
    lane, log = make(0.0)
    for step in range(4):
        lane.offer(step, DUE[step])
    _answer(lane, 0, 3, now=5.0)
    assert lane.answered == 3
    with pytest.raises(WireError, match="expected the outcome of step -1, got that of 3"):
        _answer(lane, 3, 1, now=5.0)  # not sent yet
    lane.pump(5.0)
    with pytest.raises(WireError, match="expected the outcome of step 3, got that of 4"):
        _answer(lane, 4, 1, now=6.0)
    assert log.open == len(DUE) - 3


def test_what_cannot_be_in_time_is_given_up(make: Make) -> None:
    """A waiting step with less time left than twice the latest round trip is never sent, and counts as offered."""
    lane, log = make(1.0)
    for step in range(6):
        lane.offer(step, DUE[step])
    _answer(lane, 0, 1, now=0.5)  # a round trip of half a second
    lane.pump(0.5)
    figures = log.figures()
    assert (figures.in_time, figures.given_up) == (1, 3)  # 3, 4 and 5 have less than a second left


def test_what_was_sent_behind_a_refused_step_is_sent_again(make: Make) -> None:
    """Nothing is sent until the last outstanding outcome is there; then numbering goes on from where the server says."""
    lane, log = make(0.0)
    for step in range(4):
        lane.offer(step, DUE[step])
    _refuse(lane, 0, expected=0, now=1.0)
    lane.pump(1.0)
    _refuse(lane, 1, expected=0, now=1.0)
    _refuse(lane, 2, expected=0, now=1.0)
    lane.pump(1.0)
    _answer(lane, 0, 3, now=2.0)
    figures = log.figures()
    assert (figures.refused, figures.in_time) == (1, 3)
    assert lane.reasons["DEADLINE_EXCEEDED"] == 3


def test_answers_of_another_size_are_an_error(make: Make) -> None:
    """Answers must carry the outputs of each of their steps."""
    lane, _ = make(0.0)
    lane.offer(0, 0.0)
    message = inference_pb2.StreamResponse(answers={"handles": bytes(4), "first_seqs": bytes(8), "outputs": [b""]})
    with pytest.raises(WireError, match="another size"):
        lane.take(message.SerializeToString(), 1.0)


@pytest.mark.parametrize("deadline", [0.0, 10.0], ids=["without deadline", "with deadline"])
def test_every_step_offered_is_answered(echo: Server, deadline: float) -> None:
    """With a server that keeps up, all that was due is answered, and the generator says how late it was itself."""
    plan = dataclasses.replace(PLAN, address=echo.address, pid=echo.pid, streams=4, connections=2)
    plan = dataclasses.replace(plan, warm_up_seconds=0.02, seconds=0.1, deadline_seconds=deadline and 0.2, in_flight=512)
    result = measure(plan)
    assert result.offered > 0
    assert result.in_time + result.late + result.given_up == result.offered
    assert 0 <= result.lag_p50 <= result.lag_p99
    assert 0 < result.p50 <= result.p99 <= result.p999
