"""TLS as its users have it: whole servers with certificates in files, the Python client, the command, and probes."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import grpc
import numpy as np
import pytest

from stepstream import TLS, Client, ClientOptions, Unavailable
from support.certificates import OPENSSL, Authority, Files, shown
from support.command import stepstream
from support.health import SERVING, health
from support.process import FLAGS, launch, server_process
from support.workers import PATIENCE, working_server

pytestmark = pytest.mark.skipif(OPENSSL is None, reason="openssl makes the certificates")

HASTY = ClientOptions(call_timeout_seconds=5.0, reconnect_seconds=0.0)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """Who vouches for servers and clients of these tests."""
    return Authority(tmp_path)


def flags(files: Files, client_ca: Path | None = None) -> list[str]:
    """A server with these files, and with an address for probes."""
    asked = [] if client_ca is None else ["--door.tls_client_ca", str(client_ca)]
    tls = ["--door.tls_cert", str(files.chain_file), "--door.tls_key", str(files.key_file), *asked]
    return ["--health", "127.0.0.1:0", "--log.format", "json", *tls]


async def steps_by(client: Client, numbers: np.ndarray) -> list[float]:
    """Answers of a new session of a new connection, number by number."""
    async with client, client.open_session("small") as session:
        return [float((await session.step(each))["output"][0]) for each in numbers]


async def test_certificates_are_replaced_under_workers(models: Path, authority: Authority) -> None:
    """Five times, while a session is stepped: its answers are those of one that nobody disturbed. Of many new connections, which
    come to either worker, each is shown the new certificate and served; so is one of a worker that was started later."""
    files, options = authority.issue("first"), ClientOptions(tls=TLS(root_certificates=authority.chain))
    numbers = np.random.default_rng(19).standard_normal((60, 2)).astype(np.float32)
    async with working_server(models, 2, *flags(files)) as server:
        address = server.server.listen
        expected = await steps_by(Client(address, options), numbers)
        async with Client(address, options) as client, client.open_session("small") as session:
            answers = []
            for number, some in enumerate(np.split(numbers, 6)[:5]):
                files.replace(authority.issue(f"next-{number}"))
                seen = asyncio.gather(*(shown(address, authority) for _ in range(16)))
                answers += [float((await session.step(each))["output"][0]) for each in some]
                assert set(await seen) == {f"next-{number}"}
                assert await steps_by(Client(address, options), numbers[:5]) == expected[:5]
            await server.kill(server.workers()[0])
            assert {await shown(address, authority) for _ in range(16)} == {"next-4"}
            answers += [float((await session.step(each))["output"][0]) for each in numbers[50:]]
            assert answers == expected
            assert session.next_seq == len(numbers)


@pytest.mark.parametrize("way", ["on the loop", "2 workers"])
async def test_wrong_files_end_the_start(models: Path, authority: Authority, way: str) -> None:
    """With one line that names setting and file."""
    files = authority.issue("server")
    files.key_file.write_bytes(authority.issue("another").key)
    process = await launch(models, *FLAGS[way], *flags(files))
    stdout, stderr = await process.communicate()
    told = f"door.tls_key: expected the unencrypted key (PEM) of the certificate in {files.chain_file}, got {files.key_file}"
    assert (process.returncode, stdout) == (1, b"")
    assert stderr.decode().splitlines()[-1].startswith(told)


@pytest.mark.parametrize("way", ["on the loop", "2 workers"])
async def test_clients_and_the_command_show_their_certificates(models: Path, authority: Authority, way: str) -> None:
    """They are served as over plaintext; without a certificate, or without TLS, the error says that no connection was made, and
    no line of the server's log is about them. Probes speak plaintext at their own address."""
    own = authority.issue("gateway")
    tls = TLS(root_certificates=authority.chain, private_key=own.key, certificate_chain=own.chain)
    async with server_process(models, *FLAGS[way], *flags(authority.issue("server"), authority.chain_file)) as server:
        assert len(await steps_by(Client(server.listen, ClientOptions(tls=tls)), np.zeros((3, 2), np.float32))) == 3
        for each in (replace(HASTY, tls=TLS(root_certificates=authority.chain)), HASTY):
            async with Client(server.listen, each) as client:
                with pytest.raises(Unavailable):
                    await client.models()
        trusted = ["--tls-ca", str(authority.chain_file)]
        shows = ["--tls-cert", str(own.chain_file), "--tls-key", str(own.key_file)]
        served = await stepstream(server.listen, "models", *trusted, *shows)
        assert (served.code, served.stderr) == (0, "")
        assert "small" in served.stdout
        for given in (trusted, []):
            told = await stepstream(server.listen, "models", *given)
            assert (told.code, told.stdout) == (3, "")
            assert "--tls and --tls-ca that it speaks TLS" in told.stderr
        async with grpc.aio.insecure_channel(server.health) as channel, asyncio.timeout(PATIENCE):
            assert await health(channel, "readiness") == SERVING
        server.process.terminate()
        code, log = await server.ended()
        assert code == 0
        assert [json.loads(line)["event"] for line in log.splitlines()] == ["model_warm", "listening", "draining", "drained"]


async def test_probes_find_every_worker(models: Path) -> None:
    """Workers share the address for probes as they share the other; one that was replaced listens there again."""
    async with working_server(models, 2, "--health", "127.0.0.1:0") as server, asyncio.timeout(PATIENCE):
        port = int(server.server.health.rpartition(":")[2])
        for _ in range(2):
            found: set[int] = set()
            while len(found) < 2:
                async with grpc.aio.insecure_channel(server.server.health, [("grpc.use_local_subchannel_pool", 1)]) as channel:
                    assert await health(channel, "liveness") == SERVING
                    found |= {worker.pid for worker in server.workers() if worker.connections(port)}
            await server.kill(server.workers()[0])
