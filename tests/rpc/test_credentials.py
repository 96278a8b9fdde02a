"""TLS at the front door: who is let in, which files are taken, and what happens when they are replaced."""

from __future__ import annotations

import asyncio
import itertools
import re
import socket
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from structlog.testing import capture_logs

from stepstream_proto.v1.model_pb2 import ListModelsRequest
from stepstream_proto.v1.model_pb2_grpc import ModelServiceStub
from stepstream_server.config import DoorSettings, split_address
from stepstream_server.rpc.credentials import Certificates
from support.certificates import OPENSSL, Authority, Files, shown
from support.front_door import CountingStream, front_door
from support.health import SERVING, health
from support.hostile.frames import hello
from support.workers import PATIENCE

pytestmark = pytest.mark.skipif(OPENSSL is None, reason="openssl makes the certificates")


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """Who vouches for the servers of these tests."""
    return Authority(tmp_path)


def settings(files: Files, client_ca: Path | str = "", **others: float) -> DoorSettings:
    """A front door with these files."""
    tls = {"tls_cert": str(files.chain_file), "tls_key": str(files.key_file), "tls_client_ca": str(client_ca)}
    return DoorSettings.model_validate({**tls, **others})


async def lists(address: str, credentials: grpc.ChannelCredentials) -> bool:
    """Tells whether a new connection with these credentials is served; False if it is not made."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.secure_channel(address, credentials, options) as channel:
        try:
            await ModelServiceStub(channel).ListModels(ListModelsRequest())
        except grpc.aio.AioRpcError as error:
            assert error.code() is grpc.StatusCode.UNAVAILABLE
            return False
        return True


async def test_a_certificate_that_was_replaced_is_shown_to_new_connections(tmp_path: Path, authority: Authority) -> None:
    """Five times, while a stream goes on whose connection began with the first: each of its steps is answered once."""
    files = authority.issue("first")
    async with front_door(settings=settings(files), trusted=authority.chain) as front, CountingStream(front.channel) as stream:
        await stream.open("counter", [0])
        total = 0.0
        for number in range(5):
            files.replace(authority.issue(f"next-{number}"))
            assert await shown(front.address, authority) == f"next-{number}"
            await stream.step([0], [number], [1.0])
            total += 1.0
            assert await stream.sums(1) == {(0, number): total}
            assert await lists(front.address, grpc.ssl_channel_credentials(authority.chain))


async def test_connections_are_made_while_the_event_loop_is_busy_and_files_change(tmp_path: Path, authority: Authority) -> None:
    """Files are read by gRPC's threads, which wait for the interpreter and not for the event loop: nobody waits for ever."""
    files = authority.issue("first")
    others = itertools.cycle([authority.issue(f"other-{number}") for number in range(2)])
    async with front_door(settings=settings(files), trusted=authority.chain) as front:
        for _ in range(10):
            connecting = [lists(front.address, grpc.ssl_channel_credentials(authority.chain)) for _ in range(10)]
            waiting = asyncio.gather(*connecting)
            while not waiting.done():
                files.replace(next(others))  # keeps the loop, as long as it takes
                await asyncio.sleep(0)
            assert all(waiting.result())


def by_link(folder: Path, files: Files) -> None:
    """Replaces both files at once, as Kubernetes does it: `folder/now` leads to a folder of both."""
    version = folder / f"version-{files.chain_file.stem}"
    version.mkdir()
    (version / "tls.crt").write_bytes(files.chain)
    (version / "tls.key").write_bytes(files.key)
    (coming := folder / "coming").symlink_to(version)
    coming.rename(folder / "now")


def test_a_link_that_leads_elsewhere_is_a_change(tmp_path: Path, authority: Authority) -> None:
    """Files of a Secret are links into a folder that is a link itself."""
    by_link(tmp_path, authority.issue("a"))
    certificates = Certificates(settings(Files(tmp_path / "now/tls.key", tmp_path / "now/tls.crt")))
    certificates.credentials()
    assert certificates.changed() is None
    by_link(tmp_path, authority.issue("b"))
    with capture_logs() as events:
        assert certificates.changed() is not None
        assert certificates.changed() is None
    paths = {"tls_cert": str(tmp_path / "now/tls.crt"), "tls_key": str(tmp_path / "now/tls.key")}
    assert events == [{"event": "certificate_taken", "log_level": "info", **paths}]


def _encrypted(files: Files) -> None:
    command = ["openssl", "ec", "-in", str(files.key_file), "-out", str(files.key_file), "-aes256", "-passout", "pass:x"]
    subprocess.run(command, check=True, capture_output=True)


SPOILT: dict[str, tuple[Callable[[Files, Authority], object], str]] = {
    "no certificate": (lambda files, _: files.chain_file.unlink(), "door.tls_cert: cannot read .*x.pem: No such file"),
    "no key": (lambda files, _: files.key_file.unlink(), "door.tls_key: cannot read .*x.key: No such file"),
    "an empty certificate": (lambda files, _: files.chain_file.write_bytes(b""), "door.tls_cert: expected certificates in PEM"),
    "no PEM": (lambda files, _: files.chain_file.write_bytes(b"\xff" * 100), "door.tls_cert: expected certificates in PEM"),
    "half a certificate": (
        lambda files, _: files.chain_file.write_bytes(files.chain[:300]),
        "door.tls_cert: expected certificates in PEM, got .*x.pem, which has none that can be read",
    ),
    "half a key": (lambda files, _: files.key_file.write_bytes(files.key[:90]), "door.tls_key: expected the unencrypted key"),
    "an encrypted key": (lambda files, _: _encrypted(files), "door.tls_key: expected the unencrypted key .*got .*x.key"),
    "another's key": (
        lambda files, authority: files.key_file.write_bytes(authority.issue("y").key),
        r"door.tls_key: expected the unencrypted key \(PEM\) of the certificate in .*x.pem, got .*x.key; KEY_VALUES_MISMATCH",
    ),
    "no authority": (
        lambda files, _: (files.chain_file.parent / "authority.pem").write_text("nobody"),
        "door.tls_client_ca: expected certificates in PEM, got .*authority.pem",
    ),
}


@pytest.mark.parametrize(("spoil", "told"), SPOILT.values(), ids=SPOILT)
def test_wrong_files_keep_the_server_from_starting(
    authority: Authority, spoil: Callable[[Files, Authority], object], told: str
) -> None:
    """The error names the setting and the file."""
    spoil(files := authority.issue("x"), authority)
    with pytest.raises(OSError, match=f"^{told}"):
        Certificates(settings(files, authority.chain_file)).credentials()


@pytest.mark.parametrize(("spoil", "told"), SPOILT.values(), ids=SPOILT)
async def test_wrong_files_leave_the_former_in_use(
    authority: Authority, spoil: Callable[[Files, Authority], object], told: str
) -> None:
    """The log tells it once for each change, with nothing of the contents; once they are right they are taken."""
    files, own = authority.issue("x"), authority.issue("client")
    credentials = grpc.ssl_channel_credentials(authority.chain, own.key, own.chain)
    async with front_door(settings=settings(files, authority.chain_file)) as front:
        with capture_logs() as events:
            spoil(files, authority)
            for _ in range(3):
                assert await lists(front.address, credentials)
        (event,) = events
        assert (event["event"], event["log_level"]) == ("certificate_kept", "error")
        assert re.match(told, event["error"])
        authority.chain_file.write_bytes(authority.chain)
        with capture_logs() as events:
            files.replace(authority.issue("z"))
            assert await lists(front.address, credentials)
        assert [each["event"] for each in events] == ["certificate_taken"]


async def test_an_authority_of_clients_is_replaced_too(tmp_path: Path, authority: Authority) -> None:
    """From then on new connections are those of its clients alone."""
    (later := tmp_path / "later").mkdir()
    trusted, old, new = tmp_path / "trusted.pem", authority.issue("client"), (successor := Authority(later)).issue("client")
    trusted.write_bytes(authority.chain)
    clients = [grpc.ssl_channel_credentials(authority.chain, each.key, each.chain) for each in (old, new)]
    async with front_door(settings=settings(authority.issue("server"), trusted)) as front:
        assert [await lists(front.address, each) for each in clients] == [True, False]
        trusted.write_bytes(successor.chain)
        assert [await lists(front.address, each) for each in clients] == [False, True]


def resumed(address: str, context: ssl.SSLContext, session: ssl.SSLSession | None) -> ssl.SSLSession | None:
    """Connects with an earlier connection's session, if there is one; returns this one's, or None if it is not let in."""
    with socket.create_connection(split_address(address), PATIENCE) as plain:
        try:
            with context.wrap_socket(plain, server_hostname="127.0.0.1", session=session) as connection:
                connection.sendall(hello())
                served = connection.recv(9)  # the server's settings
                assert not served or bool(connection.session_reused) == (session is not None)
                return connection.session if served else None
        except OSError:
            return None


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_session_of_before_is_no_way_in(tmp_path: Path, authority: Authority, version: ssl.TLSVersion) -> None:
    """A client may take up the session of an earlier connection (RFC 8446, 2.2), unless it began under another authority."""
    (later := tmp_path / "later").mkdir()
    trusted, own, context = tmp_path / "trusted.pem", authority.issue("client"), authority.context()
    trusted.write_bytes(authority.chain)
    context.load_cert_chain(own.chain_file, own.key_file)
    context.minimum_version = context.maximum_version = version
    async with front_door(settings=settings(authority.issue("server"), trusted)) as front:
        first = await asyncio.to_thread(resumed, front.address, context, None)
        assert await asyncio.to_thread(resumed, front.address, context, first)
        trusted.write_bytes(Authority(later).chain)
        assert await asyncio.to_thread(resumed, front.address, context, first) is None


async def test_clients_show_certificates_where_they_must(tmp_path: Path, authority: Authority) -> None:
    """One of the authority's is let in, others and those without are not; without an authority nobody is asked."""
    (strange := tmp_path / "strange").mkdir()
    own, stranger, nobody = authority.issue("gateway"), Authority(strange).issue("stranger"), None
    files = authority.issue("server")
    for client_ca, let_in in ((authority.chain_file, [True, False, False]), ("", [True, True, True])):
        async with front_door(settings=settings(files, client_ca)) as front:
            found = []
            for each in (own, stranger, nobody):
                shows = (each.key, each.chain) if each else (None, None)
                found.append(await lists(front.address, grpc.ssl_channel_credentials(authority.chain, *shows)))
            assert found == let_in


@pytest.mark.parametrize(
    ("highest", "agreed"),
    [(ssl.TLSVersion.TLSv1_3, "TLSv1.3"), (ssl.TLSVersion.TLSv1_2, "TLSv1.2"), (ssl.TLSVersion.TLSv1_1, "")],
)
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
async def test_old_versions_of_tls_are_not_spoken(authority: Authority, highest: ssl.TLSVersion, agreed: str) -> None:
    """1.2 and 1.3 are."""
    context = authority.context()
    context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, highest
    context.set_ciphers("ALL:@SECLEVEL=0")
    async with front_door(settings=settings(authority.issue("server"))) as front, asyncio.timeout(PATIENCE):
        try:
            _, writer = await asyncio.open_connection(*split_address(front.address), ssl=context)
        except OSError:
            assert agreed == ""
        else:
            told = writer.get_extra_info("ssl_object")
            assert (told.version(), told.selected_alpn_protocol()) == (agreed, "h2")
            writer.transport.abort()


async def test_who_does_not_ask_for_http2_is_not_served(authority: Authority) -> None:
    """The protocol is agreed on in the handshake (ALPN); without that the connection is closed."""
    context = ssl.create_default_context(cafile=authority.chain_file)
    async with front_door(settings=settings(authority.issue("server"))) as front, asyncio.timeout(PATIENCE):
        reader, writer = await asyncio.open_connection(*split_address(front.address), ssl=context)
        assert await reader.read() == b""
        writer.close()


HELLO_BEGUN = bytes.fromhex("16030100c8010000c40303")  # the head of a ClientHello of 200 bytes


@pytest.mark.parametrize("said", [b"", HELLO_BEGUN, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"])
async def test_a_handshake_that_does_not_end_is_let_go_of(authority: Authority, said: bytes) -> None:
    """Within the time that a silent connection has, or at once."""
    door = settings(authority.issue("server"), silent_connection_seconds=0.1)
    async with front_door(settings=door, trusted=authority.chain) as front:
        reader, writer = await asyncio.open_connection(*split_address(front.address))
        writer.write(said)
        async with asyncio.timeout(PATIENCE):
            await reader.read()
        writer.close()
        await front.catalogue.ListModels(ListModelsRequest())


async def test_who_has_shaken_hands_and_says_nothing_is_let_go_of(authority: Authority) -> None:
    """HTTP/2 is to begin in the same time."""
    door = settings(authority.issue("server"), silent_connection_seconds=0.1)
    async with front_door(settings=door) as front, asyncio.timeout(PATIENCE):
        reader, writer = await asyncio.open_connection(*split_address(front.address), ssl=authority.context())
        await reader.read()
        writer.close()


async def test_probes_speak_plaintext_where_clients_speak_tls(authority: Authority) -> None:
    """At the address that is for them."""
    async with front_door(settings=settings(authority.issue("server")), trusted=authority.chain, probes=True) as front:
        async with grpc.aio.insecure_channel(front.health) as channel:
            assert await health(channel, "readiness") == SERVING
        assert await health(front.channel, "readiness") == SERVING
