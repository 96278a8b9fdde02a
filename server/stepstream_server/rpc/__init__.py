"""The front door: the only room that knows gRPC and the messages of the contract. It knows no backend, bundle or metric."""

from stepstream_server.rpc.door import ModelDoor
from stepstream_server.rpc.models import Models
from stepstream_server.rpc.server import RpcServer

__all__ = ["ModelDoor", "Models", "RpcServer"]
