"""Sends malformed messages, many calls at once, and says what is wrong with how a call ended."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

import grpc

from stepstream_server.rpc.boundary import STATUS
from support.hostile.malformed import Case
from support.tenants import showing

_AT_ONCE = 48  # calls
_CHANNELS = 6  # so that each worker has some
_SECONDS = 60.0  # of a call: whatever has not ended by then hangs
_RESPONSES = 3  # read of a call that the server might answer without end
_LATE = "client's own deadline"
_CUT = "Internal error from Core"  # says gRPC's client of a stream that has ended under a write, with INTERNAL, however it ended

# Codes that a call may end with: those of docs/errors.md but INTERNAL, and that of a call which we have given up.
DOCUMENTED = {*STATUS.values(), grpc.StatusCode.OK, grpc.StatusCode.CANCELLED} - {grpc.StatusCode.INTERNAL}
# What no response may say, in any protocol.
_FAULTS = (b"ENGINE_FAILED", b"ENGINE_LOST", b"MODEL_FAILED", b"internal error")


class Sender:
    """Sends cases and keeps what happened."""

    def __init__(self, address: str, token: str = "", roots: bytes | None = None) -> None:
        """token: that each call shows, if there is one. roots: certificates of who vouches for the server, over TLS."""
        self._address = address
        self._token = token
        self._roots = roots
        self.messages = 0  # sent
        self.codes: Counter[str] = Counter()
        self.by_method: Counter[str] = Counter()  # messages
        self.wrong: list[str] = []  # at most one for each call

    async def send(self, cases: Iterable[Case]) -> None:
        """Returns when all calls have ended."""
        channels = [connected(self._address, self._roots) for _ in range(_CHANNELS)]
        shown = [showing(channel, token=self._token) for channel in channels]
        waiting = iter(cases)
        try:
            await asyncio.gather(*(self._work(shown[each % _CHANNELS], waiting) for each in range(_AT_ONCE)))
        finally:
            for channel in channels:
                await channel.close()

    async def _work(self, channel: grpc.aio.Channel, waiting: Iterator[Case]) -> None:
        for case in waiting:
            code, details, responses = await _call(channel, case)
            self.codes[code.name] += 1
            self.messages += len(case.messages)
            self.by_method[case.method.path] += len(case.messages)
            if problem := _problem(code, details, responses):
                self.wrong.append(f"{problem}\n{case}")


def connected(address: str, roots: bytes | None = None) -> grpc.aio.Channel:
    """A connection of its own; over TLS where somebody vouches for the server."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    if roots is None:
        return grpc.aio.insecure_channel(address, options=options)
    return grpc.aio.secure_channel(address, grpc.ssl_channel_credentials(roots), options=options)


def _problem(code: grpc.StatusCode, details: str, responses: list[bytes]) -> str:
    """Names what is wrong with an outcome; empty if nothing is."""
    if details != _CUT and (code not in DOCUMENTED or details == _LATE):
        return f"ended {code.name}: {details}"
    told = [fault for fault in _FAULTS for response in responses if fault in response]
    return f"was told {told[0]!r}" if told else ""


async def _call(channel: grpc.aio.Channel, case: Case) -> tuple[grpc.StatusCode, str, list[bytes]]:
    """Makes a call; returns how it ended, and some of what came."""
    responses: list[bytes] = []
    calls = {False: _one_request, True: _many_requests}
    try:
        async with asyncio.timeout(_SECONDS):
            call = calls[case.method.client_streams](channel, case, responses)
            return *(await call), responses
    except TimeoutError:
        return grpc.StatusCode.DEADLINE_EXCEEDED, _LATE, responses


async def _one_request(channel: grpc.aio.Channel, case: Case, responses: list[bytes]) -> tuple[grpc.StatusCode, str]:
    make: Any = channel.unary_stream if case.method.server_streams else channel.unary_unary
    call = make(case.method.path)(case.messages[0])
    try:
        if not case.method.server_streams:
            responses.append(await call)
            return grpc.StatusCode.OK, ""
        while (response := await call.read()) is not grpc.aio.EOF:
            responses.append(response)
            if len(responses) == _RESPONSES or case.method.name == "Watch":
                break
    except grpc.aio.AioRpcError as error:
        return error.code(), error.details() or ""
    finally:
        call.cancel()
    return await _ended(call)


async def _many_requests(channel: grpc.aio.Channel, case: Case, responses: list[bytes]) -> tuple[grpc.StatusCode, str]:
    call: Any = channel.stream_stream(case.method.path)()

    async def write() -> None:
        with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):  # the server has ended the call meanwhile
            for message in case.messages:
                await call.write(message)
            await call.done_writing()

    writing = asyncio.create_task(write())
    try:
        while (response := await call.read()) is not grpc.aio.EOF:
            responses.append(response)
    except grpc.aio.AioRpcError as error:
        return error.code(), error.details() or ""
    finally:
        writing.cancel()
        call.cancel()
        with suppress(asyncio.CancelledError):
            await writing
    return await _ended(call)


async def _ended(call: Any) -> tuple[grpc.StatusCode, str]:
    return await call.code(), await call.details()
