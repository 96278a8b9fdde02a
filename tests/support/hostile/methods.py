"""Every call that the server offers, by its descriptors: a new one cannot be forgotten."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from stepstream_proto.oip.v2 import oip_pb2
from stepstream_proto.v1 import inference_pb2, model_pb2, session_pb2
from stepstream_server.rpc.oip import service as oip

_FILES = (inference_pb2, session_pb2, model_pb2, health_pb2, reflection_pb2)
_REQUEST = "Request"


class Method(NamedTuple):
    """One call."""

    service: str
    name: str
    request: type[Message]
    client_streams: bool
    server_streams: bool

    @property
    def path(self) -> str:
        return f"/{self.service}/{self.name}"


def offered() -> list[Method]:
    """Finds all calls of the server."""
    described = [service for file in _FILES for service in file.DESCRIPTOR.services_by_name.values()]
    return [*(method for service in described for method in _methods(service)), *_open_inference()]


def _methods(service: ServiceDescriptor) -> Iterator[Method]:
    for each in service.methods:
        request = GetMessageClass(each.input_type)
        yield Method(service.full_name, each.name, request, each.client_streaming, each.server_streaming)


def _open_inference() -> Iterator[Method]:
    """The protocol whose service no file declares: a call for every message that is named as one's request. Calls that are only
    refused have no message here, and are sent what another one would be."""
    for name, descriptor in oip_pb2.DESCRIPTOR.message_types_by_name.items():
        if name.endswith(_REQUEST):
            yield Method(oip.NAME, name.removesuffix(_REQUEST), GetMessageClass(descriptor), False, False)
    yield Method(oip.NAME, "ModelStreamInfer", oip_pb2.ModelInferRequest, True, True)
    yield from (Method(oip.NAME, name, Empty, False, False) for name in oip.ABSENT)
