"""Names within a tenant: inside the server a session's id is `tenant/id`, and the plain id where there are no tenants.

`/` cannot occur in an id or in a tenant's name, so that no id of one tenant can be taken for another's. One table, one lookup and
one answer serve ids that nobody has and ids that are another tenant's.
"""

from __future__ import annotations


def scoped(tenant: str, name: str) -> str:
    """The key of an id in a tenant. That of an empty one asks for a session with an id of the server's own."""
    return f"{tenant}/{name}" if tenant else name


def scoped_request(tenant: str, request_id: str) -> str:
    """The key of a request's id in a tenant; empty where a repeat is another request."""
    return scoped(tenant, request_id) if request_id else ""


def plain(key: str) -> str:
    """The id that callers know."""
    return key.partition("/")[2] if "/" in key else key


def names_one(key: str) -> bool:
    """Tells whether a key has an id, rather than asking for one to be made."""
    return bool(key) and not key.endswith("/")


def tenant_of(key: str) -> str:
    """The tenant of a key; empty where there are no tenants."""
    return key.partition("/")[0] if "/" in key else ""


def client_key(tenant: str, client: str) -> str:
    """The key of a client in a tenant. It begins with the tenant even if that is empty: clients name themselves as they like."""
    return f"{tenant}/{client}"
