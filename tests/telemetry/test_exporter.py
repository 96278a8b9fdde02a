"""The endpoint that Prometheus scrapes, over real sockets."""

from __future__ import annotations

import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from structlog.testing import capture_logs

from stepstream_server.telemetry import Exporter, Metrics
from stepstream_server.telemetry.exporter import MOST_CONNECTIONS


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


@pytest.mark.parametrize("accept", ["text/plain; version=x", "application/openmetrics-text;version=1.x", "text/plain;version="])
def test_unknown_formats_are_answered_plainly(exporter: Exporter, accept: str, capfd: pytest.CaptureFixture[str]) -> None:
    """A scraper's wish that cannot be read fails no scrape and leaves nothing on stderr."""
    host, port = exporter.start()
    with urllib.request.urlopen(urllib.request.Request(f"http://{host}:{port}/metrics", headers={"Accept": accept})) as response:
        assert b"stepstream_build_info" in response.read()
    assert capfd.readouterr().err == ""


def test_what_goes_wrong_in_a_scrape_is_an_event(capfd: pytest.CaptureFixture[str]) -> None:
    """A collector that fails is answered with 500, and logged rather than printed."""

    class Broken:
        def collect(self) -> Iterator[Metric]:
            raise RuntimeError("broken")

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Broken())
    exporter = Exporter(registry, "127.0.0.1:0")
    host, port = exporter.start()
    with capture_logs() as events, pytest.raises(urllib.error.HTTPError, match="500") as refused:
        urllib.request.urlopen(f"http://{host}:{port}/metrics")
    refused.value.close()
    exporter.stop()
    assert [(each["event"], each["log_level"]) for each in events] == [("scrape_failed", "error")]
    assert capfd.readouterr().err == ""


def test_silent_callers_are_bounded(exporter: Exporter) -> None:
    """The oldest are let go of where there are more than there may be, and a scrape is served all the same."""
    address = exporter.start()
    with ExitStack() as stack:
        silent = [stack.enter_context(socket.create_connection(address)) for _ in range(MOST_CONNECTIONS + 10)]
        urllib.request.urlopen("http://{}:{}/metrics".format(*address)).close()
        for oldest in silent[:10]:
            assert oldest.recv(1) == b""
        with pytest.raises(BlockingIOError):
            silent[-1].recv(1, socket.MSG_DONTWAIT)


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
