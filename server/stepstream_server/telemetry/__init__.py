"""What the server tells Prometheus. The only room that knows prometheus_client."""

from stepstream_server.telemetry.exporter import Exporter
from stepstream_server.telemetry.metrics import Metrics, new_registry
from stepstream_server.telemetry.replacements import Replacements

__all__ = ["Exporter", "Metrics", "Replacements", "new_registry"]
