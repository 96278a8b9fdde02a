"""Who calls, by a call's metadata or by its connection's certificate; and calls that end once that is not so any more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from stepstream_server.access import ANONYMOUS, Access, Principal, Principals
from stepstream_server.errors import CallerError, Reason
from stepstream_server.rpc.callers import Context

HEADER = "authorization"  # of a call's metadata: `Bearer TOKEN`
_SCHEME = "bearer "


class Authentication:
    """Tells principals apart. On the event loop's thread."""

    def __init__(self, access: Access | None) -> None:
        """access: None where nobody has to prove anything."""
        self._principals = None if access is None else Principals(access)
        self._lasting: dict[asyncio.Timeout, Principal] = {}  # calls that last, by what ends them

    def replace(self, access: Access) -> None:
        """From now on this tells who may call. Calls of principals that are not the same any more end."""
        self._principals = Principals(access)
        now = asyncio.get_running_loop().time()
        for scope, principal in list(self._lasting.items()):
            if not self._principals.still(principal):
                del self._lasting[scope]  # which is told once: it may take its time to end
                scope.reschedule(now)

    def principal_of(self, context: Context) -> Principal:
        """Raises CallerError(UNAUTHENTICATED)."""
        if self._principals is None:
            return ANONYMOUS
        token = _token(context.invocation_metadata() or ())
        found = self._principals.of_token(token) if token else self._principals.of_certificate(*_names(context))
        if found is None:
            shown = "one that is not known here" if token else "none"
            message = f"{HEADER}: expected `Bearer TOKEN` with a token of this server, or a known certificate, got {shown}"
            raise CallerError(Reason.UNAUTHENTICATED, message, field=HEADER)
        return found

    def refuse_if_over(self, principal: Principal | None) -> None:
        """Raises CallerError(UNAUTHENTICATED) if a principal is not the same any more; None: when anybody may call."""
        if principal is not None and self._principals is not None and not self._principals.still(principal):
            raise _over()

    @asynccontextmanager
    async def lasting(self, principal: Principal | None) -> AsyncIterator[None]:
        """The body is a call that lasts: it is ended when its principal is not the same any more; None: when anybody may call.
        Raises CallerError(UNAUTHENTICATED) then."""
        if principal is None or self._principals is None:
            yield
            return
        scope = asyncio.timeout(None)
        try:
            async with scope:
                self._lasting[scope] = principal
                yield
        except TimeoutError:
            if not scope.expired():
                raise
            raise _over() from None
        finally:
            self._lasting.pop(scope, None)


def _over() -> CallerError:
    message = f"{HEADER}: the token or certificate of this call is no longer valid"
    return CallerError(Reason.UNAUTHENTICATED, message, field=HEADER)


def _token(metadata: Iterable[tuple[str, str | bytes]]) -> str:
    """The token among metadata; empty if there is none."""
    for key, value in metadata:
        if key == HEADER and isinstance(value, str) and value[: len(_SCHEME)].lower() == _SCHEME:
            return value[len(_SCHEME) :].strip()
    return ""


def _names(context: Context) -> tuple[list[str], list[str]]:
    """Common names and subject alternative names of the connection's certificate, which its authority has vouched for."""
    told = context.auth_context()
    return (
        [each.decode(errors="replace") for each in told.get("x509_common_name", ())],
        [each.decode(errors="replace") for each in told.get("x509_subject_alternative_name", ())],
    )
