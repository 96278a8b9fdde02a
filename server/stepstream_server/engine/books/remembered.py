"""Memory, for a while, of what is over: entries by key, bounded in time and in all, and shared out between tenants."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from stepstream_server.tenancy import tenant_of

_FORGOTTEN_AT_ONCE = 1000  # entries, about a millisecond
_T = TypeVar("_T")


class Remembered(Generic[_T]):
    """If there is too much, the tenant forgets its oldest entry that has most: nobody can drive out what others will ask for."""

    def __init__(self, seconds: float, most: int, size: Callable[[_T], int]) -> None:
        """most: sizes of all entries together. size: of an entry."""
        self._seconds = seconds
        self._most = most
        self._size = size
        self._entries: OrderedDict[str, tuple[float, _T]] = OrderedDict()  # key -> (forgotten at, entry), the oldest first
        self._of_tenant: dict[str, dict[str, None]] = {}  # the keys of each, the oldest first
        self._sizes: Counter[str] = Counter()  # of each tenant's entries
        self._total = 0

    def __len__(self) -> int:
        return len(self._entries)

    def remember(self, key: str, entry: _T, now: float) -> None:
        """Keeps an entry in place of what was kept under its key."""
        self.forget([key])
        self._entries[key] = (now + self._seconds, entry)
        self._of_tenant.setdefault(tenant_of(key), {})[key] = None
        self._count(key, self._size(entry))
        self.forget_overdue(now)
        for _ in range(_FORGOTTEN_AT_ONCE):
            if self._total <= self._most:
                break
            fullest = max(self._sizes, key=self._sizes.__getitem__)
            self.forget([next(iter(self._of_tenant[fullest]))])

    def find(self, key: str, now: float) -> _T | None:
        """The entry of that key, while it is remembered."""
        forgotten_at, entry = self._entries.get(key, (0.0, None))
        return entry if forgotten_at > now else None

    def forget(self, keys: Iterable[str]) -> None:
        """Lets go of entries."""
        for key in keys if self._entries else ():
            _, entry = self._entries.pop(key, (0.0, None))
            if entry is not None:
                del self._of_tenant[tenant_of(key)][key]
                self._count(key, -self._size(entry))

    def forget_overdue(self, now: float) -> None:
        """Lets go of entries whose time is over, of many at once."""
        if not self._entries:  # as in most turns, each of which asks
            return
        for _ in range(_FORGOTTEN_AT_ONCE):
            oldest, (forgotten_at, _entry) = next(iter(self._entries.items()), ("", (float("inf"), None)))
            if forgotten_at > now:
                return
            self.forget([oldest])

    def _count(self, key: str, size: int) -> None:
        tenant = tenant_of(key)
        self._total += size
        self._sizes[tenant] += size
        if not self._of_tenant[tenant]:
            del self._of_tenant[tenant], self._sizes[tenant]
