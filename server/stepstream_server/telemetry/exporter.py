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
from prometheus_client.exposition import choose_encoder

from stepstream_server.config import cannot_listen, split_address

WsgiApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


# Connections at once, each with a thread: scrapers, and people who look. When there are more the oldest is let go of, so that
# callers who say nothing, or say it slowly, keep nobody else waiting.
MOST_CONNECTIONS = 64
_TEXT = [("Content-Type", "text/plain; charset=utf-8")]


def _only_metrics(metrics: WsgiApp) -> WsgiApp:
    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ["PATH_INFO"] != "/metrics":
            start_response("404 Not Found", _TEXT)
            return [b"Only /metrics is here.\n"]
        try:
            return metrics(_readable(environ), start_response)
        except Exception:  # what leaves here is printed as it is, between the lines of the log
            structlog.get_logger(__name__).error("scrape_failed", exc_info=True)
            start_response("500 Internal Server Error", _TEXT)
            return [b"The log tells what went wrong.\n"]

    return app


def _readable(environ: dict[str, Any]) -> dict[str, Any]:
    """The request without wishes for a format that the library fails to read: it is answered in the plain one."""
    try:
        choose_encoder(environ.get("HTTP_ACCEPT", ""))
    except (TypeError, ValueError):  # "version=x", which it compares with numbers
        return {name: value for name, value in environ.items() if name != "HTTP_ACCEPT"}
    return environ


class _Handler(WSGIRequestHandler):
    timeout = 10.0  # seconds that a silent caller keeps its thread: Prometheus' default scrape timeout

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing: a scrape every few seconds is not news."""


class _Server(socketserver.ThreadingMixIn, WSGIServer):
    request_queue_size = 128  # connections that wait to be accepted: of the 5 by default a few strangers take all
    daemon_threads = True  # a scrape under way does not hold up the server's end

    def __init__(self, family: socket.AddressFamily, address: tuple[str, int]) -> None:
        self.address_family = family
        self._open: dict[socket.socket, None] = {}  # connections, the oldest first
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

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serves a connection in a thread of its own, in the place of the oldest if there are as many as there may be."""
        if len(self._open) >= MOST_CONNECTIONS:
            self._let_go(next(iter(self._open.copy())))
        self._open[request] = None
        super().process_request(request, client_address)

    def _let_go(self, oldest: socket.socket) -> None:
        """Its thread finds that its caller has hung up."""
        self._open.pop(oldest, None)
        with contextlib.suppress(OSError):  # it has ended meanwhile
            oldest.shutdown(socket.SHUT_RDWR)

    def shutdown_request(self, request: Any) -> None:
        """The connection is over."""
        self._open.pop(request, None)
        super().shutdown_request(request)

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
