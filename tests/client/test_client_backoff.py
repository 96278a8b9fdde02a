"""When a client tries again and when it gives up, with a clock and chances given by hand."""

from __future__ import annotations

import pytest

from stepstream import ClientOptions
from stepstream._options import Backoff

OPTIONS = ClientOptions(reconnect_seconds=60, reconnect_first_seconds=0.1, reconnect_most_seconds=5)


class Clock:
    """Seconds that a test moves on."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_waits_double_up_to_a_bound_and_are_random_below_it() -> None:
    """Full jitter: any wait between none and the bound."""
    chances = iter([0.5] * 8 + [0.0, 0.99])
    backoff = Backoff(OPTIONS, lambda: next(chances), Clock())
    waits = [backoff.delay(None) for _ in range(10)]
    assert waits == pytest.approx([0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2.5, 2.5, 0.0, 4.95])


def test_the_servers_advice_is_heeded() -> None:
    """It knows how long it will take; patience is the limit all the same."""
    clock = Clock()
    backoff = Backoff(OPTIONS, lambda: 0.0, clock)
    assert backoff.delay(7.0) == 7.0
    clock.now += 55
    assert backoff.delay(7.0) == 5.0


def test_patience_ends() -> None:
    """The last try comes when it is over, and then no more."""
    clock = Clock()
    backoff = Backoff(OPTIONS, lambda: 1.0, clock)
    backoff.delay(None)
    clock.now += 59.5
    assert backoff.delay(None) == pytest.approx(0.2)
    clock.now += 0.5
    assert backoff.delay(None) is None


def test_time_with_a_server_costs_no_patience() -> None:
    """But only what it does gives all of it back: a server that ends every stream is not tried for ever."""
    clock = Clock()
    backoff = Backoff(OPTIONS, lambda: 0.5, clock)
    backoff.delay(None)
    clock.now += 40
    backoff.reached()
    clock.now += 3600
    assert backoff.left() == pytest.approx(20)
    assert backoff.delay(None) == pytest.approx(0.1)
    backoff.worked()
    assert backoff.left() == 60
    assert backoff.delay(None) == pytest.approx(0.05)


def test_no_patience_means_no_second_try() -> None:
    """`reconnect_seconds=0` gives up at once."""
    assert Backoff(ClientOptions(reconnect_seconds=0)).delay(None) is None


@pytest.mark.parametrize("name", ["reconnect_seconds", "reconnect_first_seconds", "reconnect_most_seconds"])
def test_times_are_checked(name: str) -> None:
    """The field is named."""
    with pytest.raises(ValueError, match=name):
        ClientOptions(**{name: -1.0})  # type: ignore[arg-type]
