"""The bare echo of the Open Inference Protocol: what gRPC in Python costs a client of Triton's when nothing is served.

The same messages, event loop and options as the server's, in one process or in several. It parses every request and answers it,
in order, with its id and outputs of the right size; it computes nothing and keeps nothing. It describes its model as one with a
sequence batcher, so that `perf_analyzer` sends it sequences, and offers no statistics.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import grpc

from benchmarks import bare
from benchmarks.echo import Context
from stepstream_proto.oip.v2 import oip_pb2
from stepstream_server.bundles import load
from stepstream_server.config import EngineSettings
from stepstream_server.rpc.oip.tensors import DATATYPES, dims
from stepstream_server.spec import ModelSpec

SERVICE = "inference.GRPCInferenceService"
_CONFIG_TYPES = {"float32": oip_pb2.TYPE_FP32, "int64": oip_pb2.TYPE_INT64}


class OipEcho:
    """Answers with zeros for one model."""

    def __init__(self, spec: ModelSpec) -> None:
        self._spec = spec
        self._answer = oip_pb2.ModelInferResponse(model_name=spec.name, model_version="1")
        for output in spec.outputs:
            self._answer.outputs.add(name=output.name, datatype=DATATYPES[output.dtype], shape=[1, *dims(output.shape)])
            self._answer.raw_output_contents.append(bytes(output.step_bytes))

    async def stream(self, requests: object, context: Context) -> None:
        """Reads and writes itself, as the other echo does."""
        while (request := await context.read()) is not grpc.aio.EOF:
            response = oip_pb2.ModelStreamInferResponse(infer_response=self._answer)
            response.infer_response.id = request.id
            await context.write(response)

    async def infer(self, request: oip_pb2.ModelInferRequest, context: Context) -> oip_pb2.ModelInferResponse:
        response = oip_pb2.ModelInferResponse()
        response.CopyFrom(self._answer)
        response.id = request.id
        return response

    async def server_metadata(self, request: oip_pb2.ServerMetadataRequest, context: Context) -> oip_pb2.ServerMetadataResponse:
        return oip_pb2.ServerMetadataResponse(name="echo", version="1", extensions=["sequence", "model_configuration"])

    async def metadata(self, request: oip_pb2.ModelMetadataRequest, context: Context) -> oip_pb2.ModelMetadataResponse:
        response = oip_pb2.ModelMetadataResponse(name=self._spec.name, versions=["1"], platform="echo")
        for each in self._spec.inputs:
            response.inputs.add(name=each.name, datatype=DATATYPES[each.dtype], shape=[-1, *dims(each.shape)])
        for each in self._spec.outputs:
            response.outputs.add(name=each.name, datatype=DATATYPES[each.dtype], shape=[-1, *dims(each.shape)])
        return response

    async def config(self, request: oip_pb2.ModelConfigRequest, context: Context) -> oip_pb2.ModelConfigResponse:
        config = oip_pb2.ModelConfig(name=self._spec.name, platform="echo", max_batch_size=EngineSettings().max_batch)
        for each in self._spec.inputs:
            config.input.add(name=each.name, data_type=_CONFIG_TYPES[each.dtype], dims=dims(each.shape))
        for each in self._spec.outputs:
            config.output.add(name=each.name, data_type=_CONFIG_TYPES[each.dtype], dims=dims(each.shape))
        config.sequence_batching.oldest.max_candidate_sequences = config.max_batch_size
        return oip_pb2.ModelConfigResponse(config=config)


def register(echo: OipEcho, server: grpc.aio.Server) -> None:
    """Under the service's name on the wire."""
    one = _one_to_one
    methods = {
        "ModelStreamInfer": grpc.stream_stream_rpc_method_handler(
            echo.stream,
            request_deserializer=oip_pb2.ModelInferRequest.FromString,
            response_serializer=oip_pb2.ModelStreamInferResponse.SerializeToString,
        ),
        "ModelInfer": one(echo.infer, oip_pb2.ModelInferRequest, oip_pb2.ModelInferResponse),
        "ServerMetadata": one(echo.server_metadata, oip_pb2.ServerMetadataRequest, oip_pb2.ServerMetadataResponse),
        "ModelMetadata": one(echo.metadata, oip_pb2.ModelMetadataRequest, oip_pb2.ModelMetadataResponse),
        "ModelConfig": one(echo.config, oip_pb2.ModelConfigRequest, oip_pb2.ModelConfigResponse),
    }
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, methods)])


def _one_to_one(method: Callable[..., Any], request: Any, response: Any) -> Any:
    return grpc.unary_unary_rpc_method_handler(
        method, request_deserializer=request.FromString, response_serializer=response.SerializeToString
    )


def main() -> None:
    """`python -m benchmarks.oip_echo BUNDLE`."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("bundle", type=Path)
    bare.add_flags(parser)
    arguments = parser.parse_args()
    bare.serve(partial(register, OipEcho(load(arguments.bundle).spec)), arguments.processes, arguments.port)


if __name__ == "__main__":
    main()
