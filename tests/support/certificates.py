"""Authorities and certificates of servers and clients, made for the occasion."""

from __future__ import annotations

import asyncio
import shutil
import ssl
from dataclasses import dataclass
from pathlib import Path

from benchmarks.certificates import make_certificate
from stepstream_server.config import split_address
from support.workers import PATIENCE

OPENSSL = shutil.which("openssl")

SERVER = "IP:127.0.0.1"  # the name that a server of tests is known by


@dataclass(frozen=True)
class Files:
    """A private key and its chain of certificates, in PEM, each in a file."""

    key_file: Path
    chain_file: Path

    @property
    def key(self) -> bytes:
        return self.key_file.read_bytes()

    @property
    def chain(self) -> bytes:
        return self.chain_file.read_bytes()

    def replace(self, by: Files) -> None:
        """Has these files hold another key and chain. Nobody finds half of a file, but somebody may find one file replaced
        and the other not yet."""
        for old, new in ((self.chain_file, by.chain_file), (self.key_file, by.key_file)):
            shutil.copy(new, coming := old.with_suffix(".coming"))
            coming.rename(old)


class Authority:
    """Vouches for others. Its certificate is `chain_file`."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        self._folder = folder
        self._own = _make(folder, name)
        self.chain_file = self._own.chain_file
        self.chain = self._own.chain

    def issue(self, name: str, *names: str) -> Files:
        """A certificate whose common name is `name`, with further names as openssl writes them: `DNS:gateway.example`,
        `IP:10.0.0.1`, `URI:spiffe://...`; with none of them it is one of 127.0.0.1. The file names begin with `name`."""
        vouched = ["-CA", str(self._own.chain_file), "-CAkey", str(self._own.key_file)]
        leaf = ["-addext", "basicConstraints=critical,CA:FALSE", "-addext", f"subjectAltName={','.join(names or (SERVER,))}"]
        return _make(self._folder, name, *vouched, *leaf)

    def context(self, own: Files | None = None) -> ssl.SSLContext:
        """Has Python speak TLS and HTTP/2 to servers of this authority. own: shown to those that ask for it."""
        context = ssl.create_default_context(cafile=self.chain_file)
        if own is not None:
            context.load_cert_chain(own.chain_file, own.key_file)
        context.set_alpn_protocols(["h2"])
        return context


async def shown(address: str, authority: Authority, own: Files | None = None) -> str:
    """The common name of the certificate that a new connection is shown, which has one of its own; it must be one of this
    authority."""
    async with asyncio.timeout(PATIENCE):
        _, writer = await asyncio.open_connection(*split_address(address), ssl=authority.context(own))
    certificate = writer.get_extra_info("peercert")
    writer.transport.abort()
    return str(dict(each[0] for each in certificate["subject"])["commonName"])


def certificate(folder: Path, name: str) -> tuple[bytes, bytes]:
    """A new key and a certificate that it vouches for itself, of a server at 127.0.0.1 or of a client."""
    made = _make(folder, name, "-addext", f"subjectAltName={SERVER}")
    return made.key, made.chain


def _make(folder: Path, name: str, *options: str) -> Files:
    return Files(*make_certificate(folder, name, *options))
