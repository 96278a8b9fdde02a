"""The protocol's questions about the server and its models. All but the statistics are known here."""

from __future__ import annotations

from stepstream_proto.oip.v2 import oip_pb2
from stepstream_server.engine import ports
from stepstream_server.errors import CallerError, Reason
from stepstream_server.rpc.door import ModelDoor
from stepstream_server.rpc.health import Health
from stepstream_server.rpc.interceptors import Context
from stepstream_server.rpc.models import Models
from stepstream_server.rpc.oip.describe import encode_config, encode_metadata
from stepstream_server.rpc.oip.fields import decode_version
from stepstream_server.rpc.oip.statistics import encode_statistics

# Triton's names. Clients look here before they ask; what is missing they do without.
EXTENSIONS = ("sequence", "sequence(string_id)", "model_configuration", "statistics")


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
        door = self._find(request)
        return oip_pb2.ModelConfigResponse(config=encode_config(door.spec, door.limits))

    async def ModelStatistics(self, request: oip_pb2.ModelStatisticsRequest, context: Context) -> oip_pb2.ModelStatisticsResponse:
        """Of one version, of all versions of a model, or of all models."""
        doors = self._models.all()
        if request.name:
            found = self._find(request)
            doors = [found] if request.version else [each for each in doors if each.spec.name == request.name]
        elif request.version:
            message = f"version: expected none without a name, got {request.version[:32]!r}"
            raise CallerError(Reason.INVALID_ARGUMENT, message, field="version")
        stats = [encode_statistics(door.spec, await door.ask(ports.Statistics)) for door in doors]
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
    ) -> ModelDoor:
        return self._models.find(request.name, decode_version("version", request.version))

    def _state(self) -> tuple[str, str]:
        """Of every model, in Triton's words, and why."""
        if self._health.ready:
            return "READY", ""
        if self._models.published:
            return "UNLOADING", "the server is about to stop"
        return "LOADING", "models are being warmed up"
