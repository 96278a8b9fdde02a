"""The part of a front door that callers of one tenant may have, by a clock that the test moves."""

from __future__ import annotations

import pytest

from stepstream_server.access import Access
from stepstream_server.errors import CallerError, Reason
from stepstream_server.rpc.quotas import Quotas, Rate
from support.clock import FakeClock


def access(**limits: float | None) -> Access:
    """Tenant `a` with these limits."""
    return Access.model_validate({"tenants": {"a": limits}})


def test_a_second_of_steps_may_come_at_once() -> None:
    """So may as many again a second later, however long nothing came."""
    clock = FakeClock()
    rate = Rate(10, clock)
    for _ in range(2):
        rate.take(10)
        assert rate.wait == 0
        rate.take(1)
        assert rate.wait == pytest.approx(0.1)
        clock.advance(100)


def test_a_large_message_passes_and_is_paid_for() -> None:
    """The next ones wait until as much time has gone by."""
    clock = FakeClock()
    rate = Rate(10, clock)
    rate.take(60)
    clock.advance(4)
    with pytest.raises(CallerError) as refused:
        rate.refuse_if_used_up()
    assert refused.value.reason is Reason.QUEUE_FULL
    assert refused.value.retry_delay_seconds == pytest.approx(1)
    clock.advance(1.1)
    rate.refuse_if_used_up()


def test_a_rate_that_stays_keeps_what_is_left() -> None:
    """Else each change of the file would give a second's steps; another rate begins anew, and none bounds nothing."""
    quotas = Quotas(access(steps_per_second=0.001))
    quotas.spend("a", 5)
    quotas.replace(access(steps_per_second=0.001, streams=3))
    with pytest.raises(CallerError, match="all 0.001 steps"):
        quotas.spend("a", 1)
    quotas.replace(access(steps_per_second=0.002))
    quotas.spend("a", 1)
    quotas.replace(access())
    for _ in range(3):
        quotas.spend("a", 1000)


def test_streams_are_counted_whatever_their_limit_was() -> None:
    """Those beyond a limit that falls go on, and count; a limit of none lets none in."""
    quotas = Quotas(access())
    for _ in range(3):
        quotas.enter("a")
    quotas.replace(access(streams=3))
    with pytest.raises(CallerError, match="all 3 streams of the tenant are in use"):
        quotas.enter("a")
    quotas.enter("b")
    quotas.leave("a")
    quotas.enter("a")
    quotas.replace(access(streams=0))
    with pytest.raises(CallerError, match="all 0 streams"):
        quotas.enter("a")


def test_doors_share_what_is_counted_by_each() -> None:
    """Streams and steps are divided, streams rounded up; sessions and rollouts are counted by engines, which all doors share."""
    (mine,) = access(streams=5, steps_per_second=3, sessions=7, rollouts=9).of_one_door(2).tenants.values()
    assert (mine.streams, mine.steps_per_second, mine.sessions, mine.rollouts) == (3, 1.5, 7, 9)
