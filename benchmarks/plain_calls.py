"""Features that are used by plain calls, as clients of other makers use them: health, reflection, the Open Inference Protocol."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import grpc
import numpy as np
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from benchmarks.use import LEFT_SECONDS, Feature, Scene, refused, same
from stepstream_proto.oip.v2 import oip_pb2
from stepstream_proto.v1 import inference_pb2, inference_pb2_grpc

_OIP = "/inference.GRPCInferenceService"


async def rows_refused(scene: Scene) -> None:
    """A stream with a row that is not finite and one of a wrong number, which then breaks off."""
    handles = np.arange(2, dtype="<u4").tobytes()
    call = inference_pb2_grpc.InferenceServiceStub(scene.channel).Stream()
    opening = inference_pb2.OpenOnStream(model="ecg", handles=handles)
    opening.idle_ttl.FromTimedelta(timedelta(seconds=LEFT_SECONDS))
    await call.write(inference_pb2.StreamRequest(open=opening))
    await call.read()
    inputs = np.array([np.nan, 0.0], "<f4").tobytes()
    block = inference_pb2.Block(handles=handles, first_seqs=np.array([0, 7], "<u8").tobytes(), inputs=[inputs])
    await call.write(inference_pb2.StreamRequest(block=block))
    errors = 0
    while errors < 2:
        message = await call.read()
        same("message", message.WhichOneof("message"), "answers")
        errors += len(message.answers.errors)
    call.cancel()


async def health(scene: Scene) -> None:
    """The health of a service, asked for once and watched for a moment."""
    request = health_pb2.HealthCheckRequest(service="stepstream.v1.InferenceService")
    serving = health_pb2.HealthCheckResponse.SERVING
    kinds = health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse
    same("health", (await _unary(scene, "/grpc.health.v1.Health/Check", request, kinds[1])).status, serving)
    watch = _stream(scene, "/grpc.health.v1.Health/Watch", *kinds)
    await watch.write(request)
    same("health", (await watch.read()).status, serving)
    watch.cancel()


async def reflection(scene: Scene) -> None:
    """Questions that grpcurl asks before it calls."""
    request, response = reflection_pb2.ServerReflectionRequest, reflection_pb2.ServerReflectionResponse
    call = _stream(scene, "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", request, response)
    await call.write(request(list_services=""))
    await call.write(request(file_containing_symbol="stepstream.v1.SessionService"))
    same("services", (await call.read()).HasField("list_services_response"), True)
    same("file", (await call.read()).HasField("file_descriptor_response"), True)
    await call.done_writing()
    same("status", await call.code(), grpc.StatusCode.OK)


async def open_inference(scene: Scene) -> None:
    """A client of Triton: looks at the server, steps a sequence by calls, and two over a stream."""
    for method in ("ServerLive", "ServerReady", "ServerMetadata", "RepositoryIndex"):
        await _oip(scene, method, getattr(oip_pb2, f"{method}Request")())
    for method in ("ModelReady", "ModelMetadata", "ModelConfig", "ModelStatistics"):
        await _oip(scene, method, getattr(oip_pb2, f"{method}Request")(name="ecg"))
    name = scene.name()
    for place in range(3):
        await _oip(scene, "ModelInfer", _infer(name, start=place == 0, end=place == 2))
    await refused(_oip(scene, "ModelInfer", _infer(scene.name())), grpc.aio.AioRpcError)  # was never started
    call = _stream(scene, f"{_OIP}/ModelStreamInfer", oip_pb2.ModelInferRequest, oip_pb2.ModelStreamInferResponse)
    names = scene.name(), scene.name()
    for name in names:
        await call.write(_infer(name, start=True))
    await call.write(_infer(names[0], end=True))  # the other one expires
    for _ in range(3):
        same("error", (await call.read()).error_message, "")
    await call.done_writing()
    same("status", await call.code(), grpc.StatusCode.OK)


PLAIN: tuple[Feature, ...] = (rows_refused, health, reflection, open_inference)


async def _unary(scene: Scene, path: str, request: Message, response: type[Message]) -> Any:
    return await scene.channel.unary_unary(path, type(request).SerializeToString, response.FromString)(request)


def _stream(scene: Scene, path: str, request: type[Message], response: type[Message]) -> Any:
    return scene.channel.stream_stream(path, request.SerializeToString, response.FromString)()


async def _oip(scene: Scene, method: str, request: Message) -> None:
    await _unary(scene, f"{_OIP}/{method}", request, getattr(oip_pb2, f"{method}Response"))


def _infer(sequence: str, *, start: bool = False, end: bool = False) -> oip_pb2.ModelInferRequest:
    """A reading of `ecg`."""
    request = oip_pb2.ModelInferRequest(model_name="ecg")
    request.inputs.add(name="mv", datatype="FP32", shape=[1, 1])
    request.raw_input_contents.append(np.zeros(1, "<f4").tobytes())
    request.parameters["sequence_id"].string_param = sequence
    request.parameters["sequence_start"].bool_param = start
    request.parameters["sequence_end"].bool_param = end
    return request
