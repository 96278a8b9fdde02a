"""Time that only moves when a test says so."""

from __future__ import annotations


class FakeClock:
    """A monotonic clock in seconds; call it to read it."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        """Lets time pass."""
        self.now += seconds
