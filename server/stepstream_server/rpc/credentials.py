"""TLS: the server's certificate and key, and the authority of its clients, read anew when their files change.

gRPC asks before the handshake of each new connection, by a thread of its own, one at a time. What was right before stays in use
while the files are wrong, or half replaced; connections that there are go on with what they began with.

Clients whose certificate their authority has revoked still get a connection: no list of such certificates is read. Who is to
stay out must be taken out of the file of tenants.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import grpc
import structlog

from stepstream_server.config import DoorSettings
from stepstream_server.files import Stamp, stamp

log = structlog.get_logger(__name__)


def server_credentials(settings: DoorSettings) -> grpc.ServerCredentials | None:
    """Makes what to listen with; None for plaintext. Raises OSError that names the setting whose file is wrong."""
    return Certificates(settings).credentials() if settings.tls_cert else None


class Certificates:
    """The files that the settings name, and which of their contents were read last."""

    def __init__(self, settings: DoorSettings) -> None:
        paths = {name: getattr(settings, name) for name in ("tls_cert", "tls_key", "tls_client_ca")}
        self._paths = {name: Path(path) for name, path in paths.items() if path}
        self._seen: list[Stamp] = []

    def credentials(self) -> grpc.ServerCredentials:
        """Begins with what the files hold now. With an authority of clients each of them must show a certificate of it. Raises
        OSError."""
        changed: Any = self.changed  # whose type knows no None
        return grpc.dynamic_ssl_server_credentials(self._read(), changed, "tls_client_ca" in self._paths)

    def changed(self) -> grpc.ServerCertificateConfiguration | None:
        """Tells what new connections get from now on; None if that is as it was, or is wrong, which the log then tells once."""
        if self._look() == self._seen:
            return None
        try:
            configuration = self._read()
        except OSError as error:
            log.error("certificate_kept", error=str(error))
            return None
        log.info("certificate_taken", **{name: str(path) for name, path in self._paths.items()})
        return configuration

    def _read(self) -> grpc.ServerCertificateConfiguration:
        """Reads what the files hold, all at one moment. Raises OSError if it is wrong."""
        while True:
            found, problem = self._look(), None
            try:
                configuration = self._checked()
            except OSError as error:
                problem = error
            if self._look() == found:
                break
        self._seen = found
        if problem is not None:
            raise problem
        return configuration

    def _look(self) -> list[Stamp]:
        return [stamp(path) for path in self._paths.values()]

    def _checked(self) -> grpc.ServerCertificateConfiguration:
        contents = {name: _contents(name, path) for name, path in self._paths.items()}
        for name in contents.keys() - {"tls_key"}:
            _check_certificates(name, self._paths[name], contents[name])
        _check_pair(self._paths["tls_cert"], self._paths["tls_key"])
        pair = contents["tls_key"], contents["tls_cert"]
        return grpc.ssl_server_certificate_configuration([pair], contents.get("tls_client_ca"))


def _contents(name: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise OSError(f"door.{name}: cannot read {path}: {error.strerror}") from None


def _check_certificates(name: str, path: Path, contents: bytes) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(cadata=contents.decode("ascii", "ignore"))
    except (ssl.SSLError, ValueError):  # ValueError: of an empty file
        raise OSError(f"door.{name}: expected certificates in PEM, got {path}, which has none that can be read") from None


def _check_pair(chain: Path, key: Path) -> None:
    """Without a password: a key that wants one would be asked for at the terminal."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(chain, key, password="")
    except ssl.SSLError as error:
        told = f"{key}; {error.reason}" if error.reason else str(key)
        raise OSError(f"door.tls_key: expected the unencrypted key (PEM) of the certificate in {chain}, got {told}") from None
