"""How a stream has ended, where gRPC does not say: with statuses given by hand, in orders that a real server seldom makes."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import grpc

from stepstream import Unavailable
from stepstream._translation import FAILED_WRITE, Status, StreamCall


class EndedCall:
    """A call that is told its statuses one by one."""

    def __init__(self) -> None:
        self._callbacks: list[Callable[[EndedCall], None]] = []
        self._status = (grpc.StatusCode.OK, "")

    def add_done_callback(self, callback: Callable[[EndedCall], None]) -> None:
        self._callbacks.append(callback)

    def end(self, code: grpc.StatusCode, details: str) -> None:
        self._status = (code, details)
        for callback in self._callbacks:
            callback(self)

    async def code(self) -> grpc.StatusCode:
        return self._status[0]

    async def details(self) -> str:
        return self._status[1]

    async def trailing_metadata(self) -> tuple[()]:
        return ()


async def test_a_failed_write_alone_ends_the_stream_after_a_while() -> None:
    """gRPC may never announce the true status: nobody may wait for it for ever."""
    call = EndedCall()
    status = Status(cast(StreamCall, call), patience_seconds=0.01)
    call.end(grpc.StatusCode.INTERNAL, FAILED_WRITE)
    reason = await status.reason()
    assert type(reason) is Unavailable
    call.end(grpc.StatusCode.OK, "")  # too late to matter


async def test_the_true_status_wins_over_a_failed_write() -> None:
    """Whether it comes before or after."""
    for order in (("internal", "true"), ("true", "internal")):
        call = EndedCall()
        status = Status(cast(StreamCall, call))
        for each in order:
            call.end(grpc.StatusCode.INTERNAL, FAILED_WRITE if each == "internal" else "the reason")
        assert (await status.reason()).message == "the reason"
