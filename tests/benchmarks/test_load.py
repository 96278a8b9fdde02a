"""The load generator: it must see every wrong answer, and speak HTTP/2 well enough for any block."""

from __future__ import annotations

import dataclasses
import socket
import time
from collections.abc import Iterator

import numpy as np
import pytest

from benchmarks.load import Lane, Plan, measure
from benchmarks.process import Server, cpu_seconds, module_command, running
from benchmarks.wire import Connection, WireError
from stepstream_proto.v1 import inference_pb2

PLAN = Plan("unused", 0, "model", input_width=2, output_width=1, sessions=3, length=2, in_flight=2)


@pytest.fixture
def lane() -> Iterator[Lane]:
    """A lane with two blocks in flight towards nobody."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        lane = Lane(Connection(ours, "nobody"), PLAN, 0)
        lane.open()
        lane.fill()
        yield lane


def _answers(handles: list[int], first_seqs: list[int], lengths: list[int]) -> inference_pb2.Answers:
    return inference_pb2.Answers(
        handles=np.array(handles, "<u4").tobytes(),
        first_seqs=np.array(first_seqs, "<u8").tobytes(),
        lengths=np.array(lengths, "<u4").tobytes(),
        outputs=[bytes(4 * sum(lengths))],
    )


def _take(lane: Lane, answers: inference_pb2.Answers) -> int:
    """How many blocks the answers complete."""
    message = inference_pb2.StreamResponse(answers=answers).SerializeToString()
    return len(list(lane.take(message, time.perf_counter())))


def test_regrouped_answers_count(lane: Lane) -> None:
    """Answers may come in any grouping, several rows of a session included, as long as each session's are in order."""
    assert _take(lane, _answers([2, 0, 2], [0, 0, 1], [1, 2, 1])) == 0
    assert _take(lane, _answers([1, 1, 0], [0, 2, 2], [2, 2, 2])) == 1
    assert _take(lane, _answers([2], [2], [2])) == 1
    assert (lane.steps, lane.in_flight) == (12, 0)


@pytest.mark.parametrize(
    ("handles", "first_seqs", "lengths"),
    [([0], [1], [1]), ([0, 0], [0, 0], [1, 1]), ([0, 0], [1, 0], [1, 1]), ([0, 1], [0, 2], [2, 2])],
    ids=["missing", "repeated", "swapped", "ahead"],
)
def test_answers_out_of_order_are_an_error(lane: Lane, handles: list[int], first_seqs: list[int], lengths: list[int]) -> None:
    """A step that is missing, repeated or out of order ends the run."""
    with pytest.raises(WireError, match="missing, repeated or out of order"):
        _take(lane, _answers(handles, first_seqs, lengths))


def test_refused_rows_are_an_error(lane: Lane) -> None:
    """A benchmark in which steps are refused measures something else."""
    with pytest.raises(WireError, match="expected every step answered"):
        _take(lane, inference_pb2.Answers(errors=[inference_pb2.RowError(handle=1)]))


def test_outputs_of_another_size_are_an_error(lane: Lane) -> None:
    """Answers must carry the outputs of each of their steps."""
    answers = _answers([0], [0], [1])
    answers.outputs[0] = b""
    with pytest.raises(WireError, match="another size"):
        _take(lane, answers)


def test_blocks_beyond_the_windows_pass(echo: Server) -> None:
    """Blocks larger than HTTP/2's first window and frame size go through whole, on several streams and connections."""
    plan = dataclasses.replace(PLAN, address=echo.address, pid=echo.pid, sessions=9000, length=1, streams=4, connections=2)
    result = measure(dataclasses.replace(plan, warm_up_seconds=0.0, seconds=60.0, max_blocks=5))
    assert (result.steps, result.blocks) == (4 * 9000 * 5, 4 * 5)


def test_run_ends_by_time_or_number(echo: Server) -> None:
    """A run without a limit on blocks ends by time, with steps counted only within it."""
    plan = dataclasses.replace(PLAN, address=echo.address, pid=echo.pid, warm_up_seconds=0.01, seconds=0.05)
    result = measure(plan)
    assert result.blocks > 0
    assert 0 < result.p50 <= result.p99 <= result.p999
    assert cpu_seconds(echo.pid) > 0


def test_servers_failure_is_told() -> None:
    """A process that ends before it listens is an error that says how it ended."""
    with pytest.raises(RuntimeError, match="before it listened"), running(module_command("echo", "--help")):
        pass
