"""The bare echo of the Open Inference Protocol: it answers everything, in order, with the right sizes."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest

from benchmarks.process import Server
from stepstream_proto.oip.v2 import oip_pb2

SERVICE = "/inference.GRPCInferenceService"


@pytest.fixture
def channel(oip_echo: Server) -> Iterator[grpc.Channel]:
    """A connection to the echo."""
    with grpc.insecure_channel(oip_echo.address) as channel:
        yield channel


def test_every_request_of_a_stream_is_answered_in_order(channel: grpc.Channel) -> None:
    """Responses come one for one with the ids of their requests, and one output of the model's size each."""
    method = channel.stream_stream(
        f"{SERVICE}/ModelStreamInfer",
        oip_pb2.ModelInferRequest.SerializeToString,
        oip_pb2.ModelStreamInferResponse.FromString,
    )
    asked = [oip_pb2.ModelInferRequest(model_name="small", id=str(each)) for each in range(100)]
    answers = list(method(iter(asked)))
    assert [each.infer_response.id for each in answers] == [each.id for each in asked]
    assert {(*each.infer_response.outputs[0].shape, *each.infer_response.raw_output_contents) for each in answers} == {
        (1, 3, bytes(12))
    }
    assert not any(each.error_message for each in answers)


def test_unary_call_is_answered_alike(channel: grpc.Channel) -> None:
    """ModelInfer answers as the stream does."""
    method = channel.unary_unary(
        f"{SERVICE}/ModelInfer", oip_pb2.ModelInferRequest.SerializeToString, oip_pb2.ModelInferResponse.FromString
    )
    answer = method(oip_pb2.ModelInferRequest(model_name="small", id="7"))
    assert (answer.id, answer.outputs[0].datatype, list(answer.raw_output_contents)) == ("7", "FP32", [bytes(12)])


def test_echo_looks_like_a_model_with_a_sequence_batcher(channel: grpc.Channel) -> None:
    """What perf_analyzer reads first: sequences are batched, one response per request, sizes of one step, no statistics."""
    config = channel.unary_unary(
        f"{SERVICE}/ModelConfig", oip_pb2.ModelConfigRequest.SerializeToString, oip_pb2.ModelConfigResponse.FromString
    )(oip_pb2.ModelConfigRequest(name="small")).config
    assert config.HasField("sequence_batching")
    assert config.max_batch_size > 0
    assert [(each.name, each.data_type, list(each.dims)) for each in config.input] == [("input", oip_pb2.TYPE_FP32, [2])]
    server = channel.unary_unary(
        f"{SERVICE}/ServerMetadata",
        oip_pb2.ServerMetadataRequest.SerializeToString,
        oip_pb2.ServerMetadataResponse.FromString,
    )(oip_pb2.ServerMetadataRequest())
    assert "statistics" not in server.extensions
