"""Which models are served, by name and version, each with its engine; and the service that says so."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from stepstream_proto.v1 import (
    common_pb2,
    model_pb2,
    model_pb2_grpc,
)
from stepstream_server.errors import CallerError, Reason, ServerFault
from stepstream_server.rpc.callers import Context
from stepstream_server.rpc.engine_client import EngineClient
from stepstream_server.rpc.fields import encode_duration
from stepstream_server.spec import DType, HeadSpec, ModelSpec, TensorSpec, TextSpec

_SHOWN = 128  # characters of a wrong name that its error repeats
_MOST_REPEATED = 1 << 20  # characters of a vocabulary that is told twice: both lists fit a client's 4 MiB
_DATA_TYPES: dict[DType, common_pb2.DataType] = {
    "float32": common_pb2.DATA_TYPE_FLOAT32,
    "int32": common_pb2.DATA_TYPE_INT32,
    "int64": common_pb2.DATA_TYPE_INT64,
    "bool": common_pb2.DATA_TYPE_BOOL,
}


class Models:
    """Empty until `publish`, which happens once every model is warm."""

    def __init__(self, expected: Sequence[ModelSpec] = ()) -> None:
        self._expected = expected  # what `publish` is going to bring
        self._engines: dict[str, dict[int, EngineClient]] = {}
        self._published = False
        self._numbers = itertools.count()

    def publish(self, engines: Sequence[EngineClient]) -> None:
        """From now on these models are served."""
        for engine in engines:
            self._engines.setdefault(engine.spec.name, {})[engine.spec.version] = engine
        self._published = True

    def all(self) -> list[EngineClient]:
        """By name, then version. Raises ServerFault(MODEL_NOT_READY) before `publish`."""
        self._require_published()
        return [versions[version] for _, versions in sorted(self._engines.items()) for version in sorted(versions)]

    @property
    def specs(self) -> list[ModelSpec]:
        """By name, then version; before `publish` of the models that are being warmed up."""
        if self._published:
            return [engine.spec for engine in self.all()]
        return sorted(self._expected, key=lambda spec: (spec.name, spec.version))

    @property
    def published(self) -> bool:
        """Whether models can be found."""
        return self._published

    def find(self, name: str, version: int) -> EngineClient:
        """Version 0 is the newest. Raises CallerError(MODEL_NOT_FOUND), ServerFault(MODEL_NOT_READY) before `publish`."""
        self._require_published()
        versions = self._engines.get(name)
        if versions is None:
            served = ", ".join(sorted(self._engines)) or "none"
            raise CallerError(Reason.MODEL_NOT_FOUND, f"model: {name[:_SHOWN]!r} is not served; served: {served}", field="model")
        engine = versions.get(version or max(versions))
        if engine is None:
            served = ", ".join(map(str, sorted(versions)))
            raise CallerError(
                Reason.MODEL_NOT_FOUND, f"version: {name!r} has no version {version}; served: {served}", field="version"
            )
        return engine

    def next_stream(self) -> int:
        """A number for a stream or a one-shot call; never given twice, whichever engine it is used with."""
        return next(self._numbers)

    def _require_published(self) -> None:
        if not self._published:
            raise ServerFault(Reason.MODEL_NOT_READY, "models are being warmed up")


def encode_window(engine: EngineClient) -> common_pb2.Window:
    """How much a session of the model may have unacknowledged, and how many inputs a client should be ready to keep."""
    limits = engine.limits
    return common_pb2.Window(steps=limits.window_steps, bytes=limits.window_bytes, replay_steps=limits.replay_steps)


def encode_model(engine: EngineClient, *, lists: bool) -> model_pb2.Model:
    """Encodes what a bundle declares. lists: also vocabularies and labels, which may be long."""
    spec, head = engine.spec, engine.spec.rollout_head
    model = model_pb2.Model(
        name=spec.name,
        version=spec.version,
        description=spec.description,
        cell=spec.computation.facts["cell"],
        inputs=[_encode_input(each, lists=lists) for each in spec.inputs],
        outputs=[_encode_output(spec, *each, lists=lists) for each in zip(spec.outputs, spec.heads, strict=True)],
        states=[_encode_tensor(TensorSpec(each.name, each.dtype, each.shape)) for each in spec.states],
        fingerprint=spec.fingerprint,
        window=encode_window(engine),
        licence=spec.licence,
        rollout_output=head.name if head else "",
        batching=engine.limits.batching,
    )
    if head is not None:
        _encode_rollouts(model, head, spec.inputs[0].text, lists=lists)
    if spec.time_step_seconds is not None:
        model.time_step.CopyFrom(encode_duration(spec.time_step_seconds))
    return model


def _encode_rollouts(model: model_pb2.Model, head: HeadSpec, text: TextSpec | None, *, lists: bool) -> None:
    """Adds how rollouts are drawn, and their text as clients know it that read no text of inputs, where they read it rightly."""
    if head.temperature is not None:
        model.rollout_temperature = head.temperature
    if text and head.kind == "next_token" and not (text.lower or text.unknown or text.codec == "pieces"):
        model.text = text.codec
        model.words.extend(text.vocabulary if lists and sum(map(len, text.vocabulary)) <= _MOST_REPEATED else ())


def _encode_input(spec: TensorSpec, *, lists: bool) -> common_pb2.TensorSpec:
    tensor = _encode_tensor(spec)
    if spec.text is not None:
        tensor.text.CopyFrom(_encode_text(spec.text, lists=lists))
    return tensor


def _encode_text(text: TextSpec, *, lists: bool) -> common_pb2.Text:
    return common_pb2.Text(
        codec=text.codec,
        vocabulary=text.vocabulary if lists else (),
        unknown=text.vocabulary.index(text.unknown) if text.unknown else None,
        lower=text.lower,
        space=text.space,
    )


def _encode_output(model: ModelSpec, spec: TensorSpec, head: HeadSpec, *, lists: bool) -> common_pb2.TensorSpec:
    """Labels that are the vocabulary of an input are not sent again: both lists may fill half a message."""
    tensor = _encode_tensor(spec)
    told_already = any(each.text and each.text.vocabulary == head.labels for each in model.inputs)
    tensor.labels.extend(head.labels if lists and not told_already else ())
    return tensor


def _encode_tensor(spec: TensorSpec) -> common_pb2.TensorSpec:
    return common_pb2.TensorSpec(
        name=spec.name,
        data_type=_DATA_TYPES[spec.dtype],
        shape=spec.shape,
        description=spec.description,
        limit=spec.limit,
        range=spec.range,
    )


class ModelService(model_pb2_grpc.ModelServiceServicer):
    """Tells callers what is served."""

    def __init__(self, models: Models) -> None:
        self._models = models

    async def ListModels(self, request: model_pb2.ListModelsRequest, context: Context) -> model_pb2.ListModelsResponse:
        return model_pb2.ListModelsResponse(models=[encode_model(engine, lists=False) for engine in self._models.all()])

    async def GetModel(self, request: model_pb2.GetModelRequest, context: Context) -> model_pb2.GetModelResponse:
        return model_pb2.GetModelResponse(model=encode_model(self._models.find(request.name, request.version), lists=True))
