"""`inference.GRPCInferenceService`: its calls, and their registration under the name that clients know."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any, NoReturn

import grpc
from google.protobuf.message import Message

from stepstream_proto.oip.v2 import oip_pb2
from stepstream_server.config import DoorSettings
from stepstream_server.errors import CallerError, Reason
from stepstream_server.rpc.boundary import Boundary, Handler
from stepstream_server.rpc.callers import Context, principal
from stepstream_server.rpc.models import Models
from stepstream_server.rpc.oip.catalogue import Catalogue
from stepstream_server.rpc.oip.layouts import Layouts
from stepstream_server.rpc.oip.requests import decode_request
from stepstream_server.rpc.oip.responses import encode_response
from stepstream_server.rpc.oip.stream import InferStream, wants_grpc_errors
from stepstream_server.rpc.one_shot import complete
from stepstream_server.rpc.quotas import Quotas
from stepstream_server.rpc.stream.registry import Streams

NAME = "inference.GRPCInferenceService"

_MODELS = "models are loaded when the server starts: change the folder given by `models` and restart"
_SHARED_MEMORY = (
    "shared memory between client and server is not offered: send tensors in the request, and many sequences or steps in one"
)
_LOG = "logging is set by `log.level` and `log.format`; SIGHUP has the server read its file of settings anew for the level"
_TRACE = "there are no traces of single requests: the metrics say how long steps wait and compute, and so does ModelStatistics"

ABSENT: dict[str, str] = {  # Triton's calls that have no counterpart here, each with what to do instead
    "RepositoryModelLoad": _MODELS,
    "RepositoryModelUnload": _MODELS,
    "SystemSharedMemoryStatus": _SHARED_MEMORY,
    "SystemSharedMemoryRegister": _SHARED_MEMORY,
    "SystemSharedMemoryUnregister": _SHARED_MEMORY,
    "CudaSharedMemoryStatus": _SHARED_MEMORY,
    "CudaSharedMemoryRegister": _SHARED_MEMORY,
    "CudaSharedMemoryUnregister": _SHARED_MEMORY,
    "TraceSetting": _TRACE,
    "LogSettings": _LOG,
}


class InferenceCalls:
    """ModelInfer and ModelStreamInfer."""

    def __init__(self, models: Models, streams: Streams, quotas: Quotas, settings: DoorSettings) -> None:
        self._models = models
        self._streams = streams
        self._quotas = quotas
        self._step_timeout_seconds = settings.step_timeout_seconds
        self._layouts = Layouts(models, settings)
        self._make_stream = partial(InferStream, layouts=self._layouts)

    async def ModelInfer(self, request: oip_pb2.ModelInferRequest, context: Context) -> bytes:
        arrival, left = time.monotonic(), context.time_remaining()
        deadline = arrival + (self._step_timeout_seconds if left is None else left)
        tenant = principal.get().tenant
        decoded = decode_request(request, self._layouts, tenant, arrival, deadline)
        self._quotas.spend(tenant, decoded.layout.rows * decoded.layout.steps)
        outcomes = await complete(decoded.layout.engine, self._models.next_stream(), decoded.steps)
        return encode_response(decoded, outcomes)

    async def ModelStreamInfer(self, request_iterator: AsyncIterator[oip_pb2.ModelInferRequest], context: Context) -> None:
        make = partial(self._make_stream, grpc_errors=wants_grpc_errors(context.invocation_metadata()))
        await self._streams.serve(make, context)


def register(boundary: Boundary, calls: InferenceCalls, catalogue: Catalogue) -> None:
    """Serves the protocol. Its messages are of a package of our own, so that gRPC's generated code cannot say the name."""
    handlers: dict[str, Handler] = {
        "ModelInfer": grpc.unary_unary_rpc_method_handler(calls.ModelInfer, oip_pb2.ModelInferRequest.FromString),
        "ModelStreamInfer": grpc.stream_stream_rpc_method_handler(calls.ModelStreamInfer, oip_pb2.ModelInferRequest.FromString),
        "ServerLive": _question(catalogue.ServerLive, oip_pb2.ServerLiveRequest),
        "ServerReady": _question(catalogue.ServerReady, oip_pb2.ServerReadyRequest),
        "ServerMetadata": _question(catalogue.ServerMetadata, oip_pb2.ServerMetadataRequest),
        "ModelReady": _question(catalogue.ModelReady, oip_pb2.ModelReadyRequest),
        "ModelMetadata": _question(catalogue.ModelMetadata, oip_pb2.ModelMetadataRequest),
        "ModelConfig": _question(catalogue.ModelConfig, oip_pb2.ModelConfigRequest),
        "ModelStatistics": _question(catalogue.ModelStatistics, oip_pb2.ModelStatisticsRequest),
        "RepositoryIndex": _question(catalogue.RepositoryIndex, oip_pb2.RepositoryIndexRequest),
        **{method: grpc.unary_unary_rpc_method_handler(_absent(method)) for method in ABSENT},
    }
    boundary.add_registered_method_handlers(NAME, handlers)


def _question(answer: Callable[[Any, Context], Awaitable[Message]], request: type[Message]) -> Handler:
    return grpc.unary_unary_rpc_method_handler(answer, request.FromString, _serialise)


def _serialise(message: Message) -> bytes:
    return message.SerializeToString()


def _absent(method: str) -> Callable[[bytes, Context], Awaitable[NoReturn]]:
    async def refuse(request: bytes, context: Context) -> NoReturn:
        raise CallerError(Reason.NOT_IMPLEMENTED, f"{method}: {ABSENT[method]}")

    return refuse
