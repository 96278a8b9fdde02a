"""What is served, as the contract describes it."""

from __future__ import annotations

from stepstream_proto.v1 import common_pb2, model_pb2
from stepstream_server.rpc.convert.fields import encode_duration
from stepstream_server.rpc.door import ModelDoor
from stepstream_server.spec import DType, TensorSpec

_DATA_TYPES: dict[DType, common_pb2.DataType] = {
    "float32": common_pb2.DATA_TYPE_FLOAT32,
    "int64": common_pb2.DATA_TYPE_INT64,
}


def encode_window(door: ModelDoor) -> common_pb2.Window:
    """How much a session of the model may have unacknowledged."""
    return common_pb2.Window(steps=door.limits.window_steps, bytes=door.limits.window_bytes)


def encode_model(door: ModelDoor, *, words: bool) -> model_pb2.Model:
    """What a bundle declares. words: also the list of them, which may be long."""
    spec, head = door.spec, door.spec.rollout_head
    model = model_pb2.Model(
        name=spec.name,
        version=spec.version,
        description=spec.description,
        cell=spec.cell.kind,
        inputs=[_encode_tensor(each) for each in spec.inputs],
        outputs=[_encode_tensor(each) for each in spec.outputs],
        states=[_encode_tensor(TensorSpec(each.name, "float32", each.shape)) for each in spec.states],
        fingerprint=spec.fingerprint,
        window=encode_window(door),
        licence=spec.licence,
        text=spec.text or "",
        words=head.labels if words and head and spec.text == "words" else (),
        rollout_output=head.name if head else "",
    )
    if spec.time_step_seconds is not None:
        model.time_step.CopyFrom(encode_duration(spec.time_step_seconds))
    return model


def _encode_tensor(spec: TensorSpec) -> common_pb2.TensorSpec:
    return common_pb2.TensorSpec(
        name=spec.name,
        data_type=_DATA_TYPES[spec.dtype],
        shape=spec.shape,
        description=spec.description,
        limit=spec.limit,
    )
