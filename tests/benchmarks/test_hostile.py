"""Malformed messages of the benchmarks are malformed: each is refused, and nothing else happens."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from benchmarks.load import Plan
from benchmarks.misbehave import malformed_blocks, malformed_steps
from stepstream_proto.v1 import inference_pb2, session_pb2, session_pb2_grpc
from stepstream_server.bundles import Bundle
from support.server import serving

PATH = "/stepstream.v1.InferenceService"


async def test_every_malformed_message_is_refused(bundle: Bundle) -> None:
    """A call by its status; a message on a stream by an error of its row, or by the stream's end."""
    async with serving(bundle.path.parent) as bound, grpc.aio.insecure_channel(bound.listen) as channel:
        plan = Plan(bound.listen, 0, bundle.spec.name, input_width=2, output_width=3)
        opening = session_pb2.OpenSessionRequest(model=plan.model)
        opened = await session_pb2_grpc.SessionServiceStub(channel).OpenSession(opening)
        untyped: Any = channel  # bytes as they are
        for request in malformed_steps(plan, opened.session.id):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await untyped.unary_unary(f"{PATH}/Step")(request)
            assert refused.value.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND)
        for message in malformed_blocks(plan):
            call = untyped.stream_stream(f"{PATH}/Stream")()
            open_one = inference_pb2.OpenOnStream(model=plan.model, handles=bytes(4))
            await call.write(inference_pb2.StreamRequest(open=open_one).SerializeToString())
            await call.read()
            await call.write(message)
            try:
                assert inference_pb2.StreamResponse.FromString(await call.read()).answers.errors
            except grpc.aio.AioRpcError as ended:
                assert ended.code() is grpc.StatusCode.INVALID_ARGUMENT
            call.cancel()
