"""Front doors in processes of their own: the engine port across a socket, and the worker processes behind it.

Knows the port's records and how processes are started, told and missed. It knows no gRPC, no backend and no metric.
"""

from stepstream_server.ipc.control import Counts
from stepstream_server.ipc.crew import Crew
from stepstream_server.ipc.exchange import Exchange
from stepstream_server.ipc.remote import RemoteEngine

__all__ = ["Counts", "Crew", "Exchange", "RemoteEngine"]
