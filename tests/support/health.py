"""What probes ask, typed: the stubs of grpc.health.v1 are not."""

from __future__ import annotations

from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


def _stub(channel: grpc.aio.Channel) -> Any:
    return health_pb2_grpc.HealthStub(channel)


async def health(channel: grpc.aio.Channel, service: str) -> int:
    """The status of a service now."""
    response: health_pb2.HealthCheckResponse = await _stub(channel).Check(health_pb2.HealthCheckRequest(service=service))
    return response.status


async def every_health(channel: grpc.aio.Channel) -> dict[str, int]:
    """The status of every service that the server knows, now."""
    messages: Any = health_pb2  # whose types know no List
    response = await _stub(channel).List(messages.HealthListRequest())
    return {service: each.status for service, each in response.statuses.items()}


class Watch:
    """A watch of a service's health, from now on."""

    def __init__(self, channel: grpc.aio.Channel, service: str) -> None:
        self._call = _stub(channel).Watch(health_pb2.HealthCheckRequest(service=service))

    async def status(self) -> int:
        """The next status that differs from the one before."""
        response: health_pb2.HealthCheckResponse = await self._call.read()
        return response.status

    def cancel(self) -> None:
        """Nobody watches any more."""
        self._call.cancel()
