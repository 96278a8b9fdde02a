"""grpc.health.v1: one status per service, and two pseudo services for probes.

`readiness` and the services (and "", the server as a whole) serve after warm-up and stop serving when a drain begins;
`liveness` serves from the start and stops only when an engine has crashed, so that a drain is not taken for a hang.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from grpc_health.v1 import health_pb2
from grpc_health.v1.health import aio

from stepstream_server.rpc.boundary import Context

LIVENESS = "liveness"
READINESS = "readiness"

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
_messages: Any = health_pb2  # whose types know no List


class _Servicer(aio.HealthServicer):
    """The library's, which knows how to be asked about one service, by Check and Watch."""

    _server_status: dict[str, Any]  # by service, the library's own

    async def List(self, request: object, context: Context) -> Any:
        """Says of every service what Check says of it."""
        statuses = {name: health_pb2.HealthCheckResponse(status=status) for name, status in self._server_status.items()}
        return _messages.HealthListResponse(statuses=statuses)


class Health:
    """What probes are told. Never serves again once it has stopped to."""

    def __init__(self, services: Sequence[str]) -> None:
        self.servicer = _Servicer()
        self._ready_names = ["", READINESS, *services]
        self._stopped = False
        self.ready = False  # whether the services serve now
        self.live = True  # until an engine has crashed

    async def starting(self) -> None:
        """Alive, not yet ready."""
        await self._set(self._ready_names, serving=False)
        await self._set([LIVENESS], serving=True)

    async def serving(self) -> None:
        """Every model is warm."""
        if not self._stopped:
            self.ready = True
            await self._set(self._ready_names, serving=True)

    async def draining(self) -> None:
        """Alive, not ready any more."""
        self._stopped = True
        self.ready = False
        await self._set(self._ready_names, serving=False)

    async def failed(self) -> None:
        """An engine has crashed."""
        self.live = False
        await self.draining()
        await self._set([LIVENESS], serving=False)

    async def _set(self, names: Iterable[str], *, serving: bool) -> None:
        for name in names:
            await self.servicer.set(name, _SERVING if serving else _NOT_SERVING)
