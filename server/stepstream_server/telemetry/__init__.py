"""What the server tells Prometheus. The only room that knows prometheus_client."""

from stepstream_server.telemetry.exporter import Exporter
from stepstream_server.telemetry.metrics import Metrics, new_registry

__all__ = ["Exporter", "Metrics", "new_registry"]
