"""Waiting for what happens in the server, by hearing of it."""

from __future__ import annotations

import grpc

from stepstream_proto.v1 import inference_pb2
from support.wire import WireStream


async def expired(address: str) -> None:
    """Returns when every session of `ecg` that is idle by now has expired: a session that is opened now has, too."""
    async with grpc.aio.insecure_channel(address) as channel, WireStream(channel) as stream:
        await stream.send(inference_pb2.StreamRequest(open=inference_pb2.OpenOnStream(model="ecg", handles=bytes(4))))
        await stream.receive()  # Attached
        ended = await stream.receive()
        assert ended.detached.reason == inference_pb2.DETACH_REASON_SESSION_EXPIRED, ended
