"""How a stream has ended, which grpc.aio does not always say at once."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import grpc

from stepstream._errors import ConnectionLost, ProtocolError, QueueFull, StepStreamError, Unavailable
from stepstream._translation import from_status
from stepstream_proto.v1 import inference_pb2

FAILED_WRITE = "Internal error from Core"  # how grpc.aio calls a write to a stream that has ended
PATIENCE_SECONDS = 1.0  # for the true status after a failed write: it is on its way, or gRPC has dropped it

_LASTING = {  # another stream would end the same way; all others may be the network's doing
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.OUT_OF_RANGE,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.DATA_LOSS,
    grpc.StatusCode.UNAUTHENTICATED,
}

StreamCall = grpc.aio.StreamStreamCall[inference_pb2.StreamRequest, inference_pb2.StreamResponse]


class Status:
    """Why a stream has ended.

    A write that fails because the server has ended the stream puts an INTERNAL of its own in the place of the true status,
    before or after that one arrives. Each is announced by a callback, so the first one that is not of that making is true.
    Where answers were still on their way, the true one may never be announced.
    """

    def __init__(self, call: StreamCall, patience_seconds: float = PATIENCE_SECONDS) -> None:
        self._patience_seconds = patience_seconds
        self._true: asyncio.Future[StepStreamError] = asyncio.get_running_loop().create_future()
        call.add_done_callback(self._heed)

    async def reason(self) -> StepStreamError:
        """Why the stream has ended, to be asked once nothing more can be read; after a while without a status, just that."""
        try:
            async with asyncio.timeout(self._patience_seconds):
                return await self._true
        except TimeoutError:
            return Unavailable("the server has ended it")

    def _heed(self, call: Any) -> None:
        code, details, trailers = (_at_once(each) for each in (call.code(), call.details(), call.trailing_metadata()))
        if details == FAILED_WRITE or self._true.done():
            return
        if code is grpc.StatusCode.OK:
            self._true.set_result(Unavailable("the server has ended it"))
        else:
            self._true.set_result(from_status(code, details or "", trailers))


def _at_once(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """The result of a coroutine that need not wait, as those of a call that has ended."""
    try:
        coroutine.send(None)
    except StopIteration as returned:
        return returned.value
    coroutine.close()
    raise ProtocolError("status: expected it to be there once the stream has ended")


def defect(error: Exception) -> StepStreamError:
    """Something that was received cannot be used."""
    failure = ProtocolError(f"the stream cannot be read: {error!r}")
    failure.__cause__ = error
    return failure


def lasting(reason: StepStreamError) -> bool:
    """Whether a stream that ended so is not worth another try."""
    return isinstance(reason, ProtocolError) or (reason.code in _LASTING and not isinstance(reason, QueueFull))


def lost(reason: StepStreamError) -> ConnectionLost:
    """What everybody on the stream hears when it has ended for a reason."""
    error = ConnectionLost(
        f"the stream to the server has ended: {reason.message}",
        code=reason.code,
        reason=reason.reason,
        retry_delay=reason.retry_delay,
        metadata=reason.metadata,
    )
    error.__cause__ = reason
    return error
