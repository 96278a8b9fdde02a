"""Bare servers: the life of those that the real one is compared with, in one process or in several that share a port."""

from __future__ import annotations

import argparse
import asyncio
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import ExitStack

import grpc
import uvloop

from benchmarks.process import listening, started
from stepstream_server.config import DoorSettings
from stepstream_server.rpc.server import server_options

_HOST = "127.0.0.1"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Of every bare server that may be several processes."""
    parser.add_argument("--processes", type=int, default=1, help="that share a port, each with a loop of its own")
    parser.add_argument("--port", type=int, default=0, help="the one to share; 0: any free one, for this process alone")


def serve(register: Callable[[grpc.aio.Server], object], processes: int = 1, port: int = 0) -> None:
    """Serves what `register` adds to a server until SIGTERM, and prints where, as the real server does."""
    if processes > 1 and not port:
        _share(processes)
    else:
        uvloop.run(_serve(register, port))


def _share(processes: int) -> None:
    """Has so many processes of this module do what it was asked on one port, which is held so that nobody else gets it."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    with ExitStack() as stack:
        held = stack.enter_context(socket.socket())
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind((_HOST, 0))  # without listening: connections go to those that do
        port = held.getsockname()[1]
        command = [sys.executable, *sys.orig_argv[1:], "--port", str(port)]
        for each in [stack.enter_context(started(command)) for _ in range(processes)]:
            listening(each)
        print(f"listening {_HOST}:{port}", flush=True)
        signal.pause()


async def _serve(register: Callable[[grpc.aio.Server], object], port: int) -> None:
    """With the real server's options."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    server = grpc.aio.server(options=server_options(DoorSettings(), shared=port > 0))
    register(server)
    port = server.add_insecure_port(f"{_HOST}:{port}")
    await server.start()
    print(f"listening {_HOST}:{port}", flush=True)
    await stop.wait()
    await server.stop(None)
