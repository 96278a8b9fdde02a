"""The gRPC server: its options, its services, and its life from listening to the last stream's end."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from functools import partial

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2_grpc

from stepstream_proto.v1 import (
    inference_pb2,
    inference_pb2_grpc,
    model_pb2,
    model_pb2_grpc,
    session_pb2,
    session_pb2_grpc,
)
from stepstream_server.access import Access
from stepstream_server.config import DoorSettings, bound_address, cannot_listen
from stepstream_server.engine.ports import Command, Drain
from stepstream_server.errors import StepStreamError
from stepstream_server.rpc import reflection
from stepstream_server.rpc.accepting import Server
from stepstream_server.rpc.authentication import Authentication
from stepstream_server.rpc.boundary import Arrivals, Boundary, Limit, OnCall, Service
from stepstream_server.rpc.connections import Connections, most_connections
from stepstream_server.rpc.credentials import server_credentials
from stepstream_server.rpc.health import Health
from stepstream_server.rpc.inference import InferenceService
from stepstream_server.rpc.models import Models, ModelService
from stepstream_server.rpc.oip import service as oip
from stepstream_server.rpc.oip.catalogue import Catalogue
from stepstream_server.rpc.oip.responses import translate
from stepstream_server.rpc.openings import Openings
from stepstream_server.rpc.quotas import Quotas
from stepstream_server.rpc.sessions import SessionService
from stepstream_server.rpc.stream.registry import Streams

_LEAST_SECONDS = 1.0  # for streams to end, and for calls to be answered, whatever computing and moving have taken

SERVICES = [  # of the contract
    inference_pb2.DESCRIPTOR.services_by_name["InferenceService"].full_name,
    session_pb2.DESCRIPTOR.services_by_name["SessionService"].full_name,
    model_pb2.DESCRIPTOR.services_by_name["ModelService"].full_name,
]
_ROOM_FOR_PROBES = 1000  # calls: each is answered at once
_PROBES_ARRIVING = 64  # their requests on their way, which come with their calls: as many as a quarter of all others' may be
# Where probes alone come: a kubelet connects for each of its three, and a load balancer or two may watch.
PROBE_CONNECTIONS = 32
_PROBE_BYTES = 1 << 12  # of a message, either way: the name of a service, or every name with its status
_HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name


class RpcServer:
    """A front door that listens. Models appear in it when they are published."""

    def __init__(
        self,
        models: Models,
        settings: DoorSettings,
        on_call: OnCall,
        version: str,
        access: Access | None = None,
        *,
        shared: bool = False,
    ) -> None:
        """access: who may call, and what they may have of this door; None: anybody, as much as there is. shared: other processes
        may listen on the same port."""
        self.health = Health([*SERVICES, oip.NAME], settings.max_streams)
        self._authentication = Authentication(access)
        self._quotas = Quotas(access)
        self.openings = Openings()
        self.streams = Streams(models, settings, self.openings, self._quotas)
        self._models = models
        self._settings = settings
        self._on_call = on_call
        self._shared = shared
        self._version = version  # of the server, which clients of the Open Inference Protocol may ask for
        self._servers: list[Server] = []  # that were started
        self._watching: asyncio.Task[None] | None = None  # how many connections there are

    async def start(self, listen: str, health: str = "") -> tuple[str, str]:
        """Listens, and for probes alone at `health`, if that is not empty. Returns both addresses as bound, since port 0 leaves
        the port to the system. Raises OSError if an address cannot be had, or for files of TLS that are wrong."""
        servers = [self._front()]
        listen = _bind(servers[0], "listen", listen, server_credentials(self._settings))
        if health:
            servers.append(self._probes())
            health = _bind(servers[1], "health", health)
        self.health.starting()
        self._watching = asyncio.create_task(Connections(most_connections(self._settings)).watch())
        for server in servers:
            await server.start()
            self._servers.append(server)
        return listen, health

    def _front(self) -> Server:
        """Serves everything."""
        server = Server(server_options(self._settings, shared=self._shared), _most_open(self._settings))
        self._boundary = boundary = Boundary(server, _services(self._settings), self._authentication, self._on_call)
        inference = InferenceService(self._models, self.streams, self._quotas, self._settings)
        inference_pb2_grpc.add_InferenceServiceServicer_to_server(inference, boundary)
        session_pb2_grpc.add_SessionServiceServicer_to_server(
            SessionService(self._models, self.openings, self._settings), boundary
        )
        model_pb2_grpc.add_ModelServiceServicer_to_server(ModelService(self._models), boundary)
        catalogue = Catalogue(self._models, self.health, self._version)
        oip.register(boundary, oip.InferenceCalls(self._models, self.streams, self._quotas, self._settings), catalogue)
        health_pb2_grpc.add_HealthServicer_to_server(self.health, boundary)  # type: ignore[arg-type]  # stands for a server
        # Without the Open Inference Protocol: no file declares its service, and tools stumble over what they cannot look up.
        told = reflection.Reflection([*SERVICES, _HEALTH])
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(told, boundary)  # type: ignore[no-untyped-call]
        return server

    def _probes(self) -> Server:
        """Serves the health alone, by connections of its own: gRPC counts them for each listener."""
        settings = self._settings.model_copy(update={"max_message_bytes": _PROBE_BYTES})
        options = server_options(settings, connections=PROBE_CONNECTIONS, shared=self._shared)
        server = Server(options, lambda method: _ROOM_FOR_PROBES)
        boundary = Boundary(server, _services(settings), self._authentication, self._on_call)
        health_pb2_grpc.add_HealthServicer_to_server(self.health, boundary)  # type: ignore[arg-type]  # stands for a server
        return server

    def take_access(self, access: Access) -> None:
        """From now on this tells who may call, and what they may have of this door."""
        self._authentication.replace(access)
        self._quotas.replace(access)

    async def drain(self, seconds: float, *, resume: bool = False) -> bool:
        """Stops without losing what was accepted: not ready, no new sessions, every stream told, steps finished, streams ended,
        calls answered.

        Between the last step and the streams' end clients may move their sessions: it waits while any stream of any front door
        holds some. resume: durable ones will be found again, and need not be moved. Returns whether everything was finished and
        every stream has ended so, within so many seconds; sessions that are held to the last do not count.
        """
        until = time.monotonic() + seconds
        self.health.draining()
        self.streams.drain(seconds, resume=resume)
        finished = await self._engines_answer(Drain, until)
        await self._engines_answer(partial(Drain, until_let_go=True), until)
        ended = await self.streams.finish(max(until - time.monotonic(), _LEAST_SECONDS))
        answered = await self._boundary.answered(max(until - time.monotonic(), _LEAST_SECONDS))
        return finished and ended and answered

    async def _engines_answer(self, command: Callable[[int], Command], until: float) -> bool:
        """Asks all engines. Returns whether all have answered, or crashed, by then (monotonic seconds)."""
        asked = [asyncio.create_task(engine.ask(command)) for engine in self._models.all()] if self._models.published else []
        late = (await asyncio.wait(asked, timeout=until - time.monotonic()))[1] if asked else set()
        for each in late:
            each.cancel()
        await asyncio.gather(*asked, return_exceptions=True)  # an engine that has crashed is reported elsewhere
        return not late

    async def stop(self, grace_seconds: float) -> None:
        """Takes no more calls, and gives those that are open so long to end."""
        if self._watching is not None:
            self._watching.cancel()
        await asyncio.gather(*(server.stop(grace_seconds) for server in self._servers))


def _bind(server: Server, setting: str, address: str, credentials: grpc.ServerCredentials | None = None) -> str:
    """Returns the address as bound. Raises OSError if it cannot be had."""
    try:
        port = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
    except RuntimeError as error:
        raise cannot_listen(setting, address, error) from error
    return bound_address(address, port)


def _services(settings: DoorSettings) -> dict[str, Service]:
    """Every service, by its name on the wire. Health is answered at once, and however busy the others are."""
    limit, none = Limit(settings.max_calls, "calls"), Limit(math.inf, "calls")
    arrivals, probes = Arrivals(_most_arriving(settings)), Arrivals(_PROBES_ARRIVING)
    ours = dict.fromkeys(SERVICES, Service(_as_it_is, limit, arrivals))
    return {
        **ours,
        oip.NAME: Service(translate, limit, arrivals),
        _HEALTH: Service(_as_it_is, none, probes, open=True),
        reflection.NAME: Service(_as_it_is, none, arrivals),
    }


def _most_open(settings: DoorSettings) -> Callable[[str], int]:
    """How many calls of all methods may be open, by the method of another one: as many as their own limits let in, which apply
    once their requests have come, and some more for probes."""
    most = 2 * settings.max_streams + settings.max_calls + reflection.MOST  # as many watches of the health as streams
    return lambda method: most + _ROOM_FOR_PROBES * method.startswith(f"/{_HEALTH}/")


def _most_arriving(settings: DoorSettings) -> int:
    """How many requests may be on their way at once: they may take as much memory as answers that wait to be read."""
    return max(1, settings.max_unread_bytes // settings.max_message_bytes)


def _as_it_is(error: StepStreamError) -> StepStreamError:
    return error


def server_options(settings: DoorSettings, *, connections: int = 0, shared: bool = False) -> list[tuple[str, int]]:
    """gRPC channel arguments of a server; benchmarks give the echo the same. connections: at most so many; 0 for as many as the
    settings make of it. shared: whether others listen on its port."""
    pending = max(1000, settings.max_streams)
    return [
        ("grpc.so_reuseport", int(shared)),  # on by default: a second server would silently share the port
        ("grpc.max_allowed_incoming_connections", connections or most_connections(settings)),
        ("grpc.server_handshake_timeout_ms", _ms(settings.silent_connection_seconds)),
        ("grpc.http2.settings_timeout", _ms(settings.silent_connection_seconds)),  # for ours to be acknowledged
        ("grpc.max_concurrent_streams", settings.max_concurrent_streams),
        # As many clients as there may be come back at once after a restart: beyond 1,000 calls that nobody has taken yet gRPC
        # refuses some, beyond 3,000 all, without telling a reason. Each takes some 10 KB, also when its client has reset it.
        ("grpc.server.max_pending_requests", pending),
        ("grpc.server.max_pending_requests_hard_limit", pending + pending // 10),
        ("grpc.max_receive_message_length", settings.max_message_bytes),
        ("grpc.max_send_message_length", settings.max_message_bytes),
        ("grpc.keepalive_time_ms", _ms(settings.keepalive_seconds)),
        ("grpc.keepalive_timeout_ms", _ms(settings.keepalive_timeout_seconds)),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", _ms(settings.min_client_ping_seconds)),
        ("grpc.http2.max_ping_strikes", 3),  # pings too close together before a client is cut off: timers jitter
    ]


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
