"""Row 14: how soon a server that is started serves."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2

from benchmarks.process import HERE, ROOT, Checkout
from benchmarks.report import Line, line
from benchmarks.timing import Effort
from stepstream_server.bundles.files import MANIFEST_FILE

_SHIPPED = ROOT / "models"


def row_14(models: Path, effort: Effort, tell: Callable[[str], None], checkout: Checkout = HERE) -> list[Line]:
    """Seconds from exec until a health check answers SERVING; files are in the system's cache but for the first start.

    Serves the shipped models; where there are none, those in `models`, and says so.
    """
    tell("row 14")
    shipped = sorted(each.parent.name for each in _SHIPPED.glob(f"*/{MANIFEST_FILE}"))
    seconds = [_start(checkout, _SHIPPED if shipped else models) for _ in range(effort.starts)]
    return [line(14, ", ".join(shipped) or "no shipped model: a random one", seconds, "s", 3.0)]


def _start(checkout: Checkout, models: Path) -> float:
    """Raises RuntimeError if the server says that it listens but not that it serves."""
    begun = time.perf_counter()
    with checkout.serving(models) as server, grpc.insecure_channel(server.address) as channel:
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            health_pb2.HealthCheckRequest.SerializeToString,
            health_pb2.HealthCheckResponse.FromString,
        )
        answer = check(health_pb2.HealthCheckRequest())
        seconds = time.perf_counter() - begun
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        raise RuntimeError(f"expected SERVING once the server listens, got {answer}")
    return seconds
