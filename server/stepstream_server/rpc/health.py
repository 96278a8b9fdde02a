"""grpc.health.v1: one status per service, and two pseudo services for probes.

`readiness` and the services (and "", the server as a whole) serve after warm-up and stop serving when a drain begins;
`liveness` serves from the start and stops only when an engine has crashed, so that a drain is not taken for a hang.

The servicer is our own: the library's holds a lock while it writes to a watcher (grpcio-health-checking 1.85), so that one that
does not read would keep every other watcher, and the server's own drain, waiting.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any

import grpc
from grpc_health.v1 import health_pb2

from stepstream_server.rpc.boundary import Limit
from stepstream_server.rpc.callers import Context

LIVENESS = "liveness"
READINESS = "readiness"

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
_messages: Any = health_pb2  # whose types know no List


class Health:
    """What probes are told. Never serves again once it has stopped to."""

    def __init__(self, services: Sequence[str], most_watches: int) -> None:
        """most_watches: that may be open at once; each costs some 25 KB, and nobody needs more than one for a connection."""
        self._ready_names = ["", READINESS, *services]
        self._watches = Limit(most_watches, "watches of the health")
        self._statuses: dict[str, Any] = {}
        self._changed = asyncio.Event()  # set, and another put in its place, at each change
        self._stopped = False
        self.ready = False  # whether the services serve now
        self.live = True  # until an engine has crashed

    def starting(self) -> None:
        """Alive, not yet ready."""
        self._set(self._ready_names, serving=False)
        self._set([LIVENESS], serving=True)

    def serving(self) -> None:
        """Every model is warm."""
        if not self._stopped:
            self.ready = True
            self._set(self._ready_names, serving=True)

    def draining(self) -> None:
        """Alive, not ready any more."""
        self._stopped = True
        self.ready = False
        self._set(self._ready_names, serving=False)

    def failed(self) -> None:
        """An engine has crashed."""
        self.live = False
        self.draining()
        self._set([LIVENESS], serving=False)

    async def Check(self, request: health_pb2.HealthCheckRequest, context: Context) -> health_pb2.HealthCheckResponse:
        """The status of a service now; NOT_FOUND for one that there is not, as the protocol says."""
        status = self._statuses.get(request.service)
        if status is None:
            known = ", ".join(map(repr, self._statuses))
            await context.abort(grpc.StatusCode.NOT_FOUND, f"service: expected one of {known}")
        return health_pb2.HealthCheckResponse(status=status)

    async def List(self, request: object, context: Context) -> Any:
        """Says of every service what Check says of it."""
        statuses = {name: health_pb2.HealthCheckResponse(status=status) for name, status in self._statuses.items()}
        return _messages.HealthListResponse(statuses=statuses)

    async def Watch(
        self, request: health_pb2.HealthCheckRequest, context: Context
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        """The status of a service now, and each other one from then on. Raises CallerError(QUEUE_FULL) beyond so many watches."""
        with self._watches.entered():
            told = None
            while True:
                changed, status = self._changed, self._statuses.get(request.service, _UNKNOWN)
                if status != told:
                    yield health_pb2.HealthCheckResponse(status=status)
                    told = status
                await changed.wait()

    def _set(self, names: Iterable[str], *, serving: bool) -> None:
        self._statuses |= dict.fromkeys(names, _SERVING if serving else _NOT_SERVING)
        self._changed.set()
        self._changed = asyncio.Event()
