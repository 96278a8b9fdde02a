"""What every command takes: where the server is, how to speak to it, how to print. Flags stand before the command or after it."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import typer

from stepstream import TLS, Client, ClientOptions
from stepstream.cli.faults import Misuse

SERVER_VARIABLE = "STEPSTREAM_SERVER"
DEFAULT_SERVER = "127.0.0.1:8101"  # where `stepstream-server serve` listens unless told otherwise


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The values of those flags. Raises Misuse for a server that is no address."""

    server: str = DEFAULT_SERVER
    json: bool = False
    tls: bool = False
    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[^/]+:\d+|(unix|dns):.+", self.server):
            raise Misuse(f"--server: expected HOST:PORT, got {self.server!r}")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise Misuse("--tls-cert and --tls-key: expected both or neither, got one")

    @classmethod
    def merged(cls, before: Mapping[str, Any], after: Mapping[str, Any]) -> Self:
        """From the flags before and after a command, of which the latter count, else from the environment."""
        given = {name: value for name, value in (*before.items(), *after.items()) if value is not None}
        if server := os.environ.get(SERVER_VARIABLE):
            given.setdefault("server", server)
        return cls(**given)

    def client(self, reconnect_seconds: float = 0.0) -> Client:
        """A client of the server, to be entered. People at a shell would rather know at once than wait for a server that is
        not there; only what is under way is worth waiting for, `reconnect_seconds` long."""
        return Client(self.server, ClientOptions(tls=self._tls(), reconnect_seconds=reconnect_seconds))

    def _tls(self) -> TLS | None:
        if not (self.tls or self.tls_ca or self.tls_cert):
            return None
        roots, key, chain = (_bytes_of(each) for each in (self.tls_ca, self.tls_key, self.tls_cert))
        return TLS(root_certificates=roots, private_key=key, certificate_chain=chain)


def _bytes_of(path: Path | None) -> bytes | None:
    return None if path is None else path.read_bytes()


def parameters() -> list[inspect.Parameter]:
    """The flags, as typer reads them from a command's signature. None: not given here."""
    file: dict[str, Any] = {"metavar": "FILE", "exists": True, "dir_okay": False, "readable": True}
    where = f"Where it is served. [environment: {SERVER_VARIABLE}; default: {DEFAULT_SERVER}]"
    flags: dict[str, tuple[Any, Any]] = {
        "server": (str, typer.Option(None, "--server", metavar="HOST:PORT", help=where)),
        "json": (bool, typer.Option(None, "--json", help="Print JSON, also what goes wrong.")),
        "tls": (bool, typer.Option(None, "--tls", help="Encrypt, trusting the usual authorities.")),
        "tls_ca": (Path, typer.Option(None, "--tls-ca", help="Encrypt, trusting these authorities (PEM).", **file)),
        "tls_cert": (Path, typer.Option(None, "--tls-cert", help="Certificate of yours, if the server wants one (PEM).", **file)),
        "tls_key": (Path, typer.Option(None, "--tls-key", help="Its key (PEM).", **file)),
    }
    return [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=kind | None, default=option)
        for name, (kind, option) in flags.items()
    ]
