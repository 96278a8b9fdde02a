"""Principals that prove themselves by the certificate of their connection, over TLS."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest

from stepstream_proto.v1 import session_pb2, session_pb2_grpc
from stepstream_server.access import Access, hash_token, make_token
from stepstream_server.config import DoorSettings
from support.certificates import OPENSSL, Authority, Files
from support.front_door import FrontDoor, front_door
from support.tenants import bearer

pytestmark = pytest.mark.skipif(OPENSSL is None, reason="needs the openssl command: scripts/apt-packages installs it")

TOKEN = make_token()
ACCESS = Access.model_validate(
    {
        "tenants": {
            "acme": {"certificates": [{"subject": "gateway"}, {"san": "spiffe://acme/edge"}]},
            "beta": {"certificates": [{"san": "10.0.0.7"}], "tokens": [{"sha256": hash_token(TOKEN)}]},
        }
    }
)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """Who vouches for the server and its clients."""
    return Authority(tmp_path)


@pytest.fixture
def settings(authority: Authority) -> DoorSettings:
    """A front door that asks its clients for certificates of the authority."""
    server = authority.issue("server")
    files = {"tls_cert": str(server.chain_file), "tls_key": str(server.key_file), "tls_client_ca": str(authority.chain_file)}
    return DoorSettings.model_validate(files)


async def listed(front: FrontDoor, authority: Authority, shown: Files, token: str = "") -> list[str] | str:
    """The ids that whoever shows this certificate, and this token, sees; or why it sees none."""
    credentials = grpc.ssl_channel_credentials(authority.chain, shown.key, shown.chain)
    async with grpc.aio.secure_channel(front.address, credentials) as channel:
        sessions = session_pb2_grpc.SessionServiceStub(channel)
        try:
            found = await sessions.ListSessions(session_pb2.ListSessionsRequest(), metadata=bearer(token) if token else None)
        except grpc.aio.AioRpcError as error:
            return error.code().name
        return [each.id for each in found.sessions]


async def opens(front: FrontDoor, authority: Authority, shown: Files, id: str) -> None:
    """Whoever shows this certificate opens a session."""
    credentials = grpc.ssl_channel_credentials(authority.chain, shown.key, shown.chain)
    async with grpc.aio.secure_channel(front.address, credentials) as channel:
        await session_pb2_grpc.SessionServiceStub(channel).OpenSession(session_pb2.OpenSessionRequest(model="counter", id=id))


async def test_a_certificate_shows_whose_a_call_is(authority: Authority, settings: DoorSettings) -> None:
    """By its common name or by any of its other names; a token, where one is shown, counts more."""
    gateway = authority.issue("gateway")
    edge = authority.issue("edge", "DNS:edge.example", "URI:spiffe://acme/edge")
    beta, nobody = authority.issue("beta", "IP:10.0.0.7"), authority.issue("nobody", "DNS:gateway")
    async with front_door(settings=settings, access=ACCESS, trusted=authority.chain) as front:
        await opens(front, authority, gateway, "one")
        await opens(front, authority, beta, "one")
        await opens(front, authority, beta, "two")
        assert await listed(front, authority, edge) == ["one"]
        assert await listed(front, authority, beta) == ["one", "two"]
        assert await listed(front, authority, nobody) == "UNAUTHENTICATED"
        assert await listed(front, authority, gateway, TOKEN) == ["one", "two"]
        assert await listed(front, authority, gateway, make_token()) == "UNAUTHENTICATED"


async def test_a_name_that_is_taken_out_is_refused(authority: Authority, settings: DoorSettings) -> None:
    """Though its authority vouches for it still, and over the connection that it has."""
    gateway = authority.issue("gateway")
    credentials = grpc.ssl_channel_credentials(authority.chain, gateway.key, gateway.chain)
    async with (
        front_door(settings=settings, access=ACCESS, trusted=authority.chain) as front,
        grpc.aio.secure_channel(front.address, credentials) as channel,
    ):
        sessions = session_pb2_grpc.SessionServiceStub(channel)
        await sessions.ListSessions(session_pb2.ListSessionsRequest())
        tenants = {**ACCESS.tenants, "acme": ACCESS.tenants["acme"].model_copy(update={"certificates": ()})}
        front.rpc.take_access(Access(tenants=tenants))
        with pytest.raises(grpc.aio.AioRpcError, match="or a known certificate, got none") as refused:
            await sessions.ListSessions(session_pb2.ListSessionsRequest())
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
