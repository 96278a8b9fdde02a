"""The part of a front door that callers of one tenant may have: streams at once, and steps per second.

Sessions and rollouts are counted by the engines, which know all of them; here each of several front doors has its share.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable

from stepstream_server.access import Access, Tenant
from stepstream_server.errors import CallerError, Reason

_BURST_SECONDS = 1.0  # of steps that may come at once: who reads a sensor each second sends a second's readings together
_LOOK_SECONDS = 0.25  # in which whoever waits for a rate finds that it is another one
_NOBODY = Tenant()


class Rate:
    """Steps per second, as a bucket that fills. A message that takes more than is left passes; the next one waits."""

    def __init__(self, per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.per_second = per_second
        self._clock = clock
        self._left = self._most = per_second * _BURST_SECONDS
        self._at = clock()  # when so many were left

    def take(self, steps: int) -> None:
        """So many have come."""
        self._left = self._now() - steps
        self._at = self._clock()

    @property
    def wait(self) -> float:
        """Seconds until something may come again; 0 if it may now."""
        return max(0.0, -self._now() / self.per_second)

    def refuse_if_used_up(self) -> None:
        """Raises CallerError(QUEUE_FULL) with the time to wait."""
        if wait := self.wait:
            message = f"all {self.per_second:g} steps per second of the tenant are used"
            raise CallerError(Reason.QUEUE_FULL, message, retry_delay_seconds=wait)

    def _now(self) -> float:
        """Steps that are left."""
        return min(self._most, self._left + (self._clock() - self._at) * self.per_second)


class Quotas:
    """Of all tenants. On the event loop's thread."""

    def __init__(self, access: Access | None) -> None:
        self._tenants = {} if access is None else access.tenants
        self._rates: dict[str, Rate] = {}
        self._streams: Counter[str] = Counter()  # open, by tenant
        self._set_rates()

    def replace(self, access: Access) -> None:
        """From now on these limits hold. Streams beyond them go on."""
        self._tenants = access.tenants
        self._set_rates()

    def rate(self, tenant: str) -> Rate | None:
        """The bound on the steps of a tenant now; None: there is none."""
        return self._rates.get(tenant)

    def spend(self, tenant: str, steps: int) -> None:
        """A call brings steps of a tenant. Raises CallerError(QUEUE_FULL) with the time to wait if the tenant's are used up."""
        if (rate := self._rates.get(tenant)) is not None:
            rate.refuse_if_used_up()
            rate.take(steps)

    def enter(self, tenant: str) -> None:
        """Counts one more stream of a tenant. Raises CallerError(QUEUE_FULL) if it has as many as it may."""
        most = self._tenants.get(tenant, _NOBODY).streams
        if most is not None and self._streams[tenant] >= most:
            raise CallerError(Reason.QUEUE_FULL, f"all {most} streams of the tenant are in use")
        self._streams[tenant] += 1

    def leave(self, tenant: str) -> None:
        """A stream that was counted is over."""
        self._streams[tenant] -= 1
        if not self._streams[tenant]:
            del self._streams[tenant]

    def _set_rates(self) -> None:
        """A rate that stays as it was keeps what is left of it."""
        before, self._rates = self._rates, {}
        for name, tenant in self._tenants.items():
            if (wanted := tenant.steps_per_second) is not None:
                known = before.get(name)
                self._rates[name] = known if known and known.per_second == wanted else Rate(wanted)


class Pace:
    """The steps per second of the tenant of one stream or rollout: all that the tenant has share them."""

    def __init__(self, quotas: Quotas, tenant: str) -> None:
        self._quotas = quotas
        self._tenant = tenant

    def take(self, steps: int) -> None:
        """So many have come."""
        if (rate := self._quotas.rate(self._tenant)) is not None:
            rate.take(steps)

    @property
    def used_up(self) -> bool:
        """Tells whether it must wait."""
        rate = self._quotas.rate(self._tenant)
        return rate is not None and rate.wait > 0

    async def wait(self) -> None:
        """Waits until more may come, but not long: whether it must wait still is to be looked at again."""
        rate = self._quotas.rate(self._tenant)
        await asyncio.sleep(0.0 if rate is None else min(rate.wait, _LOOK_SECONDS))
