"""The front door: the only room that knows gRPC and the messages of the contract. It knows no backend, bundle or metric."""

from stepstream_server.rpc.engine_client import EngineClient
from stepstream_server.rpc.models import Models
from stepstream_server.rpc.server import RpcServer

__all__ = ["EngineClient", "Models", "RpcServer"]
