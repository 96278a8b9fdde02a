"""When to try again while a server cannot be reached, and when to give up. Waits for nothing itself."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from stepstream._options import ClientOptions


class Backoff:
    """Exponential backoff with full jitter, so that many clients of a server that comes back do not all come at once.

    https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter. jitter: uniform numbers in [0, 1). clock: seconds.
    """

    def __init__(
        self, options: ClientOptions, jitter: Callable[[], float] = random.random, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._options = options
        self._jitter = jitter
        self._clock = clock
        self._bound = options.reconnect_first_seconds
        self._spent = 0.0  # seconds without a server, since something last worked, but for those from `_since` on
        self._since: float | None = None

    def left(self) -> float:
        """Seconds of patience left, which from now on run."""
        now = self._clock()
        if self._since is None:
            self._since = now
        return self._options.reconnect_seconds - self._spent - (now - self._since)

    def delay(self, advice: float | None) -> float | None:
        """Seconds to wait before another try, at least what the server advised; None: it is time to give up."""
        left = self.left()
        if left <= 0:
            return None
        jittered = self._jitter() * self._bound
        self._bound = min(2 * self._bound, self._options.reconnect_most_seconds)
        return min(max(jittered, advice or 0.0), left)

    def reached(self) -> None:
        """The server has been reached, which does not mean yet that it does what is wanted: patience runs no more."""
        if self._since is not None:
            self._spent += self._clock() - self._since
            self._since = None

    def worked(self) -> None:
        """It did what was wanted: all patience is back."""
        self._spent, self._since, self._bound = 0.0, None, self._options.reconnect_first_seconds
