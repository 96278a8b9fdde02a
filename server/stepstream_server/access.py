"""Who may call: principals, and the file of tenants that says how they prove themselves.

A principal is a tenant and a role. It proves itself by a bearer token, of which the file holds a hash, or by the certificate of
its connection. How a call carries either is known to `rpc.authentication`; here is no transport.

Tokens are random strings of 256 bits (`make_token`), so that a plain SHA-256 of one cannot be turned back. A token is looked up
by its hash: the time that takes tells nothing of how near a guess is, since hashes of near guesses are not near.
"""

from __future__ import annotations

import enum
import hashlib
import json
import re
import secrets
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from stepstream_server.errors import AccessError
from stepstream_server.files import stamp

_TENANT = re.compile(r"[A-Za-z0-9._-]{1,64}")
_HASH = re.compile(r"[0-9a-f]{64}")
_TOKEN_BYTES = 32


class Role(enum.StrEnum):
    """Says what a principal may do beside using its tenant's sessions."""

    CALLER = "caller"  # nothing
    ADMIN = "admin"  # sees the statistics of all tenants, and where states lie


@dataclass(frozen=True, slots=True)
class Principal:
    """Who calls."""

    tenant: str  # empty without authentication
    role: Role
    shared: bool  # whether whoever knows the id of a session of the tenant may copy it without its secret
    name: str = ""  # for people
    proof: str = ""  # which entry of the file it is; no secret


ANONYMOUS = Principal(tenant="", role=Role.ADMIN, shared=True)
"""Everybody, where nobody has to prove anything."""


def _checked_hash(text: str) -> str:
    if not _HASH.fullmatch(text):
        raise ValueError("expected the SHA-256 of a token as 64 hexadecimal digits, as `stepstream-server token` prints it")
    return text


class _Entry(BaseModel):
    """A table of the file, which knows no other keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True)


class _Proof(_Entry):
    """How a principal of a tenant proves itself."""

    role: Role = Role.CALLER
    name: str = Field(default="", max_length=100)


class Token(_Proof):
    """A bearer token."""

    sha256: Annotated[str, AfterValidator(_checked_hash)]

    @property
    def proof(self) -> str:
        return f"sha256 {self.sha256}"


class Certificate(_Proof):
    """A client's certificate, whose authority the server trusts (`door.tls_client_ca`)."""

    subject: str = Field(default="", max_length=1000)  # its common name
    san: str = Field(default="", max_length=1000)  # one of its subject alternative names: a DNS name, URI, mail or IP address

    @model_validator(mode="after")
    def _says_one(self) -> Self:
        if bool(self.subject) == bool(self.san):
            raise ValueError("expected either subject or san")
        return self

    @property
    def proof(self) -> str:
        return f"subject {self.subject}" if self.subject else f"san {self.san}"


class Tenant(_Entry):
    """The principals of a tenant, and what all of them together may have. No limit is set unless it is named."""

    sessions: int | None = Field(default=None, ge=0)  # open at once, of each model
    rollouts: int | None = Field(default=None, ge=0)  # under way at once, of each model
    streams: int | None = Field(default=None, ge=0)  # open at once
    steps_per_second: float | None = Field(default=None, gt=0)
    shared: bool = False
    tokens: tuple[Token, ...] = ()
    certificates: tuple[Certificate, ...] = ()

    def of_one_door(self, doors: int) -> Tenant:
        """The share that one of several front doors has of what is limited there."""
        streams = None if self.streams is None else -(-self.streams // doors)
        rate = None if self.steps_per_second is None else self.steps_per_second / doors
        return self.model_copy(update={"streams": streams, "steps_per_second": rate})


class Access(_Entry):
    """All tenants, by name. Raises ValidationError for what contradicts itself."""

    tenants: dict[str, Tenant] = {}

    @model_validator(mode="after")
    def _is_clear(self) -> Self:
        for name in self.tenants:
            if not _TENANT.fullmatch(name):
                raise ValueError(f"tenants: expected names of 1 to 64 characters of A-Z a-z 0-9 . _ -, got {name[:80]!r}")
        uses = Counter(entry.proof for _, entry in self.entries())
        for proof, count in uses.items():
            if count > 1:
                raise ValueError(f"tenants: expected each token and certificate once, got {proof[:80]} {count} times")
        return self

    def entries(self) -> Iterator[tuple[str, Token | Certificate]]:
        """Each tenant's name with each way in which one of its principals proves itself."""
        for name, tenant in self.tenants.items():
            yield from ((name, token) for token in tenant.tokens)
            yield from ((name, certificate) for certificate in tenant.certificates)

    def of_one_door(self, doors: int) -> Access:
        """Gives what one of several front doors applies."""
        return Access(tenants={name: tenant.of_one_door(doors) for name, tenant in self.tenants.items()})


class AccessFile:
    """A file of tenants, which is read anew when it has changed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._told = self._seen = stamp(path)

    def changed(self) -> bool:
        """Tells whether it is another file, or was written to, since this last said so. Not while it is being written to: the
        first half of a file may be one, of fewer tenants."""
        before, self._seen = self._seen, stamp(self._path)
        changed = before == self._seen != self._told
        if changed:
            self._told = self._seen
        return changed

    def read(self) -> Access:
        """Reads the file as it is now. Raises AccessError."""
        return _read(self._path)


def _read(path: Path) -> Access:
    try:
        return _parse(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise AccessError(f"{path}: expected readable TOML; {error}") from None


def _parse(text: str, source: str) -> Access:
    try:
        return Access.model_validate(tomllib.loads(text))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise AccessError(f"{source}: expected readable TOML; {error}") from None
    except ValidationError as error:
        faults = [f"{source}: {'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors(include_input=False)]
        raise AccessError("\n".join(each.replace(": : ", ": ").replace("Value error, ", "") for each in faults)) from None


class Principals:
    """The principals of a file, by how they prove themselves."""

    def __init__(self, access: Access) -> None:
        self._by_proof = {
            entry.proof: Principal(name, entry.role, access.tenants[name].shared, entry.name, entry.proof)
            for name, entry in access.entries()
        }

    def of_token(self, token: str) -> Principal | None:
        """Whose token it is."""
        return self._by_proof.get(f"sha256 {hash_token(token)}")

    def of_certificate(self, subjects: list[str], sans: list[str]) -> Principal | None:
        """Whose certificate it is, by the names in it; the first that an entry has, common names before alternative ones."""
        names = [*(f"subject {each}" for each in subjects), *(f"san {each}" for each in sans)]
        return next((self._by_proof[each] for each in names if each in self._by_proof), None)

    def still(self, principal: Principal) -> bool:
        """Tells whether a principal is what it was."""
        return self._by_proof.get(principal.proof) == principal


def make_token() -> str:
    """A token that nobody has."""
    return f"ss_{secrets.token_urlsafe(_TOKEN_BYTES)}"


def hash_token(token: str) -> str:
    """A token as the file has it."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


def entry(tenant: str, token: str, role: Role = Role.CALLER, name: str = "") -> str:
    """Writes what the file says of a token, as TOML. Raises AccessError for a tenant's name or a name that it cannot have."""
    told = {"sha256": hash_token(token), "role": role.value, "name": name}
    lines = [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in told.items() if value]
    text = "\n".join([f"[[tenants.{json.dumps(tenant)}.tokens]]", *lines])
    _parse(text, "token")
    return text


def limits(access: Access | None, name: str) -> Mapping[str, int]:
    """One of the whole-number limits of tenants, by tenant; of those that have it."""
    found = {tenant: getattr(entry, name) for tenant, entry in access.tenants.items()} if access else {}
    return {tenant: value for tenant, value in found.items() if value is not None}
