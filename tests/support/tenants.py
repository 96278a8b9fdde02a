"""Tenants, each with a caller and an admin who have tokens, and how they show these."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import grpc

from stepstream_server.access import Access, hash_token, make_token
from support.planted import plant_text

Metadata = tuple[tuple[str, str], ...]
ROLES = ("caller", "admin")


class Tenants:
    """Two principals of each tenant."""

    def __init__(self, **tenants: Mapping[str, Any]) -> None:
        """tenants: by name, what each of them may have, as the file of tenants says it."""
        self._limits = tenants
        self._tokens = {(tenant, role): plant_text(make_token()) for tenant in tenants for role in ROLES}
        self.access = self.without()

    def token(self, tenant: str, role: str = "caller") -> str:
        """The token that its principal of that role shows."""
        return self._tokens[tenant, role]

    def without(self, *tokens: str, **changed: Mapping[str, Any]) -> Access:
        """All of them but for these tokens, and but for what these tenants may have now."""
        return Access.model_validate({"tenants": self._tables(tokens, changed)})

    def toml(self, *without: str, **changed: Mapping[str, Any]) -> str:
        """All of it as a file."""
        lines = []
        for tenant, table in self._tables(without, changed).items():
            tokens = table.pop("tokens")
            lines += [f"[tenants.{tenant}]", *(f"{name} = {str(value).lower()}" for name, value in table.items())]
            for each in tokens:
                lines += [f"[[tenants.{tenant}.tokens]]", *(f'{name} = "{value}"' for name, value in each.items())]
        return "\n".join([*lines, ""])

    def _tables(self, without: tuple[str, ...], changed: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
        return {
            tenant: {
                **limits,
                **changed.get(tenant, {}),
                "tokens": [
                    {"sha256": hash_token(token), "role": role}
                    for role in ROLES
                    if (token := self._tokens[tenant, role]) not in without
                ],
            }
            for tenant, limits in self._limits.items()
        }


def bearer(token: str) -> Metadata:
    """How a call shows a token."""
    return (("authorization", f"Bearer {token}"),)


class ShowingChannel:
    """A channel whose calls all have some metadata."""

    def __init__(self, channel: grpc.aio.Channel, metadata: Metadata) -> None:
        self._channel = channel
        self._metadata = metadata

    def __getattr__(self, kind: str) -> Any:
        """unary_unary and its like, by which a call is made."""

        def multicallable(*described: Any, **options: Any) -> Any:
            method = getattr(self._channel, kind)(*described, **options)

            def call(*request: Any, metadata: Metadata | None = None, **options: Any) -> Any:
                return method(*request, metadata=(*self._metadata, *(metadata or ())), **options)

            return call

        return multicallable


def showing(channel: grpc.aio.Channel, *metadata: tuple[str, str], token: str = "") -> grpc.aio.Channel:
    """The channel of a caller who shows a token, if there is one, and whatever else with each call."""
    return cast("grpc.aio.Channel", ShowingChannel(channel, (*(bearer(token) if token else ()), *metadata)))
