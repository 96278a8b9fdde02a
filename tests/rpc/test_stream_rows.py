"""Rows of blocks, resets and acknowledgements over a real stream: answered, or refused one by one."""

from __future__ import annotations

from typing import Any

import grpc
import numpy as np
import pytest

from stepstream_proto.v1 import common_pb2, inference_pb2
from stepstream_proto.v1.inference_pb2 import Acknowledge, Reset, StreamRequest
from stepstream_server.config import DoorSettings
from support.front_door import CountingStream, FrontDoor, front_door, wait_for
from support.wire import block, u32, u64


async def test_rows_of_any_length_are_answered(stream: CountingStream) -> None:
    """One block carries rows of several sessions and lengths; each step's answer is the session's own."""
    await stream.open("counter", [0, 5, 2])
    await stream.step([0, 5, 2], [0, 0, 0], [1], [10, 20, 30], [100, 200])
    answers = await stream.sums(6)
    assert answers == {(0, 0): 1, (5, 0): 10, (5, 1): 30, (5, 2): 60, (2, 0): 100, (2, 1): 300}


async def test_only_the_asked_outputs_come_back(stream: CountingStream) -> None:
    """LAST brings the last step's outputs of each row, NONE none, and the row itself is answered either way."""
    await stream.open("counter", [0])
    await stream.step([0], [0], [1, 2, 3], outputs=common_pb2.OUTPUTS_LAST)
    answers = (await stream.receive()).answers
    assert (answers.lengths, answers.kept) == (u32([3]), u32([1]))
    assert np.frombuffer(answers.outputs[0], "<f4").tolist() == [6]
    await stream.step([0], [3], [4], outputs=common_pb2.OUTPUTS_NONE)
    answers = (await stream.receive()).answers
    assert (answers.first_seqs, answers.kept, list(answers.outputs)) == (u64([3]), u32([0]), [b"", b""])


async def test_rows_of_unknown_handles_alone_are_refused(stream: CountingStream) -> None:
    """Neighbours in the same block are answered as if the bad rows were not there."""
    await stream.open("counter", [0, 1])
    await stream.step([0, 7, 1, 99_999], [0, 3, 0, 0], [1, 2], [5], [10], [5, 5])
    assert await stream.errors(2) == [(7, 3, 1, "HANDLE_UNKNOWN", 0), (99_999, 0, 2, "HANDLE_UNKNOWN", 0)]
    assert await stream.sums(3) == {(0, 0): 1, (0, 1): 3, (1, 0): 10}


async def test_a_block_is_for_one_model() -> None:
    """Rows of sessions of two models are refused as mixed, and both sessions go on."""
    async with front_door("one", "two") as front, CountingStream(front.channel) as stream:
        await stream.open("one", [0])
        await stream.open("two", [1])
        await stream.step([0, 1, 9], [0, 0, 0], [1], [1], [1])
        refused = sorted(await stream.errors(3))
        assert [(row[0], row[3]) for row in refused] == [(0, "MIXED_MODELS"), (1, "MIXED_MODELS"), (9, "HANDLE_UNKNOWN")]
        await stream.step([0], [0], [1])
        assert await stream.sums(1) == {(0, 0): 1}
        await stream.step([1], [0], [2])
        assert await stream.sums(1) == {(1, 0): 2}


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"inputs": [b"abc"]}, "inputs[0]"),
        ({"inputs": []}, "inputs"),
        ({"first_seqs": b"1"}, "first_seqs"),
        ({"lengths": u32([0])}, "lengths"),
        ({"acked": b"1"}, "acked"),
        ({"outputs": 9}, "outputs"),
        ({"timeout": {"seconds": -1}}, "timeout"),
    ],
)
async def test_a_malformed_block_costs_its_rows_only(
    front: FrontDoor, stream: CountingStream, fields: dict[str, Any], field: str
) -> None:
    """Its rows are refused by name of the field; the session, its neighbours and the stream go on."""
    await stream.open("counter", [0, 1])
    good: dict[str, Any] = {"handles": u32([0]), "first_seqs": u64([0]), "inputs": [np.ones(1, "<f4").tobytes()]}
    await stream.send(StreamRequest(block=inference_pb2.Block(**{**good, **fields})))
    (error,) = (await stream.receive()).answers.errors
    assert (error.handle, error.error.reason) == (0, "INVALID_ARGUMENT")
    assert error.error.message.startswith(f"{field}:")
    assert error.error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    await stream.step([0, 1], [0, 0], [1], [2])
    assert await stream.sums(2) == {(0, 0): 1, (1, 0): 2}
    assert front.models["counter"].backend.launches == [(2, 1)]


async def test_inputs_are_refused_for_the_partner_of_an_unknown_handle(stream: CountingStream) -> None:
    """A block with an unknown handle and wrong inputs refuses each row for its own reason."""
    await stream.open("counter", [0])
    await stream.send(block([0, 7], [0, 0], [1, 1], np.ones(3, np.float32)))
    assert [(row[0], row[3]) for row in sorted(await stream.errors(2))] == [(0, "INVALID_ARGUMENT"), (7, "HANDLE_UNKNOWN")]


async def test_a_block_beyond_the_limit_is_refused_row_by_row() -> None:
    """Too many steps in one block: every row hears it, nothing runs."""
    async with front_door(settings=DoorSettings(max_block_steps=3)) as front, CountingStream(front.channel) as stream:
        await stream.open("counter", [0, 1])
        await stream.step([0, 1], [0, 0], [1, 1], [1, 1])
        assert [(row[0], row[3]) for row in await stream.errors(2)] == [(0, "BLOCK_TOO_LARGE"), (1, "BLOCK_TOO_LARGE")]
        await stream.step([0, 1], [0, 0], [1, 1], [1])
        assert len(await stream.sums(3)) == 3


async def test_a_gap_is_refused_with_the_expected_number(stream: CountingStream) -> None:
    """The engine's refusal arrives as a row error with code ABORTED."""
    await stream.open("counter", [4])
    await stream.step([4], [2], [1, 1])
    (error,) = (await stream.receive()).answers.errors
    assert (error.handle, error.first_seq, error.length, error.expected_seq) == (4, 2, 2, 0)
    assert (error.error.code, error.error.reason) == (grpc.StatusCode.ABORTED.value[0], "SEQUENCE_MISMATCH")


async def test_a_step_past_its_timeout_is_dropped(front: FrontDoor, stream: CountingStream) -> None:
    """What has not begun within the block's timeout is refused and not applied."""
    gate = front.models["counter"].gate
    await stream.open("counter", [0, 1])
    gate.close()
    await stream.step([0], [0], [1])
    await wait_for(gate.reached)
    await stream.step([1], [0], [1], timeout={"nanos": 1})
    gate.open()
    assert await stream.errors(1) == [(1, 0, 1, "DEADLINE_EXCEEDED", 0)]
    await stream.step([1], [0], [5])
    assert await stream.sums(1) == {(1, 0): 5}


async def test_resets_take_a_number(stream: CountingStream) -> None:
    """A reset is answered by a row without outputs, and the next step starts over."""
    await stream.open("counter", [0])
    await stream.step([0], [0], [5])
    await stream.sums(1)
    await stream.send(StreamRequest(reset=Reset(handles=u32([0, 8]), seqs=u64([1, 1]))))
    assert await stream.errors(1) == [(8, 1, 1, "HANDLE_UNKNOWN", 0)]
    answers = (await stream.receive()).answers
    assert (answers.handles, answers.first_seqs, answers.kept) == (u32([0]), u64([1]), u32([0]))
    await stream.step([0], [2], [3])
    assert await stream.sums(1) == {(0, 2): 3}


async def test_a_reset_without_numbers_is_refused(stream: CountingStream) -> None:
    """The seqs column must match the handles."""
    await stream.open("counter", [0])
    await stream.send(StreamRequest(reset=Reset(handles=u32([0]))))
    assert [(row[0], row[3]) for row in await stream.errors(1)] == [(0, "INVALID_ARGUMENT")]


async def test_acknowledged_answers_are_not_repeated(stream: CountingStream) -> None:
    """Below the acknowledged count a repeat is refused, from there on it is answered; unknown handles are passed over."""
    await stream.open("counter", [0])
    await stream.step([0], [0], [1, 2, 3])
    await stream.sums(3)
    await stream.send(StreamRequest(acknowledge=Acknowledge(handles=u32([0, 77]), counts=u64([2, 2]))))
    await stream.step([0], [1], [2, 3])
    assert await stream.errors(1) == [(0, 1, 1, "ANSWER_DISCARDED", 3)]
    await stream.step([0], [2], [3])
    assert await stream.sums(1) == {(0, 2): 6}


async def test_a_message_of_more_rows_than_a_block_may_have_ends_the_stream() -> None:
    """They would be too many to be told one by one."""
    async with front_door(settings=DoorSettings(max_block_steps=3)) as front, CountingStream(front.channel) as stream:
        await stream.send(StreamRequest(block=inference_pb2.Block(handles=u32([0, 1, 2, 3]))))
        assert await stream.end() == (
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "handles: expected at most 3 in one message, got 4",
        )


@pytest.mark.parametrize(
    "request_",
    [
        StreamRequest(),
        StreamRequest(block=inference_pb2.Block(handles=b"123")),
        StreamRequest(acknowledge=Acknowledge(handles=b"1")),
        StreamRequest(acknowledge=Acknowledge(handles=u32([0]), counts=b"1")),
        StreamRequest(detach=inference_pb2.Detach(handles=b"1")),
    ],
)
async def test_a_message_that_names_nobody_ends_the_stream(stream: CountingStream, request_: StreamRequest) -> None:
    """There is no row to answer to, so the call ends and says why."""
    await stream.send(request_)
    code, details = await stream.end()
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "expected" in details


async def test_an_empty_block_is_nothing(stream: CountingStream) -> None:
    """No rows, no answer."""
    await stream.open("counter", [0])
    await stream.send(StreamRequest(block=inference_pb2.Block()))
    await stream.step([0], [0], [1])
    assert await stream.sums(1) == {(0, 0): 1}
