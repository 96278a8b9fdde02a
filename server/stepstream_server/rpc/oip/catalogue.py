"""The protocol's questions about the server and its models, answered in the words of Triton's users.

They know metadata, the configuration that config.pbtxt holds, and statistics, where an inference is a step and an execution is a
launch. All but the statistics are known here.
"""

from __future__ import annotations

from collections.abc import Sequence

from stepstream_proto.oip.v2 import oip_pb2
from stepstream_server.access import Role
from stepstream_server.engine import ports
from stepstream_server.engine.ports import InferenceTotals, Limits
from stepstream_server.errors import CallerError, Reason
from stepstream_server.rpc.callers import Context, principal
from stepstream_server.rpc.engine_client import EngineClient
from stepstream_server.rpc.health import Health
from stepstream_server.rpc.models import Models
from stepstream_server.rpc.oip.tensors import DATATYPES, decode_version, dims
from stepstream_server.spec import DType, ModelSpec, TensorSpec

PLATFORM = "stepstream"  # what computes, where Triton would say onnxruntime_onnx or pytorch_libtorch
_DATA_TYPES: dict[DType, oip_pb2.DataType] = {
    "float32": oip_pb2.TYPE_FP32,
    "int32": oip_pb2.TYPE_INT32,
    "int64": oip_pb2.TYPE_INT64,
    "bool": oip_pb2.TYPE_BOOL,
}
_MOST = 2**31 - 1  # of an int32
_LONGEST = 2**64 - 1  # microseconds

# Triton's names. Clients look here before they ask; what is missing they do without.
EXTENSIONS = ("sequence", "sequence(string_id)", "model_configuration", "statistics")


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
                input_name=each.name, output_name=each.name, data_type=_DATA_TYPES[each.dtype], dims=dims(each.shape)
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
        **spec.computation.facts,
        "fingerprint": spec.fingerprint,
        "description": spec.description,
        "licence": spec.licence,
        "time_step_seconds": time_step,
        **{f"{each.name}.limit": str(each.limit) for each in spec.inputs if each.limit},  # valid tokens are below it
        **{f"{each.name}.range": str(each.range) for each in spec.inputs if each.range},  # valid magnitudes are up to it
    }
    return {name: value for name, value in properties.items() if value}


def encode_statistics(spec: ModelSpec, totals: InferenceTotals) -> oip_pb2.ModelStatistics:
    """Counts and nanoseconds since the start, over all steps; none ever falls. Repeats answered from the cache are not counted.

    A launch gathers states and inputs, computes and scatters, all in its time: `compute_input` and `compute_output` are counted
    as often and take nothing. Load generators expect the three to count alike.
    """
    return oip_pb2.ModelStatistics(
        name=spec.name,
        version=str(spec.version),
        last_inference=round(totals.last_at * 1000),
        inference_count=totals.steps,
        execution_count=sum(count for count, _ in totals.launches.values()),
        inference_stats=oip_pb2.InferStatistics(
            success=_duration(totals.steps, totals.seconds),
            fail=_duration(totals.failed_steps),
            queue=_duration(totals.steps, totals.queue_seconds),
            compute_input=_duration(totals.steps),
            compute_infer=_duration(totals.steps, totals.compute_seconds),
            compute_output=_duration(totals.steps),
        ),
        batch_stats=[_encode_batches(rows, count, seconds) for rows, (count, seconds) in sorted(totals.launches.items())],
    )


def _encode_batches(rows: int, count: int, seconds: float) -> oip_pb2.InferBatchStatistics:
    """Of all launches with so many rows."""
    return oip_pb2.InferBatchStatistics(
        batch_size=rows,
        compute_input=_duration(count),
        compute_infer=_duration(count, seconds),
        compute_output=_duration(count),
    )


def _duration(count: int, seconds: float = 0.0) -> oip_pb2.StatisticDuration:
    return oip_pb2.StatisticDuration(count=count, ns=round(seconds * 1e9))


class Catalogue:
    """Methods as gRPC calls them: a request and its context to a response."""

    def __init__(self, models: Models, health: Health, version: str) -> None:
        self._models = models
        self._health = health
        self._version = version  # of the server

    async def ServerLive(self, request: oip_pb2.ServerLiveRequest, context: Context) -> oip_pb2.ServerLiveResponse:
        return oip_pb2.ServerLiveResponse(live=self._health.live)

    async def ServerReady(self, request: oip_pb2.ServerReadyRequest, context: Context) -> oip_pb2.ServerReadyResponse:
        return oip_pb2.ServerReadyResponse(ready=self._health.ready)

    async def ServerMetadata(self, request: oip_pb2.ServerMetadataRequest, context: Context) -> oip_pb2.ServerMetadataResponse:
        return oip_pb2.ServerMetadataResponse(name="stepstream", version=self._version, extensions=EXTENSIONS)

    async def ModelReady(self, request: oip_pb2.ModelReadyRequest, context: Context) -> oip_pb2.ModelReadyResponse:
        """A model that is not served is one that is not ready."""
        version = decode_version("version", request.version)
        known = any(spec.name == request.name and version in (0, spec.version) for spec in self._models.specs)
        return oip_pb2.ModelReadyResponse(ready=known and self._health.ready)

    async def ModelMetadata(self, request: oip_pb2.ModelMetadataRequest, context: Context) -> oip_pb2.ModelMetadataResponse:
        spec = self._find(request).spec
        versions = [each.version for each in self._models.specs if each.name == spec.name]
        return encode_metadata(spec, versions)

    async def ModelConfig(self, request: oip_pb2.ModelConfigRequest, context: Context) -> oip_pb2.ModelConfigResponse:
        engine = self._find(request)
        return oip_pb2.ModelConfigResponse(config=encode_config(engine.spec, engine.limits))

    async def ModelStatistics(self, request: oip_pb2.ModelStatisticsRequest, context: Context) -> oip_pb2.ModelStatisticsResponse:
        """Of one version, of all versions of a model, or of all models; of all tenants, so that they are for admins."""
        if principal.get().role is not Role.ADMIN:
            raise CallerError(Reason.NOT_PERMITTED, "statistics are of all callers together: expected the role admin")
        engines = self._models.all()
        if request.name:
            found = self._find(request)
            engines = [found] if request.version else [each for each in engines if each.spec.name == request.name]
        elif request.version:
            message = f"version: expected none without a name, got {request.version[:32]!r}"
            raise CallerError(Reason.INVALID_ARGUMENT, message, field="version")
        stats = [encode_statistics(engine.spec, await engine.ask(ports.Statistics)) for engine in engines]
        return oip_pb2.ModelStatisticsResponse(model_stats=stats)

    async def RepositoryIndex(self, request: oip_pb2.RepositoryIndexRequest, context: Context) -> oip_pb2.RepositoryIndexResponse:
        if request.repository_name:
            message = "repository_name: expected none, since there is one folder of models"
            raise CallerError(Reason.INVALID_ARGUMENT, message, field="repository_name")
        if request.ready and not self._health.ready:
            return oip_pb2.RepositoryIndexResponse()
        state, reason = self._state()
        index = oip_pb2.RepositoryIndexResponse.ModelIndex
        models = [index(name=each.name, version=str(each.version), state=state, reason=reason) for each in self._models.specs]
        return oip_pb2.RepositoryIndexResponse(models=models)

    def _find(
        self, request: oip_pb2.ModelMetadataRequest | oip_pb2.ModelConfigRequest | oip_pb2.ModelStatisticsRequest
    ) -> EngineClient:
        return self._models.find(request.name, decode_version("version", request.version))

    def _state(self) -> tuple[str, str]:
        """Of every model, in Triton's words, and why."""
        if self._health.ready:
            return "READY", ""
        if self._models.published:
            return "UNLOADING", "the server is about to stop"
        return "LOADING", "models are being warmed up"
