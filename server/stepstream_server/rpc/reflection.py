"""grpc.reflection.v1alpha: lets tools such as grpcurl find the contract without its files."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Sequence
from typing import Any

from grpc_reflection.v1alpha import reflection

from stepstream_server.errors import CallerError, Reason
from stepstream_server.rpc.boundary import Limit
from stepstream_server.rpc.callers import Context

NAME: str = reflection.SERVICE_NAME
MOST = 100  # people who look at once
SECONDS = 60.0  # that a stream may last: tools ask some questions and go


class Reflection:
    """The library's answers, to a bounded number of callers."""

    def __init__(self, services: Sequence[str]) -> None:
        """services: the names that are told."""
        self._servicer: Any = reflection.aio.ReflectionServicer([*services, NAME])
        self._callers = Limit(MOST, "reflection streams")

    async def ServerReflectionInfo(self, requests: AsyncIterable[Any], context: Context) -> None:
        """Answers each request of a stream. Raises CallerError beyond so many streams (QUEUE_FULL), and for one that stays."""
        with self._callers.entered():
            try:
                async with asyncio.timeout(SECONDS):
                    async for response in self._servicer.ServerReflectionInfo(requests, context):
                        await context.write(response.SerializeToString())
            except TimeoutError:
                raise CallerError(Reason.DEADLINE_EXCEEDED, f"expected a stream of at most {SECONDS:g} s") from None
