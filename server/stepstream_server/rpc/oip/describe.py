"""What is served, in the words of Triton's users: metadata, and the configuration that they know as config.pbtxt."""

from __future__ import annotations

from collections.abc import Sequence

from stepstream_proto.oip.v2 import oip_pb2
from stepstream_server.engine.ports import Limits
from stepstream_server.rpc.oip.fields import DATATYPES, dims
from stepstream_server.spec import DType, ModelSpec, TensorSpec

PLATFORM = "stepstream"  # what computes, where Triton would say onnxruntime_onnx or pytorch_libtorch

_DATA_TYPES: dict[DType, oip_pb2.DataType] = {"float32": oip_pb2.TYPE_FP32, "int64": oip_pb2.TYPE_INT64}
_MOST = 2**31 - 1  # of an int32
_LONGEST = 2**64 - 1  # microseconds


def encode_metadata(spec: ModelSpec, versions: Sequence[int]) -> oip_pb2.ModelMetadataResponse:
    """Shapes begin with -1, the axis of steps or of sequences."""
    return oip_pb2.ModelMetadataResponse(
        name=spec.name,
        versions=[str(version) for version in versions],
        platform=PLATFORM,
        inputs=[_encode_tensor(each) for each in spec.inputs],
        outputs=[_encode_tensor(each) for each in spec.outputs],
        properties=_properties(spec),
    )


def encode_config(spec: ModelSpec, limits: Limits) -> oip_pb2.ModelConfig:
    """The configuration that a Triton server would need to serve the model as this one does."""
    return oip_pb2.ModelConfig(
        name=spec.name,
        platform=PLATFORM,
        backend=PLATFORM,
        max_batch_size=min(limits.max_batch, _MOST),
        input=[
            oip_pb2.ModelInput(name=each.name, data_type=_DATA_TYPES[each.dtype], dims=dims(each.shape)) for each in spec.inputs
        ],
        output=[
            oip_pb2.ModelOutput(name=each.name, data_type=_DATA_TYPES[each.dtype], dims=dims(each.shape)) for each in spec.outputs
        ],
        sequence_batching=_encode_sequences(spec, limits),
        model_transaction_policy=oip_pb2.ModelTransactionPolicy(decoupled=False),
        parameters={name: oip_pb2.ModelParameter(string_value=value) for name, value in _properties(spec).items()},
    )


def _encode_sequences(spec: ModelSpec, limits: Limits) -> oip_pb2.ModelSequenceBatching:
    """As Triton's strategy `oldest` without a delay: any sequences that have a step waiting share a batch."""
    return oip_pb2.ModelSequenceBatching(
        max_sequence_idle_microseconds=min(round(limits.idle_ttl_seconds * 1e6), _LONGEST),
        oldest=oip_pb2.ModelSequenceBatching.StrategyOldest(
            max_candidate_sequences=min(limits.capacity, _MOST), preserve_ordering=True
        ),
        state=[
            oip_pb2.ModelSequenceBatching.State(
                input_name=each.name, output_name=each.name, data_type=oip_pb2.TYPE_FP32, dims=dims(each.shape)
            )
            for each in spec.states
        ],
    )


def _encode_tensor(spec: TensorSpec) -> oip_pb2.ModelMetadataResponse.TensorMetadata:
    return oip_pb2.ModelMetadataResponse.TensorMetadata(
        name=spec.name, datatype=DATATYPES[spec.dtype], shape=(-1, *dims(spec.shape))
    )


def _properties(spec: ModelSpec) -> dict[str, str]:
    """What a bundle declares and the protocol has no field for. Names say the unit; what is not declared is left out."""
    time_step = "" if spec.time_step_seconds is None else repr(spec.time_step_seconds)
    properties = {
        "cell": spec.cell.kind,
        "hidden_size": str(spec.cell.hidden_size),
        "layers": str(spec.cell.layers),
        "fingerprint": spec.fingerprint,
        "description": spec.description,
        "licence": spec.licence,
        "time_step_seconds": time_step,
        **{f"{each.name}.limit": str(each.limit) for each in spec.inputs if each.limit},  # valid tokens are below it
    }
    return {name: value for name, value in properties.items() if value}
