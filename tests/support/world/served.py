"""A counting model served over real gRPC for many histories: its clock is moved by the test, its launches can be held."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import grpc
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from stepstream_proto.v1 import common_pb2
from stepstream_server.config import DoorSettings
from stepstream_server.engine.ports import Keep
from stepstream_server.engine.steps import scheduler
from stepstream_server.errors import Reason
from support.backend import FakeBackend
from support.clock import FakeClock
from support.front_door import Arrivals, FrontDoor, front_door

MODEL = "counter"
TURN_STEPS = 2  # of a session in one turn: as a chunk
WINDOW_STEPS, WINDOW_KEPT = 8, 6
POISON = 666.0
IDLE_TTL = 10.0  # seconds
OUTPUTS = {Keep.ALL: common_pb2.OUTPUTS_ALL, Keep.LAST: common_pb2.OUTPUTS_LAST, Keep.NONE: common_pb2.OUTPUTS_NONE}
_STEP_BYTES = 8  # sum and count, float32 each
_LONG = 1e12  # seconds: the clock is moved by the test alone

Secret = str  # "right", "wrong" or "none"
Refused = tuple[Reason, int]  # and the number expected


@dataclass
class Served:
    """A server that lasts for many examples."""

    front: FrontDoor
    clock: FakeClock
    stack: AsyncExitStack
    arrivals: Arrivals
    numbers: itertools.count[int] = field(default_factory=itertools.count)

    @classmethod
    async def start(cls, *, on_the_loop: bool) -> Served:
        clock, stack, arrivals = FakeClock(), AsyncExitStack(), Arrivals()
        context = front_door(
            settings=DoorSettings(step_timeout_seconds=_LONG),
            backend=lambda: FakeBackend(poison=POISON),
            clock=clock,
            tap=arrivals,
            on_the_loop=on_the_loop,
            window_steps=WINDOW_STEPS,
            window_bytes=WINDOW_KEPT * _STEP_BYTES,
            idle_ttl_seconds=IDLE_TTL,
            tombstone_seconds=_LONG,
            turn_budget_seconds=2e-7,  # chunks are cut: on a clock that stands still a step takes 1e-7 s
            alone_budget_seconds=2e-7,
        )
        stack.enter_context(mock.patch.object(scheduler, "_FIRST_GUESS", 2))  # before it is known how long a step takes
        front = await stack.enter_async_context(context)
        front.models[MODEL].engine.turn_budget = 0.0  # a turn has one launch: on this clock its time would never be over
        return cls(front, clock, stack, arrivals)


async def told(call: Awaitable[Any]) -> Any:
    """What a unary call was answered: the response, or why it was refused and the number expected."""
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        trailers = dict(error.trailing_metadata())
        status, info = Status(), ErrorInfo()
        status.ParseFromString(bytes(trailers["grpc-status-details-bin"]))
        for detail in status.details:
            detail.Unpack(info)
        return Reason[info.reason], int(info.metadata.get("expectedSeq", 0))
