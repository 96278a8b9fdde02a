"""Shares: how what is there only so often is dealt out among those who want it, so that none can have all of it.

Who may have what, and whose turn it is.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from stepstream_server.engine.ports import Ints
from stepstream_server.tenancy import tenant_of

_OF_FREE = 2  # a tenant holds at most so many times what is free: two thirds, where it is alone


class Shares:
    """So many pieces, of which each tenant, and each client of it, has a share.

    The more is taken, the less a further one is given: what a tenant holds stays at most twice what is free, and what a client
    holds stays at most as much as is free and as its tenant could still take. So a client that is alone has half of all, the
    next one of its tenant an eighth, one of another tenant a quarter, and something is left for whoever comes next, without a
    number that is set aside. (The dynamic thresholds of Choudhury and Hahne, Dynamic queue length thresholds for shared-memory
    packet switches, IEEE/ACM Transactions on Networking 1998, on two levels.)
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self.free = total
        self._held: Counter[str] = Counter()  # by client
        self._held_by_tenant: Counter[str] = Counter()

    def room(self, client: str) -> int:
        """How many more the client may have now: at least one, as long as its tenant holds none and one is free."""
        tenant = tenant_of(client)
        of_tenant, mine = self._held_by_tenant[tenant], self._held[client]
        bounds = (  # the largest n that keeps, with n more of its and n less free:
            (_OF_FREE * self.free - of_tenant) // (_OF_FREE + 1),  # tenant <= 2 free
            (self.free - mine) // 2,  # client <= free
            (_OF_FREE * self.free - of_tenant - mine) // (_OF_FREE + 2),  # client <= 2 free - tenant
        )
        return max(min(bounds), int(self.free > 0 and not of_tenant), 0)

    def take(self, client: str, count: int) -> None:
        """The client has so many more."""
        self._move(client, count)

    def give_back(self, client: str, count: int) -> None:
        """The client has so many less."""
        self._move(client, -count)

    def _move(self, client: str, count: int) -> None:
        self.free -= count
        for held, name in ((self._held, client), (self._held_by_tenant, tenant_of(client))):
            held[name] += count
            if not held[name]:
                del held[name]  # names are their callers': no more are kept than hold something


def first_in_turn(tenants: Ints, clients: Ints, served: Ints, most: int) -> Ints:
    """Places of the `most` of n rows whose turn it is, ascending. A tenant's rows are spread as evenly among its clients, and all
    among tenants, as there are rows; of one client's, whoever was served least recently comes first.

    tenants, clients, served: [n], numbers of either, and of the launch that served each row last.
    """
    by_client = np.lexsort((served, clients))
    rank = _ranks(by_client, clients)
    by_tenant = np.lexsort((served, rank, tenants))
    rank = _ranks(by_tenant, tenants)
    return np.sort(np.lexsort((served, rank))[:most])


def _ranks(order: Ints, groups: Ints) -> Ints:
    """The place of each row among those of its group, in an order by which groups lie together: [n]."""
    count = len(order)
    begins = np.ones(count, np.bool_)
    begins[1:] = np.diff(groups[order]) != 0
    first = np.maximum.accumulate(np.where(begins, np.arange(count), 0))
    ranks = np.empty(count, np.int64)
    ranks[order] = np.arange(count) - first
    return ranks
