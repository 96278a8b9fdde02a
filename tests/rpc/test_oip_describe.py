"""How a model is described to clients of the Open Inference Protocol: metadata and configuration."""

from __future__ import annotations

from dataclasses import replace

import pytest

from stepstream_proto.oip.v2 import oip_pb2
from stepstream_server.engine.ports import Limits
from stepstream_server.errors import CallerError, Reason
from stepstream_server.rpc.oip.catalogue import encode_config, encode_metadata
from stepstream_server.rpc.oip.tensors import decode_version
from stepstream_server.spec import CellModel, CellSpec, HeadSpec, ModelSpec, StateSpec, TensorSpec

LIMITS = Limits(8, 64, capacity=1000, max_batch=256, idle_ttl_seconds=90.5, batching=1)
SPEC = ModelSpec(
    name="words",
    version=3,
    inputs=(TensorSpec("token", "int64", (), limit=50), TensorSpec("mood", "float32", (2, 4))),
    outputs=(TensorSpec("logits", "float32", (50,)),),
    states=(StateSpec("h", (2, 128)), StateSpec("last", ())),
    computation=CellModel(CellSpec("gru", 16, 128, 2)),
    heads=(HeadSpec("logits", "next_token", 50),),
    fingerprint="f" * 64,
    description="goes on with a text",
    licence="MIT",
    time_step_seconds=0.5,
)


def test_metadata_has_an_axis_before_each_steps_shape() -> None:
    """Of steps or of sequences, of any size; a scalar has the shape [1] behind it."""
    metadata = encode_metadata(SPEC, [1, 3])
    assert (metadata.name, list(metadata.versions), metadata.platform) == ("words", ["1", "3"], "stepstream")
    assert [(each.name, each.datatype, list(each.shape)) for each in metadata.inputs] == [
        ("token", "INT64", [-1, 1]),
        ("mood", "FP32", [-1, 2, 4]),
    ]
    assert [(each.name, each.datatype, list(each.shape)) for each in metadata.outputs] == [("logits", "FP32", [-1, 50])]


def test_properties_tell_what_the_protocol_has_no_field_for() -> None:
    """As strings; what numbers a token may be, too."""
    assert dict(encode_metadata(SPEC, [3]).properties) == {
        "cell": "gru",
        "hidden_size": "128",
        "layers": "2",
        "fingerprint": "f" * 64,
        "description": "goes on with a text",
        "licence": "MIT",
        "time_step_seconds": "0.5",
        "token.limit": "50",
    }


def test_what_is_not_declared_is_not_told() -> None:
    """No empty properties."""
    silent = replace(SPEC, description="", licence="", time_step_seconds=None)
    assert {"description", "licence", "time_step_seconds"}.isdisjoint(encode_metadata(silent, [3]).properties)


def test_the_configuration_is_one_of_a_stateful_triton_model() -> None:
    """What load generators and people who know config.pbtxt look for."""
    config = encode_config(SPEC, LIMITS)
    assert (config.name, config.platform, config.backend, config.max_batch_size) == ("words", "stepstream", "stepstream", 256)
    assert [(each.name, each.data_type, list(each.dims)) for each in config.input] == [
        ("token", oip_pb2.TYPE_INT64, [1]),
        ("mood", oip_pb2.TYPE_FP32, [2, 4]),
    ]
    assert [(each.name, each.data_type, list(each.dims)) for each in config.output] == [("logits", oip_pb2.TYPE_FP32, [50])]
    assert config.HasField("sequence_batching")
    assert config.HasField("model_transaction_policy")
    assert not config.model_transaction_policy.decoupled
    assert config.parameters["fingerprint"].string_value == "f" * 64


def test_sequences_are_batched_without_a_delay_and_end_when_idle() -> None:
    """Strategy `oldest`, with the engine's own limits."""
    batching = encode_config(SPEC, LIMITS).sequence_batching
    assert batching.max_sequence_idle_microseconds == 90_500_000
    assert batching.HasField("oldest")
    assert (batching.oldest.max_candidate_sequences, batching.oldest.max_queue_delay_microseconds) == (1000, 0)
    assert [(each.input_name, each.output_name, each.data_type, list(each.dims)) for each in batching.state] == [
        ("h", "h", oip_pb2.TYPE_FP32, [2, 128]),
        ("last", "last", oip_pb2.TYPE_FP32, [1]),
    ]


def test_limits_beyond_the_fields_are_cut() -> None:
    """A server may hold more than the protocol's numbers can say."""
    config = encode_config(SPEC, replace(LIMITS, capacity=2**40, max_batch=2**40, idle_ttl_seconds=1e300))
    assert config.max_batch_size == 2**31 - 1
    assert config.sequence_batching.oldest.max_candidate_sequences == 2**31 - 1
    assert config.sequence_batching.max_sequence_idle_microseconds == 2**64 - 1


@pytest.mark.parametrize(("text", "version"), [("", 0), ("1", 1), ("12", 12), ("999999999", 999_999_999)])
def test_versions_are_decimal_numbers(text: str, version: int) -> None:
    """Nothing asks for the newest."""
    assert decode_version("version", text) == version


@pytest.mark.parametrize("text", ["0", "-1", "v1", "1.0", " 1", "1\n", "٣", "1" * 100])
def test_what_is_no_version_is_refused_by_its_field(text: str) -> None:
    """With what was expected and the beginning of what came."""
    with pytest.raises(CallerError, match="^model_version: expected a number from 1 ") as caught:
        decode_version("model_version", text)
    assert (caught.value.reason, caught.value.field) == (Reason.INVALID_ARGUMENT, "model_version")
    assert len(caught.value.message) < 150
