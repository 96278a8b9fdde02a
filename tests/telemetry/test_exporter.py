"""The endpoint that Prometheus scrapes, over real sockets."""

from __future__ import annotations

import socket
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry

from stepstream_server.telemetry import Exporter, Metrics


@pytest.fixture
def exporter() -> Iterator[Exporter]:
    """One that may be started and is stopped afterwards."""
    registry = CollectorRegistry()
    Metrics(registry).build_info("0.1.0", "onnx", "cpu")
    exporter = Exporter(registry, "127.0.0.1:0")
    yield exporter
    exporter.stop()


def test_metrics_are_served_at_the_bound_port(exporter: Exporter) -> None:
    """Port 0 leads to a free port, which `start` names and where the registry's series are found."""
    host, port = exporter.start()
    with urllib.request.urlopen(f"http://{host}:{port}/metrics") as response:
        assert response.status == 200
        assert response.headers["Content-Type"].startswith("text/plain; version=")
        assert b'stepstream_build_info{backend="onnx",device="cpu",version="0.1.0"} 1.0\n' in response.read()


def test_nothing_else_is_served(exporter: Exporter) -> None:
    """Any other path is not found."""
    host, port = exporter.start()
    with pytest.raises(urllib.error.HTTPError, match="404") as refused:
        urllib.request.urlopen(f"http://{host}:{port}/")
    refused.value.close()


def test_stop_closes_the_port(exporter: Exporter) -> None:
    """After `stop` nobody listens there; stopping again does nothing."""
    address = exporter.start()
    exporter.stop()
    exporter.stop()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)


def test_stop_does_not_wait_for_a_silent_caller(exporter: Exporter) -> None:
    """A connection over which nothing is asked neither blocks another scrape nor the end."""
    host, port = exporter.start()
    with socket.create_connection((host, port)):
        urllib.request.urlopen(f"http://{host}:{port}/metrics").close()
        exporter.stop()


def test_a_taken_port_is_an_error(exporter: Exporter) -> None:
    """Starting on a port that somebody has raises, so that the server does not run unobserved: it names setting and address."""
    host, port = exporter.start()
    with pytest.raises(OSError, match=rf"^metrics: cannot listen on {host}:{port}: .* in use$"):
        Exporter(CollectorRegistry(), f"{host}:{port}").start()


def test_ipv6_is_served() -> None:
    """A bracketed address binds on IPv6 where the machine has it."""
    exporter = Exporter(CollectorRegistry(), "[::1]:0")
    try:
        host, port = exporter.start()
    except OSError:
        pytest.skip("no IPv6 loopback here")
    urllib.request.urlopen(f"http://[{host}]:{port}/metrics").close()
    exporter.stop()
