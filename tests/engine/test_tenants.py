"""Tenants of an engine: each finds its own sessions only, has what it may have, and sees what it would see if it were alone."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from stepstream_server.engine.ports import (
    NO_SEQ,
    NO_STREAM,
    Attach,
    Close,
    Command,
    Commit,
    Delivery,
    Export,
    Fork,
    Forked,
    Generate,
    Get,
    Import,
    Imported,
    LimitTenants,
    List,
    Open,
    Opened,
    Page,
    SessionInfo,
)
from stepstream_server.errors import Reason, StepStreamError
from stepstream_server.snapshots import Snapshot
from stepstream_server.tenancy import plain, scoped, scoped_request, tenant_of
from support.backend import FakeBackend
from support.engine import Answer, Ear, Harness, Piece, Refusal
from support.sequences import CALLER, POISON, reason_of, step


def pages(h: Harness, tenant: str, most: int) -> list[list[str]]:
    """Ids of a tenant's sessions, page by page."""
    listed: list[list[str]] = []
    start: int | str = 0
    while True:
        page = h.ask(List(h.request(), start, most, tenant))
        assert isinstance(page, Page)
        listed.append([each.id for each in page.sessions])
        if page.next is None:
            return listed
        start = page.next


def test_each_tenant_lists_its_own() -> None:
    """In the order of their opening, over pages whose starts tell nothing of others; whoever never had one has an empty page."""
    h = Harness()
    for name in ("a/1", "b/1", "a/2", "b/2", "a/3", "plain"):
        h.open_as(name)
    assert pages(h, "a", 2) == [["a/1", "a/2"], ["a/3"]]
    assert pages(h, "b", 1) == [["b/1"], ["b/2"]]
    assert pages(h, "", 9) == [["plain"]]
    assert pages(h, "c", 9) == [[]]
    assert h.ask(List(h.request(), 0, 2, "a")).next == 2  # of its own, whatever was opened between them
    h.close(h.open_as("b/3"))
    h.open_as("a/4")
    assert pages(h, "a", 3) == [["a/1", "a/2", "a/3"], ["a/4"]]


def test_an_id_is_each_tenants_own() -> None:
    """One may be open in each, and made ones are made in the tenant that asks."""
    h = Harness()
    opened = [h.open_as(name) for name in ("a/x", "b/x", "x", "a/", "b/", "")]
    assert [tenant_of(each.id) for each in opened] == ["a", "b", "", "a", "b", ""]
    assert len({each.session for each in opened}) == len({each.id for each in opened}) == 6
    assert all(plain(each.id) for each in opened)
    assert reason_of(h.open_as("a/x")) is Reason.SESSION_EXISTS
    assert [reason_of(h.open_as(name)) for name in ("a/b/x", "a/ ")] == [Reason.INVALID_ARGUMENT] * 2


def test_a_replaced_session_counts_until_it_has_ended() -> None:
    """A sequence that starts anew while a step of the former one is pending is one more for so long."""
    for most, expected in ((1, [True, False]), (2, [True, True])):
        h = Harness()
        h.door.submit(LimitTenants({"a": most}, {}))
        step(h, 1.0, name="a/s", start=True, handle=1)
        step(h, 2.0, name="a/s", start=True, handle=2)
        step(h, 8.0, name="b/s", start=True, handle=3)
        outcomes = {each.handle: each for each in h.settle()}
        assert [isinstance(outcomes[handle], Answer) for handle in (1, 2, 3)] == [*expected, True]
        if not expected[1]:
            assert outcomes[2] == Refusal(CALLER, 2, 0, 1, Reason.SESSION_CAPACITY, 0)
        step(h, 4.0, name="a/s", start=True)  # in the place of the former one, of which nothing is pending
        assert h.turn() == [Answer(CALLER, 0, 0, 1, (4.0,))]
        assert h.engine.stats().sessions == 2
        assert isinstance(h.open_as("a/u"), Opened) is (most == 2)


def test_a_sequence_is_refused_before_the_former_one_ends() -> None:
    """A tenant that has more than it may since its limit has fallen starts none anew; those that there are go on."""
    h = Harness()
    for name in ("a/s", "a/u"):
        step(h, 1.0, name=name, start=True)
    h.settle()
    h.door.submit(LimitTenants({"a": 1}, {}))
    step(h, 5.0, name="a/s", start=True)
    assert h.settle() == [Refusal(CALLER, 0, 0, 1, Reason.SESSION_CAPACITY, 0)]
    step(h, 2.0, name="a/s")
    assert h.settle() == [Answer(CALLER, 0, 1, 1, (3.0,))]
    h.door.submit(LimitTenants({"a": 2}, {}))
    step(h, 5.0, name="a/s", start=True)
    assert h.settle() == [Answer(CALLER, 0, 0, 1, (5.0,))]
    assert h.engine.stats().sessions == 2


class Listener(Ear):
    """Notes whom a refusal's text was for."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[tuple[int, str]] = []

    def deliver(self, delivery: Delivery) -> None:
        super().deliver(delivery)
        self.texts += zip(delivery.errors.streams, delivery.errors.messages, strict=True)


class Party:
    """A tenant's caller, who says one thing after the other of sessions x, y and z."""

    def __init__(self, h: Harness, tenant: str, first: int) -> None:
        """first: number of its first stream or one-shot caller."""
        self._h = h
        self._tenant = tenant
        self._numbers = range(first, first + 1000)
        self._handles = itertools.count()
        self._callers = itertools.count(first + 500)
        self._stream = first
        self._asked: dict[int, str] = {}  # names by request, of what was said since it was last told something
        self._known: dict[str, Opened] = {}  # as it was opened or attached
        self._secrets: dict[str, bytes] = {}
        self._held: dict[str, tuple[int, int]] = {}  # stream and handle
        self._snapshot: Snapshot | None = None

    def say(self, action: str, name: str, *details: Any) -> None:
        """Says it, if it can be said as things are."""
        getattr(self, f"_{action}")(name, *details)

    def _ask(self, name: str, make: Callable[[int, str], Command]) -> None:
        request = self._h.request()
        self._asked[request] = name
        self._h.door.submit(make(request, self._key(name)))

    def _key(self, name: str) -> str:
        return scoped(self._tenant, name)

    def _secret(self, name: str, right: bool) -> bytes:
        return self._secrets.get(name, b"?" * 16) if right else b""

    def _hold(self, name: str) -> NDArray[np.uint32]:
        """A handle for it, of the stream that there is."""
        self._held[name] = self._stream, next(self._handles)
        return np.array([self._held[name][1]], np.uint32)

    def _open(self, name: str, held: bool, request_id: str) -> None:
        handles = self._hold(name) if held else None
        stream = self._stream if held else NO_STREAM
        again = scoped_request(self._tenant, request_id)
        self._ask(name, lambda request, key: Open(stream, request, [key], handles, request_id=again))

    def _attach(self, name: str, right: bool) -> None:
        handles, secret, acked = self._hold(name), self._secret(name, right), np.zeros(1, np.int64)
        self._ask(name, lambda request, key: Attach(self._stream, request, handles, [key], [secret], acked))

    def _get(self, name: str) -> None:
        self._ask(name, Get)

    def _list(self, name: str, start: int) -> None:
        self._ask(name, lambda request, key: List(request, start, 2, self._tenant))

    def _close(self, name: str, right: bool) -> None:
        self._ask(name, lambda request, key: Close(request, key, self._secret(name, right)))

    def _fork(self, name: str, right: bool, into: str, request_id: str) -> None:
        again = scoped_request(self._tenant, request_id)
        secret, forks = self._secret(name, right), [self._key(into)]
        self._ask(into, lambda request, key: Fork(request, self._key(name), secret, NO_SEQ, forks, again, True))

    def _export(self, name: str, right: bool, close: bool, request_id: str) -> None:
        again, secret = scoped_request(self._tenant, request_id), self._secret(name, right)
        self._ask(name, lambda request, key: Export(request, key, secret, NO_SEQ, close, 1 << 20, again, True))

    def _import(self, name: str, request_id: str) -> None:
        if (snapshot := self._snapshot) is not None:
            again = scoped_request(self._tenant, request_id)
            self._ask(name, lambda request, key: Import(request, snapshot, key, again))

    def _generate(self, name: str, right: bool) -> None:
        caller, secret = next(self._callers), self._secret(name, right)
        made = (caller, secret, NO_SEQ, Commit.END, (np.ones((1, 1), np.float32),), 2, self._h.clock())
        self._ask(name, lambda request, key: Generate(made[0], request, key, *made[1:]))

    def _call(self, name: str, seq: int, values: list[float], flags: tuple[bool, bool], right: bool) -> None:
        starts, ends = ([flag] for flag in flags)
        secrets = [self._secret(name, right)] if right else []
        caller = next(self._callers)
        self._h.call_many([self._key(name)], [seq], [values], stream=caller, secrets=secrets, starts=starts, ends=ends)

    def _block(self, name: str, seq: int, values: list[float]) -> None:
        if name in self._known and name in self._held:
            stream, handle = self._held[name]
            self._h.send([self._known[name]], [seq], [values], stream=stream, handles=[handle])

    def _detach(self, name: str, close: bool) -> None:
        if name in self._known and name in self._held:
            stream, handle = self._held[name]
            self._h.detach(self._known[name], stream=stream, handle=handle, close=close)

    def _leave(self, name: str) -> None:
        """Ends its stream, and goes on with another."""
        self._h.end_stream(self._stream)
        self._stream += 1

    def _wait(self, name: str, seconds: float) -> None:
        """The clock is everybody's."""

    def told(self, outcomes: list[Answer | Refusal], ear: Listener) -> list[Any]:
        """All that it was told in a round, as it would be told by any engine."""
        replies = [(name, self._heard(name, ear.replies[request])) for request, name in self._asked.items()]
        self._asked = {}
        numbers = self._numbers
        return [
            replies,
            sorted((each.stream, each.handle, *one) for each in outcomes if each.stream in numbers for one in _steps(each)),
            sorted(each for each in ear.detached if each[0] in numbers),
            sorted(each for each in ear.texts if each[0] in numbers),
            {stream: _joined(pieces) for stream, pieces in ear.pieces.items() if stream in numbers},
        ]

    def _heard(self, name: str, value: Any) -> Any:
        """A reply, without what is random or of the engine's own; with what is needed to go on."""
        match value:
            case Opened():
                self._known[name] = value
                self._secrets[name] = value.secret or self._secrets[name]
                return value.id, bool(value.secret), value.next_seq, value.acked
            case list():
                return [self._heard(name, each) for each in value]
            case Forked():
                return value.next_seq, self._heard(name, value.sessions)
            case Imported():
                return value.bitwise, self._heard(name, value.opened)
            case Page():
                return value.next, [self._heard(name, each) for each in value.sessions]
            case SessionInfo():
                return replace(value, slot=0)
            case Snapshot():
                self._snapshot = value
                arrays = {**value.states, **value.outputs, "held": value.held}
                return value.id, value.next_seq, value.acked, {key: each.tolist() for key, each in arrays.items()}
            case StepStreamError():
                return value.reason, value.message, value.field, value.expected_seq, value.retry_delay_seconds
            case _:
                return value


def _steps(outcome: Answer | Refusal) -> list[tuple[Any, ...]]:
    """Step by step, however they were grouped."""
    seqs = range(outcome.first, outcome.first + outcome.length)
    if isinstance(outcome, Refusal):
        return [(seq, outcome.reason, outcome.expected) for seq in seqs]
    return [(seq, 0, value) for seq, value in zip(seqs, outcome.sums, strict=True)]


def _joined(pieces: Sequence[Piece]) -> tuple[Any, ...]:
    """A rollout, however it was told."""
    return pieces[0].first, [value for each in pieces for value in each.values], pieces[-1].next, pieces[-1].ending


def what_is_told(history: list[list[tuple[str, ...]]], present: str) -> list[Any]:
    """All that tenant `a` is told in each round, in which all that those who are present say comes at once."""
    h = Harness(FakeBackend(poison=POISON), idle_ttl_seconds=50, tombstone_seconds=40)
    ear = Listener()
    h.ear, h.door = ear, h.engine.connect(ear)
    parties = {tenant: Party(h, tenant, first) for tenant, first in (("a", 1000), ("b", 2000)) if tenant in present}
    told = []
    for round_ in history:
        for tenant, action, *details in round_:
            if action == "wait":
                h.clock.advance(float(details[1]))
            elif tenant in parties:
                parties[tenant].say(action, *details)
        outcomes = h.settle()
        told.append({tenant: each.told(outcomes, ear) for tenant, each in parties.items()}["a"])
        ear.detached, ear.texts, ear.pieces = [], [], {}
    h.engine.books.check()
    return told


names, right = st.sampled_from("xyz"), st.booleans()
requests = st.sampled_from(["", "", "request", "again"])
seqs = st.sampled_from([NO_SEQ, 0, 1, 2, 3])
numbers = st.lists(st.sampled_from([1.0, -2.0, 3.0, 4.0, POISON, float("nan")]), min_size=1, max_size=3)
says = {
    "open": (names, st.booleans(), requests),
    "attach": (names, right),
    "get": (names,),
    "list": (names, st.integers(0, 4)),
    "close": (names, right),
    "fork": (names, right, names, requests),
    "export": (names, right, st.booleans(), requests),
    "import": (names, requests),
    "generate": (names, right),
    "call": (names, seqs, numbers, st.tuples(st.booleans(), st.booleans()), right),
    "block": (names, seqs.filter(lambda seq: seq >= 0), numbers),
    "detach": (names, st.booleans()),
    "leave": (names,),
    "wait": (names, st.sampled_from([1.0, 30.0, 60.0])),
}
often = ["open", "open", "attach", "call", "call", "block", *says]
said = st.one_of([st.tuples(st.sampled_from("ab"), st.just(action), *says[action]) for action in often])


@settings(max_examples=40)
@given(st.lists(st.lists(said, min_size=1, max_size=4), min_size=4, max_size=16))
def test_a_tenant_is_told_what_it_would_be_told_alone(history: list[list[tuple[str, ...]]]) -> None:
    """Whatever another one says at the same time, of sessions of the same names, by requests of the same ids."""
    assert what_is_told(history, "ab") == what_is_told(history, "a")
