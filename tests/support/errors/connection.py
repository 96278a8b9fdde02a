"""What gRPC says by itself, without a reason. Each scenario's docstring is the situation in docs/errors.md."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import grpc

from stepstream import Client
from stepstream_proto.v1 import session_pb2, session_pb2_grpc
from stepstream_server.config import DoorSettings
from support.errors.desk import AT_ONCE, desk
from support.errors.heard import Heard
from support.front_door import wait_for


async def nobody_there(heard: Heard) -> None:
    """The server cannot be reached."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        async with grpc.aio.insecure_channel(address) as channel:
            await heard.call(session_pb2_grpc.SessionServiceStub(channel).GetSession(session_pb2.GetSessionRequest()))
        async with Client(address, AT_ONCE) as client:
            await heard.client(client.models())


async def cut(heard: Heard) -> None:
    """The stream broke, and there was no server for `reconnect_seconds` of `ClientOptions`."""
    async with desk() as at, at.client() as client:
        session = await client.open_session("counter")
        gate = at.front.models["counter"].gate
        gate.close()
        step = asyncio.ensure_future(session.step([1.0]))
        await wait_for(gate.reached)
        await at.front.rpc.stop(0)
        await heard.client(step)


async def out_of_time(heard: Heard) -> None:
    """The time that the caller gave the call is over."""
    async with desk() as at:
        gate = at.front.models["counter"].gate
        gate.close()
        await heard.call(at.step(1, [1.0], timeout=0.05))
        await wait_for(gate.reached)


async def too_many_bytes(heard: Heard) -> None:
    """A message is larger than `door.max_message_bytes`."""
    async with desk(DoorSettings(max_message_bytes=4096)) as at, at.client() as client:
        await heard.client(client.import_session(bytes(4096)))
        await heard.call(at.step(1, [1.0] * 600))


async def unheard_of(heard: Heard) -> None:
    """The server does not know the call: it is older than the client."""
    async with desk() as at:
        method: Any = at.front.channel.unary_unary("/stepstream.v1.SessionService/TeleportSession")
        await heard.call(method(b""))


SCENARIOS = (nobody_there, cut, out_of_time, too_many_bytes, unheard_of)
