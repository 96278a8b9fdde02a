"""A doorkeeper for a fake server: it turns away every call that does not show the token that is good just then."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from google.rpc import status_pb2

from support.status import abort, failed_call

UNKNOWN = failed_call(grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED", "authorization: expected a token that is known here")


class Doorkeeper(grpc.aio.ServerInterceptor):
    """`good`: the token that is let in; None: anybody. `refusal`: what others hear. `shown`: what each call showed, by method."""

    def __init__(self, good: str | None = None, refusal: status_pb2.Status = UNKNOWN) -> None:
        self.good = good
        self.refusal = refusal
        self.shown: list[tuple[str, list[str]]] = []
        self.turned_away = 0
        self.on_refusal: Callable[[], None] = lambda: None  # while the caller still waits

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], details: grpc.HandlerCallDetails) -> Any:
        """Called by gRPC for each call before its servicer hears of it."""
        handler = await continuation(details)
        shown = [str(value) for key, value in details.invocation_metadata if key == "authorization"]
        self.shown.append((details.method.rpartition("/")[2], shown))
        if self.good is None or shown == [f"Bearer {self.good}"]:
            return handler
        self.turned_away += 1
        return handler._replace(unary_unary=self._refuse, unary_stream=self._refuse, stream_stream=self._refuse)

    async def _refuse(self, _: Any, context: Any) -> None:
        self.on_refusal()
        await abort(context, self.refusal)
