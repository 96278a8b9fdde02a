"""Durable counts on their way to clients, and what else the contract says of durable sessions, without any store."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from google.rpc.error_details_pb2 import ErrorInfo

from stepstream_proto.v1 import inference_pb2
from stepstream_server.engine.ports import Answers, Call, Delivery, Detached, Durables, Ending, Limits, Opened, RowErrors
from stepstream_server.errors import CallerError, Reason, ServerFault
from stepstream_server.rpc import EngineClient
from stepstream_server.rpc.boundary import call_status, wire_error
from stepstream_server.rpc.coalescing import Steps
from stepstream_server.rpc.models import encode_window
from stepstream_server.rpc.one_shot import complete
from stepstream_server.rpc.stream.flow_control import Unread
from stepstream_server.rpc.stream.writer import Writer, encode_attached_session, encode_detached, encode_drain
from support.backend import counter_spec
from support.front_door import CollectingDoor

StreamResponse = inference_pb2.StreamResponse
STEPS = Steps(["x"], 1, (np.zeros(1, "<f4").tobytes(),), 0.0, float("inf"))


def writer() -> tuple[Writer, Unread]:
    """A stream's, and what all streams have unread."""
    unread = Unread(1 << 20, lambda: None)
    return Writer(1 << 20, unread, lambda: None), unread


def told(writer: Writer) -> list[StreamResponse]:
    """All that is written now, with no credits for counts."""
    messages = []
    while (item := writer.next()) is not None:
        messages.append(StreamResponse.FromString(item[0]))
        assert not (messages[-1].HasField("durable") and item[1])
    return messages


def counts(message: StreamResponse) -> dict[int, int]:
    """Durable counts by handle."""
    handles, below = np.frombuffer(message.durable.handles, "<u4"), np.frombuffer(message.durable.counts, "<u8")
    return dict(zip(handles.tolist(), below.tolist(), strict=True))


def one_answer(stream: int, handle: int, durables: Durables | None = None) -> Delivery:
    """A turn that answers one step, behind what of it is in the store."""
    one, outputs = np.ones(1, np.int64), (np.zeros((1, 1), np.float32),) * 2
    answers = Answers(np.array([stream]), np.array([handle]), np.zeros(1, np.int64), one, one, outputs)
    return Delivery([], answers, RowErrors(), Detached(), durables=durables)


def test_of_each_handle_the_newest_count_is_told() -> None:
    """However long nobody reads: what is held is bounded by handles, and nothing of it is left behind."""
    ours, unread = writer()
    for count in range(1000):
        ours.durable(count % 3, count)
    assert unread.bytes == ours.bytes < 1000
    (message,) = told(ours)
    assert counts(message) == {0: 999, 1: 997, 2: 998}
    assert (unread.bytes, ours.bytes) == (0, 0)


def test_counts_wait_behind_what_says_what_handles_stand_for() -> None:
    """They overtake no control message."""
    ours, _ = writer()
    ours.control(StreamResponse(attached=inference_pb2.Attached(model="counter")), 1)
    ours.durable(7, 5)
    assert [each.WhichOneof("message") for each in told(ours)] == ["attached", "durable"]


def test_a_handle_that_is_free_again_has_no_count() -> None:
    """It may stand for another session when the count is read."""
    ours, unread = writer()
    ours.durable(1, 5)
    ours.durable(2, 6)
    ours.detached(1, Ending.REQUESTED, 1)
    first, second = told(ours)
    assert first.HasField("detached")
    assert counts(second) == {2: 6}
    assert unread.bytes == 0


def test_nobody_left_to_read_leaves_nothing() -> None:
    """The next control message does not stand behind what was dropped."""
    ours, unread = writer()
    ours.control(StreamResponse(), 0)
    ours.durable(1, 5)
    ours.clear()
    assert (unread.bytes, told(ours)) == (0, [])
    ours.durable(1, 6)
    assert [counts(each) for each in told(ours)] == [{1: 6}]


def test_a_session_that_ended_and_is_in_the_store_yet_is_told_with_the_error() -> None:
    """Each with its own; those that ended as asked are told together."""
    ours, _ = writer()
    error = ServerFault(Reason.STORE_UNAVAILABLE, "the disk is full")
    for handle, of_it in ((1, None), (2, None), (3, error)):
        ours.detached(handle, Ending.CLOSED, 1, of_it)
    fine, not_done = [each.detached for each in told(ours)]
    assert (np.frombuffer(fine.handles, "<u4").tolist(), fine.error.reason) == ([1, 2], "")
    assert (np.frombuffer(not_done.handles, "<u4").tolist(), not_done.error.reason) == ([3], "STORE_UNAVAILABLE")
    assert not_done.reason == inference_pb2.DETACH_REASON_SESSION_CLOSED
    assert not_done == encode_detached([3], Ending.CLOSED, error).detached


def test_what_a_client_is_told_of_a_session_it_attaches() -> None:
    """Its durable count, its epoch, and whether it computes as it did."""
    opened = Opened("a", b"s", 0, 0, next_seq=9, acked=4, epoch=2, durable=True, durable_seq=7, bitwise=False)
    told = encode_attached_session(3, "a", opened)
    assert (told.durable, told.durable_seq, told.epoch, told.bitwise) == (True, 7, 2, False)


def test_where_a_session_is_lost_from_is_told_with_the_error() -> None:
    """In band and in the status of a call; no other error has it."""
    lost, other = CallerError(Reason.SESSION_LOST, "gone", since=0), CallerError(Reason.SESSION_CLOSED, "closed")
    assert dict(wire_error(lost).metadata) == {"since": "0"}
    assert not wire_error(other).metadata
    status = call_status(lost)
    assert status.code.name == "DATA_LOSS"
    info = ErrorInfo(reason="SESSION_LOST", domain="stepstream.v1", metadata={"since": "0"})
    assert info.SerializeToString() in status.trailing_metadata[0][1]


@pytest.mark.parametrize("resume", [True, False])
def test_a_drain_says_whether_durable_sessions_are_found_again(*, resume: bool) -> None:
    """With the time that is left."""
    drain = encode_drain(2.0, resume=resume).drain
    assert (drain.deadline.seconds, drain.resume) == (2, resume)


def open_door(replay_steps: int = 0) -> tuple[EngineClient, CollectingDoor]:
    """A model's door, and what it tells its engine."""
    limits = Limits(8, 64, 8, 8, 60.0, 1, replay_steps)
    door, engine = EngineClient(counter_spec("a"), limits, asyncio.get_running_loop()), CollectingDoor()
    door.open(engine)
    return door, engine


async def test_a_window_says_how_many_inputs_to_keep() -> None:
    """None where there is no store."""
    assert [encode_window(open_door(steps)[0]).replay_steps for steps in (0, 1024)] == [0, 1024]


async def test_a_call_hears_what_of_its_session_is_in_the_store() -> None:
    """It comes with the answer; what is of others' rows, or of rows answered before, is passed over."""
    door, _ = open_door()
    asked = asyncio.create_task(complete(door, 5, STEPS))
    await asyncio.sleep(0)
    door.hear(Delivery([], None, RowErrors(), Detached(), durables=Durables([5, 6], [1, 0], [8, 9], [0, 0])))
    door.hear(one_answer(5, 0, Durables([5], [0], [4], [2])))
    (outcome,) = await asked
    assert (outcome.durable_seq, outcome.epoch) == (4, 2)
    door.hear(Delivery([], None, RowErrors(), Detached(), durables=Durables([5], [0], [5], [2])))


async def test_a_call_may_be_answered_before_it_is_in_the_store() -> None:
    """If it says so."""
    door, engine = open_door()
    asked = [asyncio.create_task(complete(door, n, STEPS._replace(behind=behind))) for n, behind in enumerate((False, True))]
    await asyncio.sleep(0)  # both ask
    await asyncio.sleep(0)  # it is passed in
    (call,) = engine.commands
    assert isinstance(call, Call)
    assert call.rows["behind"].tolist() == [False, True]
    for each in asked:
        each.cancel()
