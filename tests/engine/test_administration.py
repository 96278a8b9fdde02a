"""Questions of administrators to an engine: how much each tenant has, and the end of a session whose secret they do not know."""

from __future__ import annotations

from stepstream_server.engine.ports import Close, Commit, CountTenants, Ending, Opened, TenantUse
from stepstream_server.errors import Reason, StepStreamError
from support.engine import Harness
from support.rollouts import Rolling


def use(h: Harness) -> list[TenantUse]:
    """Asks how much each tenant has now."""
    told: list[TenantUse] = h.ask(CountTenants(h.request()))
    return told


def test_tenants_are_counted_by_what_they_have_now() -> None:
    """Sessions and rollouts of each; who has nothing is not told, nor who has nothing any more."""
    h = Rolling()
    assert use(h) == []
    a, b, plain = (h.open_as(key) for key in ("a/one", "b/one", "one"))
    h.open_as("a/two")
    h.generate(a, 10**6, [1.0], stream=500, client="a/pump")
    h.generate(None, 10**6, [1.0], stream=501, commit=Commit.NONE, client="c/pump")  # of no session
    h.settle()
    assert use(h) == [TenantUse("", 1, 0), TenantUse("a", 2, 1), TenantUse("b", 1, 0), TenantUse("c", 0, 1)]
    for session in (a, b, plain):
        h.close(session, session.secret)
    h.hang_up(501)
    assert use(h) == [TenantUse("a", 1, 0)]


def test_an_administrator_needs_no_secret() -> None:
    """Closing what a stream holds: the stream is told as of any other closing. Everybody else is asked for the secret."""
    h = Harness()
    (held,) = h.open(stream=3, first_handle=9)
    h.send([held], [0], [[1.0]], stream=3, handles=[9])
    h.settle()
    refused = h.close(held)
    assert isinstance(refused, StepStreamError)
    assert refused.reason == Reason.SESSION_IN_USE
    assert h.ask(Close(h.request(), held.id, b"", by_admin=True)) == 1
    assert h.ear.detached == [(3, 9, Ending.CLOSED)]
    assert h.ask(Close(h.request(), held.id, b"", by_admin=True)) == 0, "it is closed already"


def test_an_administrator_closes_what_there_is() -> None:
    """A session that nobody has ever opened is not found, in this tenant or in another one."""
    h = Harness()
    assert isinstance(h.open_as("a/one"), Opened)
    for key in ("one", "b/one"):
        error = h.ask(Close(h.request(), key, b"", by_admin=True))
        assert isinstance(error, StepStreamError)
        assert error.reason == Reason.SESSION_NOT_FOUND
