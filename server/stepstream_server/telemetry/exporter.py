"""The endpoint that Prometheus scrapes, on a thread of its own so that the event loop never waits for a scrape."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import threading
from collections.abc import Callable, Iterable
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

import structlog
from prometheus_client import CollectorRegistry, make_wsgi_app

from stepstream_server.config import cannot_listen, split_address

WsgiApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


def _only_metrics(metrics: WsgiApp) -> WsgiApp:
    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/metrics":
            return metrics(environ, start_response)
        start_response("404 Not Found", [("Content-Type", "text/plain; charset=utf-8")])
        return [b"Only /metrics is here.\n"]

    return app


class _Handler(WSGIRequestHandler):
    timeout = 10.0  # seconds that a silent caller keeps its thread: Prometheus' default scrape timeout

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing: a scrape every few seconds is not news."""


class _Server(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True  # a scrape under way does not hold up the server's end

    def __init__(self, family: socket.AddressFamily, address: tuple[str, int]) -> None:
        self.address_family = family
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        """Without the parent's look-up of its own name, which takes seconds where there is no DNS."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.bound
        self.setup_environ()

    @property
    def bound(self) -> tuple[str, int]:
        host, port = self.socket.getsockname()[:2]
        return host, port

    def handle_error(self, request: object, client_address: object) -> None:
        """A caller that hung up or never spoke: its own affair."""
        structlog.get_logger().debug("scrape_broken", exc_info=True)


class Exporter:
    """Serves `/metrics` of one registry over HTTP at HOST:PORT. Port 0: any free one."""

    def __init__(self, registry: CollectorRegistry, address: str) -> None:
        self._registry = registry
        self._address = address
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> tuple[str, int]:
        """Binds and begins to serve. Returns (host, port) as bound. Raises OSError if the address cannot be had."""
        try:
            self._server = _bound(*split_address(self._address))
        except OSError as error:
            raise cannot_listen("metrics", self._address, error) from error
        self._server.set_app(_only_metrics(make_wsgi_app(self._registry)))
        self._thread = threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True)
        self._thread.start()
        return self._server.bound

    def stop(self) -> None:
        """Stops serving and closes the port. Does nothing if it was never started, or stopped before."""
        server, thread = self._server, self._thread
        if server is None or thread is None:
            return
        self._server = self._thread = None
        with contextlib.suppress(OSError):  # where the system allows it, this wakes the loop from its wait of half a second
            server.socket.shutdown(socket.SHUT_RDWR)
        server.shutdown()
        thread.join()
        server.server_close()


def _bound(host: str, port: int) -> _Server:
    family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
    return _Server(family, (host, port))
