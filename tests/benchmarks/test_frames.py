"""The generator of live streams: blocks are sent on the beat, and each is answered in full."""

from __future__ import annotations

import dataclasses
import math
import socket
from collections.abc import Iterator

import numpy as np
import pytest

from benchmarks.frames import FrameLane, FramesPlan, measure
from benchmarks.load import Plan
from benchmarks.process import Server
from benchmarks.schedule import Log, Schedule
from benchmarks.wire import Connection
from stepstream_proto.v1 import inference_pb2

STREAM = Plan("unused", 0, "model", 2, 1, sessions=3)
DUE = [0.1, 0.2]


@pytest.fixture
def log() -> Log:
    """Of two blocks of one stream."""
    return Log(Schedule(np.array(DUE), np.zeros(2, np.int64), 0.0, 1.0), math.inf)


@pytest.fixture
def lane(log: Log) -> Iterator[FrameLane]:
    """A lane of three sessions towards nobody."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        lane = FrameLane(Connection(ours, "nobody"), STREAM, log, 0)
        lane.open()
        yield lane


def _answer(lane: FrameLane, handles: list[int], seq: int, now: float) -> None:
    count = len(handles)
    answers = inference_pb2.Answers(
        handles=np.array(handles, "<u4").tobytes(),
        first_seqs=np.full(count, seq, "<u8").tobytes(),
        outputs=[bytes(4 * count)],
    )
    lane.take(inference_pb2.StreamResponse(answers=answers).SerializeToString(), now)


def test_a_block_ends_with_its_last_row_and_counts_from_when_it_was_due(lane: FrameLane, log: Log) -> None:
    """Two blocks are under way at once; that the second was sent late is its own time."""
    lane.offer(0, 0.1)
    lane.offer(1, 0.3)
    _answer(lane, [0, 2], 0, now=0.4)
    assert log.open == 2
    _answer(lane, [1], 0, now=0.5)
    _answer(lane, [0, 1, 2], 1, now=1.0)
    assert (log.open, lane.answered) == (0, 6)
    figures = log.figures()
    assert [figures.p50, figures.p999] == pytest.approx([0.4, 0.8])
    assert figures.lag_p99 == pytest.approx(0.1)


def test_every_block_is_answered_and_the_last_stream_has_what_is_left(echo: Server) -> None:
    """Seven sessions in blocks of three: each of three streams has its beats."""
    stream = dataclasses.replace(STREAM, address=echo.address, pid=echo.pid, connections=2, warm_up_seconds=0.02, seconds=0.2)
    result = measure(FramesPlan(stream, sessions=7, period=0.01))
    assert result.offered == result.in_time == 3 * 20
    assert 0 < result.p50 <= result.p99 <= result.p999
