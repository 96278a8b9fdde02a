"""Tenants: each has a number, for records to hold, and may have a limit of sessions. Where there are none, all is tenant 0's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from stepstream_server.errors import CallerError, Reason
from stepstream_server.tenancy import tenant_of

_CAPACITY_RETRY_SECONDS = 1.0  # sessions end at human pace: asking more often finds nothing new


class Tenants:
    """Tenants by number, and how many sessions each of them has."""

    def __init__(self) -> None:
        self._numbers = {"": 0}
        self._sessions: Counter[int] = Counter()  # open, by number
        self._opened: Counter[int] = Counter()  # ever, by number
        self.limits: Mapping[str, int] = {}  # sessions that a tenant may have open, of those that have a limit

    def number(self, name: str) -> int:
        """A tenant's number, which it keeps."""
        return self._numbers.setdefault(name, len(self._numbers))

    def find(self, name: str) -> int | None:
        """A tenant's number, if it has ever had a session."""
        return self._numbers.get(name)

    def sessions(self) -> dict[str, int]:
        """How many sessions are open of each tenant that has some."""
        return {name: self._sessions[number] for name, number in self._numbers.items() if self._sessions[number]}

    def sessions_of(self, name: str) -> int:
        """How many sessions a tenant has open."""
        return self._sessions[self._numbers.get(name, -1)]

    def opened(self, number: int) -> int:
        """One more session is open. Returns its place among all that the tenant has ever opened."""
        self._sessions[number] += 1
        self._opened[number] += 1
        return self._opened[number] - 1

    def ended(self, numbers: Sequence[int]) -> None:
        """A session of each of these tenants has ended."""
        self._sessions.subtract(numbers)


class Room:
    """How many sessions may still be opened by a command: there is a limit for all, and there may be one for each tenant."""

    def __init__(self, free: int, tenants: Tenants) -> None:
        self._free = free
        self._tenants = tenants
        self._taken: Counter[str] = Counter()

    def take(self, key: str) -> None:
        """One more session is going to be open in the tenant of a key."""
        self._free -= 1
        if self._tenants.limits:
            self._taken[tenant_of(key)] += 1

    def refuse_if_full(self, key: str, *, leaving: bool = False) -> None:
        """Raises CallerError(SESSION_CAPACITY) if no session can be opened in the tenant of a key. leaving: whether one of its
        sessions ends in exchange; a tenant whose limit has fallen may have too many all the same."""
        if self._tenants.limits:
            tenant = tenant_of(key)
            most = self._tenants.limits.get(tenant)
            if most is not None and self._tenants.sessions_of(tenant) + self._taken[tenant] - leaving >= most:
                raise _full(f"all {most} sessions of the tenant are in use")
        if self._free + leaving <= 0:
            raise _full("all sessions that the server has room for are in use")


def _full(message: str) -> CallerError:
    return CallerError(Reason.SESSION_CAPACITY, message, retry_delay_seconds=_CAPACITY_RETRY_SECONDS)
