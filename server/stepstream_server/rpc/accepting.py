"""gRPC's asyncio server, but that no caller's word decides whether it goes on taking calls.

The library's own loop (grpcio 1.84 to 1.85.3) waits for all methods at once, and reads the path of a call to a method that it
does not know as UTF-8. One call whose path is something else, which anybody may send, ends that loop: the process lives on, deaf,
and its port is closed. Here each method is waited for by itself, so that its name is known beforehand, and the path of any other
call is never looked at. A call also costs the same however many methods there are; in the library's loop each adds 1 or 2 us.

This rests on names that are private to grpcio, so that `pyproject.toml` allows no other minor version of it, and a test tells
whether the installed one still behaves so.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Any

import grpc.aio._server
from grpc._cython import cygrpc

_UNKNOWN = "unknown"  # what a method is called that is none of ours


class _Core(cygrpc.AioServer):  # type: ignore[misc]  # it has no types
    """The library's server with another loop in the place of its own, which is left to wait for the end."""

    def __init__(self, options: list[tuple[str, int]], most_open: Callable[[str], float]) -> None:
        super().__init__(cygrpc.get_working_loop(), None, (), None, tuple(options), None)
        self._most_open = most_open
        self._handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}  # by full names of methods
        self._calls: set[asyncio.Task[None]] = set()
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def add_registered_method_handlers(self, handlers: dict[str, grpc.RpcMethodHandler[Any, Any]]) -> None:
        super().add_registered_method_handlers(handlers)
        self._handlers |= handlers

    def resolve_handler(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Called by the library for each call; None has it answer UNIMPLEMENTED."""
        return self._handlers.get(details.method)

    def _make_request_call_future(self, method: bytes | None) -> asyncio.Future[None]:
        return self._ended

    async def _server_main_loop(self, started: asyncio.Future[bool]) -> None:
        """The library's begins to listen in its first step, before any of these tasks is run."""
        accepting = [asyncio.create_task(self._accept(method)) for method in (*self._handlers, None)]
        try:
            await super()._server_main_loop(started)
        finally:
            for each in accepting:
                each.cancel()

    async def _accept(self, method: str | None) -> None:
        """Takes calls of one method, or of all that are not known, one after the other, until the server stops."""
        name = _UNKNOWN if method is None else method
        try:
            while self.is_running():
                try:
                    call = await (self._request_call() if method is None else self._request_registered_call(name.encode()))
                except cygrpc._RequestCallError:  # it ended before it was taken, or the server stops
                    continue
                self._begin(name, call)
            raise cygrpc._RequestCallError
        except Exception as error:
            if not self._ended.done():
                self._ended.set_exception(error)

    def _begin(self, method: str, call: object) -> None:
        """Runs its handler, or has the library answer RESOURCE_EXHAUSTED if too many are open."""
        loop, too_many = asyncio.get_running_loop(), len(self._calls) >= self._most_open(method)
        handling = cygrpc._handle_rpc(method, self, (), call, loop, too_many)
        task = loop.create_task(cygrpc._schedule_rpc_coro(handling, call, loop, method))
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)


class Server(grpc.aio._server.Server):
    """To be made on the event loop that it is to serve on."""

    def __init__(self, options: list[tuple[str, int]], most_open: Callable[[str], float] = lambda method: math.inf) -> None:
        """options: gRPC's channel arguments. most_open: tells how many calls of any method, those included whose requests have
        not come yet, may be open when there is another one of a method, given by its full name; `unknown` is none of ours."""
        self._loop = cygrpc.get_working_loop()
        self._server = _Core(options, most_open)
