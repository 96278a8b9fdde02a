"""Encrypted connections of the command, with certificates made for the occasion."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest

from support.certificates import OPENSSL, certificate
from support.command import stepstream
from support.servicer import FakeServicer, serving

pytestmark = pytest.mark.skipif(OPENSSL is None, reason="openssl makes the certificates")


async def test_flags_say_whom_to_trust_and_who_asks(tmp_path: Path) -> None:
    """With the right authorities and the client's own certificate all is well; without either there is no connection."""
    key, chain = certificate(tmp_path, "server")
    _, own_chain = certificate(tmp_path, "client")
    trusted, own = ("--tls-ca", str(tmp_path / "server.pem")), ("--tls-cert", str(tmp_path / "client.pem"))
    asking = grpc.ssl_server_credentials([(key, chain)], root_certificates=own_chain, require_client_auth=True)
    async with serving(FakeServicer(), asking) as address:
        full = await stepstream(address, *trusted, *own, "models", "--tls-key", str(tmp_path / "client.key"))
        assert full.code == 0, full.stderr
        assert "level" in full.stdout
        for flags in (trusted, ("--tls",), ()):
            refused = await stepstream(address, "models", *flags)
            assert (refused.code, refused.stdout) == (3, "")


async def test_a_key_without_its_certificate_is_wrong_usage(tmp_path: Path) -> None:
    """Told before a connection is tried."""
    certificate(tmp_path, "client")
    told = await stepstream("", "models", "--tls-key", str(tmp_path / "client.key"))
    assert (told.code, told.stderr) == (2, "stepstream: --tls-cert and --tls-key: expected both or neither, got one\n")
