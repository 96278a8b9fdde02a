"""Encrypted connections, with certificates made for the occasion."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import grpc
import pytest

from stepstream import TLS, Client, ClientOptions, Unavailable
from support.certificates import OPENSSL, certificate
from support.servicer import FakeServicer, serving

pytestmark = pytest.mark.skipif(OPENSSL is None, reason="openssl makes the certificates")

IMPATIENT = ClientOptions(call_timeout_seconds=5.0, reconnect_seconds=0.0)


async def test_a_server_is_known_by_its_certificate(tmp_path: Path) -> None:
    """Sessions work over a connection to a server that the roots given vouch for, and to no other."""
    key, chain = certificate(tmp_path, "server")
    _, stranger = certificate(tmp_path, "stranger")
    async with serving(FakeServicer(), grpc.ssl_server_credentials([(key, chain)])) as address:
        trusting = ClientOptions(tls=TLS(root_certificates=chain))
        async with Client(address, trusting) as client, client.open_session("level") as session:
            assert (await session.step(1.0))["count"][0] == 1
        for tls in (TLS(root_certificates=stranger), TLS(), None):
            async with Client(address, replace(IMPATIENT, tls=tls)) as client:
                with pytest.raises(Unavailable):
                    await client.models()
                with pytest.raises(Unavailable):
                    await client.open_session("level")


async def test_a_client_shows_its_own_certificate(tmp_path: Path) -> None:
    """A server that asks for one lets in those who have it, and nobody else."""
    key, chain = certificate(tmp_path, "server")
    own_key, own_chain = certificate(tmp_path, "client")
    asking = grpc.ssl_server_credentials([(key, chain)], root_certificates=own_chain, require_client_auth=True)
    async with serving(FakeServicer(), asking) as address:
        tls = TLS(root_certificates=chain, private_key=own_key, certificate_chain=own_chain)
        async with Client(address, ClientOptions(tls=tls)) as client:
            assert len(await client.models()) == 3
        async with Client(address, replace(IMPATIENT, tls=TLS(root_certificates=chain))) as client:
            with pytest.raises(Unavailable):
                await client.models()
