"""Who is at the other end of a call: its principal, and its client among those of the principal's tenant."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from stepstream_server.access import Principal
from stepstream_server.errors import CallerError, Reason
from stepstream_server.tenancy import client_key

if TYPE_CHECKING:
    import grpc

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"  # generic in its stub only, hence the quotes

CLIENT, NUMBER = "stepstream-client", "stepstream-stream"  # metadata of a call

principal: ContextVar[Principal] = ContextVar("principal")
"""Whose call this task handles. It has no default: whatever is not behind a Boundary is nobody's, and fails."""


class Party(NamedTuple):
    """A caller, among whom all is shared out: first between tenants, then between the clients of each."""

    tenant: str = ""
    client: str = ""  # key of the client that named itself, else of the connection
    name: str = ""  # key of the client that named itself; empty: it did not, and has no place among streams
    number: int = 0  # of the stream among those of that client


def party_of(context: Context) -> Party:
    """The party that has made a call. Raises CallerError for a number of a stream that is none."""
    metadata: Mapping[str, str | bytes] = dict(context.invocation_metadata() or ())
    tenant, client, number = principal.get().tenant, metadata.get(CLIENT, ""), metadata.get(NUMBER, "0")
    if not (isinstance(number, str) and number.isdecimal() and len(number) < 20):
        raise CallerError(Reason.INVALID_ARGUMENT, f"{NUMBER}: expected a decimal number, got {str(number)[:50]!r}", field=NUMBER)
    name = client_key(tenant, str(client)) if client else ""
    return Party(tenant, name or client_key(tenant, context.peer()), name, int(number))
