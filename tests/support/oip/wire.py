"""The protocol's inference calls, message by message, for tests in this process."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress

import grpc
import numpy as np

from stepstream_proto.oip.v2 import oip_pb2

_SERVICE = "/inference.GRPCInferenceService"


def infer_request(
    model: str,
    values: Sequence[float] | Sequence[Sequence[float]],
    sequence: int | str | None = None,
    *,
    id: str = "",
    start: bool = False,
    end: bool = False,
    step: int | None = None,
) -> oip_pb2.ModelInferRequest:
    """A counting model's: values [T] of one sequence, or [B, T] (with `columns`); one step has no axis of time."""
    array = np.array(values, "<f4").reshape(len(values) if np.ndim(values) == 2 else 1, -1, 1)
    request = oip_pb2.ModelInferRequest(model_name=model, id=id)
    shape = (array.shape[0], 1) if array.shape[1] == 1 else array.shape
    request.inputs.add(name="x", datatype="FP32", shape=shape)
    request.raw_input_contents.append(array.tobytes())
    parameters = request.parameters
    if isinstance(sequence, str):
        parameters["sequence_id"].string_param = sequence
    elif sequence is not None:
        parameters["sequence_id"].int64_param = sequence
    for name, flag in (("sequence_start", start), ("sequence_end", end)):
        if flag:
            parameters[name].bool_param = True
    if step is not None:
        parameters["sequence_step"].int64_param = step
    return request


def add_column(request: oip_pb2.ModelInferRequest, name: str, values: Sequence[int] | Sequence[bool] | Sequence[str]) -> None:
    """One of the SEQUENCE_ tensors."""
    if isinstance(values[0], str):
        data = b"".join(len(each.encode()).to_bytes(4, "little") + each.encode() for each in map(str, values))
        request.inputs.add(name=name, datatype="BYTES", shape=[len(values)])
    elif isinstance(values[0], bool):
        data = np.array(values, np.bool_).tobytes()
        request.inputs.add(name=name, datatype="BOOL", shape=[len(values)])
    else:
        data = np.array(values, "<i8").tobytes()
        request.inputs.add(name=name, datatype="INT64", shape=[len(values)])
    request.raw_input_contents.append(data)


def sums_of(response: oip_pb2.ModelInferResponse) -> list[float]:
    """The running sums, flat."""
    names = [each.name for each in response.outputs]
    sums: list[float] = np.frombuffer(response.raw_output_contents[names.index("sum")], "<f4").tolist()
    return sums


async def infer(channel: grpc.aio.Channel, request: oip_pb2.ModelInferRequest) -> oip_pb2.ModelInferResponse:
    """The unary call."""
    call = channel.unary_unary(
        f"{_SERVICE}/ModelInfer", oip_pb2.ModelInferRequest.SerializeToString, oip_pb2.ModelInferResponse.FromString
    )
    response: oip_pb2.ModelInferResponse = await call(request)
    return response


class InferCall:
    """One ModelStreamInfer call."""

    def __init__(self, channel: grpc.aio.Channel, *metadata: tuple[str, str]) -> None:
        method = channel.stream_stream(
            f"{_SERVICE}/ModelStreamInfer",
            oip_pb2.ModelInferRequest.SerializeToString,
            oip_pb2.ModelStreamInferResponse.FromString,
        )
        self.call = method(metadata=metadata)

    async def opened(self) -> None:
        """Returns once the server has the stream."""
        await self.call.initial_metadata()

    async def send(self, *requests: oip_pb2.ModelInferRequest) -> None:
        for request in requests:
            await self.call.write(request)

    async def receive(self, count: int = 1) -> list[oip_pb2.ModelStreamInferResponse]:
        """So many responses. Raises AssertionError if the stream ends before."""
        responses: list[oip_pb2.ModelStreamInferResponse] = []
        for _ in range(count):
            response = await self.call.read()
            if response is grpc.aio.EOF:
                raise AssertionError(f"ended: {await self.call.code()}, {await self.call.details()}")
            responses.append(response)  # type: ignore[arg-type]  # its stub does not know EOF's type from others
        return responses

    async def end(self) -> tuple[grpc.StatusCode, str]:
        """Says goodbye and reads to the end; returns how the call ended."""
        with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):  # the server may have ended it already
            await self.call.done_writing()
            while await self.call.read() is not grpc.aio.EOF:
                pass
        return await self.call.code(), await self.call.details()
