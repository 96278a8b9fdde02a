"""Rollouts asked for as the contract has it, and how they are told or refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from grpc_status import rpc_status

from stepstream_proto.v1 import session_pb2
from stepstream_proto.v1.inference_pb2 import GenerateRequest, GenerateResponse
from stepstream_server.engine.ports import EngineStats
from support import planted
from support.front_door import FrontDoor

FOREVER = 2**32 - 1  # draws: longer than any test


def small_window(address: str) -> grpc.aio.Channel:
    """A channel that takes 4 KiB of a call's messages before they are read, so that one that nobody reads is soon noticed."""
    return grpc.aio.insecure_channel(address, options=[("grpc.http2.lookahead_bytes", 4096), ("grpc.http2.bdp_probe", 0)])


def tokens(*numbers: int) -> bytes:
    """A prompt, or a stop sequence."""
    return np.array(numbers, "<i8").tobytes()


def floats(*numbers: float) -> bytes:
    """A prompt of a model of one number."""
    return np.array(numbers, "<f4").tobytes()


def request(**fields: Any) -> GenerateRequest:
    """Three draws behind token 0 of the model `ring`, or whatever the fields say."""
    return GenerateRequest(**{"model": "ring", "prompt": [tokens(0)], "max_steps": 3, **fields})


@dataclass(frozen=True)
class Told:
    """All messages of a rollout."""

    messages: Sequence[GenerateResponse]

    @property
    def tokens(self) -> list[int]:
        """What was drawn."""
        return [int(each) for each in np.frombuffer(b"".join(each.tokens for each in self.messages), "<i8")]

    @property
    def values(self) -> list[float]:
        """The same of a model of numbers, flat."""
        return [float(each) for each in np.frombuffer(b"".join(each.values for each in self.messages), "<f4")]

    @property
    def first_seq(self) -> int:
        return self.messages[0].first_seq

    @property
    def next_seq(self) -> int:
        return self.messages[-1].next_seq

    @property
    def ending(self) -> int:
        return self.messages[-1].ending


async def whole(call: Any) -> Told:
    """Reads a rollout to its end, and checks that its messages follow each other."""
    messages = []
    while (message := await call.read()) is not grpc.aio.EOF:
        messages.append(message)
    steps = [len(each.tokens) // 8 for each in messages]
    if any(steps):
        for message, count, following in zip(messages, steps, messages[1:], strict=False):
            assert message.first_seq + count == following.first_seq
            assert message.next_seq <= following.next_seq
    assert [bool(each.ending) for each in messages] == [False] * (len(messages) - 1) + [True]
    return Told(messages)


@dataclass(frozen=True)
class Refusal:
    """How a call failed."""

    code: str
    reason: str
    field: str  # that is to blame
    message: str
    expected_seq: int | None
    retry_ms: float | None


async def refusal(call: Any) -> Refusal:
    """Of a rollout, which may have begun and been read from."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        while await call.read() is not grpc.aio.EOF:
            pass
    status = await rpc_status.aio.from_call(call)
    assert status is not None, caught.value
    info, fields, retry = ErrorInfo(), BadRequest(), RetryInfo()
    delay = None
    for detail in status.details:
        if detail.Unpack(retry):
            delay = retry.retry_delay.ToMilliseconds()
        detail.Unpack(info) or detail.Unpack(fields)
    seq = info.metadata.get("expectedSeq")
    field = "".join(each.field for each in fields.field_violations)
    code, message = caught.value.code().name, caught.value.details() or ""
    planted.check(str(caught.value))
    return Refusal(code, info.reason, field, message, None if seq is None else int(seq), delay)


async def engine_when(front: FrontDoor, condition: Callable[[EngineStats], bool], model: str = "ring") -> EngineStats:
    """Asks the engine something until it is so: each answer comes with another turn."""
    while True:
        await front.sessions.ListSessions(session_pb2.ListSessionsRequest(model=model))
        if condition(stats := front.models[model].engine.stats()):
            return stats


async def check_nothing_rolls(front: FrontDoor, model: str = "ring") -> None:
    """Waits until no rollout is left, and checks that what they held is free."""
    stats = await engine_when(front, lambda stats: not stats.rollouts, model)
    served = front.models[model]
    assert (stats.rollout_slots, stats.pending_steps) == (0, 0)
    assert len(served.backend.free) == served.backend.slots - stats.sessions
    door = served.door
    assert (door._listeners, door._holders, door._rollouts, door._questions) == ({}, {}, {}, {})
