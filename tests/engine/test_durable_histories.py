"""Durable sessions in random histories of clients, crashes and a store that fails: what was told as durable is there, what was
closed is not, and nobody has two sessions."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from stepstream_server.engine.ports import Opened
from stepstream_server.errors import Reason, StepStreamError
from support.durable import Durable
from support.engine import Answer

CLIENTS = 3
FAILS = (Reason.STORE_UNAVAILABLE,)  # whoever is told this asks again


@dataclass
class Client:
    """One who wants a session, gives it steps, and closes it, whatever dies meanwhile."""

    stream: int
    name: str  # asked for; empty: the server makes one
    request_id: str
    wants: str = "open"  # what it has asked for and has not been told, or "": nothing
    session: Opened | None = None  # as it was last told
    attached: bool = False
    id: str = ""  # that it was told first
    inputs: list[float] = field(default_factory=list)  # all that it has ever given, by number
    sent: int = 0  # of them, to the server of now
    answered: int = 0
    durable: int = 0  # steps that it was told are in the store
    closed: bool = False


class History:
    """Clients, and the server of now."""

    def __init__(self) -> None:
        self.h = Durable(idle_ttl_seconds=1e6)
        self.numbers = itertools.count()
        self.clients = [self.client() for _ in range(CLIENTS)]
        self.over: list[Client] = []  # whose sessions are closed
        self.asked: dict[int, Client] = {}  # by number of the request

    def client(self) -> Client:
        """A new one."""
        number = next(self.numbers)
        return Client(100 + number, f"s{number}" if number % 2 else "", f"r{number}")

    def ask(self, client: Client) -> None:
        """Asks for what the client wants, if nobody has yet."""
        if client.wants and client not in self.asked.values():
            ask = {"open": self._open, "attach": self._attach, "close": self._close}[client.wants]
            self.asked[ask(client)] = client

    def _open(self, client: Client) -> int:
        return self.h.open_durably([client.name], stream=client.stream, request_id=client.request_id)

    def _attach(self, client: Client) -> int:
        assert client.session is not None
        return self.h.attach_again(client.session, stream=client.stream, acked=client.answered, replay_from=client.durable)

    def _close(self, client: Client) -> int:
        assert client.session is not None
        return self.h.submit_close(client.session)

    def listen(self) -> None:
        """Takes one turn, and has each client hear what it was told."""
        outcomes = self.h.turn()
        replies, self.h.ear.replies = self.h.ear.replies, {}
        for request, reply in replies.items():
            if request in self.asked:
                self._hear(self.asked.pop(request), reply)
        for (stream, _handle), count in self.h.ear.durable.items():
            for client in self.clients:
                if client.stream == stream:
                    client.durable = max(client.durable, count)
        for outcome in outcomes:
            (client,) = [each for each in (*self.clients, *self.over) if each.stream == outcome.stream]
            if isinstance(outcome, Answer):
                self._check(client, outcome)
        self.h.engine.books.check()
        self._check_dirty()

    def _check_dirty(self) -> None:
        """All that the store does not have is in the group that it writes, or will be in the next one."""
        table, durable = self.h.engine.books.table, self.h.engine._durable
        assert durable is not None
        writing = durable.writing
        flight = writing._flight.sessions.tolist() if writing._flight else []
        wanting = np.flatnonzero(table.durable & (table.durable_seq < table.next_seq)).tolist()
        assert set(wanting) <= {*self.h.engine.books.dirty.tolist(), *flight}
        assert set(writing.withheld.sessions) <= set(wanting)

    def _check(self, client: Client, answer: Answer) -> None:
        sums = np.cumsum(client.inputs, dtype=np.float32)
        assert answer.sums == tuple(sums[answer.first : answer.first + answer.length].tolist())
        client.answered = max(client.answered, answer.first + answer.length)

    def _hear(self, client: Client, reply: Any) -> None:
        value = reply[0] if isinstance(reply, list) else reply
        if isinstance(value, StepStreamError):
            assert value.reason in FAILS, value.message
        elif client.wants == "close":
            client.wants, client.closed = "", True
            self.clients[self.clients.index(client)] = self.client()
            self.over.append(client)
        else:
            assert isinstance(value, Opened) and value.durable
            assert client.id in ("", value.id), "a repeat of a request has the same session"
            assert client.durable <= value.next_seq <= len(client.inputs), "what was told as durable is there"
            secret = value.secret or (client.session.secret if client.session else b"")
            client.session, client.id = replace(value, secret=secret), value.id
            client.durable = max(client.durable, value.durable_seq)
            client.wants, client.attached, client.sent = "", True, value.next_seq

    # What happens ----------------------------------------------------------------------------------------------------

    def give(self, index: int, count: int) -> None:
        """The client has some more inputs."""
        client = self.clients[index]
        client.inputs += [float(1 + (len(client.inputs) + step) % 5) for step in range(count)]
        self.send(index)

    def send(self, index: int) -> None:
        """Sends what the server of now has not been told, what is told again included."""
        client = self.clients[index]
        if client.attached and client.session is not None and client.wants == "" and client.sent < len(client.inputs):
            acked = [min(client.answered, client.sent)]
            self.h.send([client.session], [client.sent], [client.inputs[client.sent :]], stream=client.stream, acked=acked)
            client.sent = len(client.inputs)

    def close(self, index: int) -> None:
        """The client needs its session no more."""
        if self.clients[index].wants == "" and self.clients[index].session is not None:
            self.clients[index].wants = "close"

    def store(self, how: str, count: int) -> None:
        """The store does, or does not do, some of what it is asked."""
        for _ in range(min(count, len(self.h.store.tasks))):
            getattr(self.h.store, how)()

    def crash(self, index: int) -> None:
        """The server dies; of what the store was asked, some more may be done."""
        self.store("die", index)
        self.h.crash()
        self.asked.clear()
        for client in self.clients:
            client.attached = False
            client.wants = client.wants or "attach"

    def clock(self, seconds: float) -> None:
        """Time passes."""
        self.h.clock.advance(seconds)

    def turn(self) -> None:
        """The engine turns, with what clients want."""
        for client in self.clients:
            self.ask(client)
        self.listen()

    def exchange(self, how: str) -> None:
        """The engine asks, and hears of all that it has asked."""
        self.turn()
        self.store(how, 1 << 30)
        self.turn()

    def finish(self) -> None:
        """All goes well from here on."""
        for _ in range(12):
            self.clock(1.0)
            self.turn()
            for index in range(CLIENTS):
                self.send(index)
            self.store("step", 1 << 30)
        self.listen()


index = st.integers(0, CLIENTS - 1)
actions = st.one_of(
    st.tuples(st.just("give"), index, st.integers(1, 4)),
    st.tuples(st.just("give"), index, st.integers(1, 4)),
    st.tuples(st.just("close"), index),
    st.tuples(st.just("store"), st.sampled_from(["step", "step", "fail", "lose_reply"]), st.integers(1, 3)),
    st.tuples(st.just("store"), st.just("step"), st.integers(1, 3)),
    st.tuples(st.just("crash"), st.integers(0, 2)),
    st.tuples(st.just("clock"), st.sampled_from([0.05, 0.2, 1.0])),
    st.tuples(st.just("turn")),
    st.tuples(st.just("turn")),
    st.tuples(st.just("exchange"), st.sampled_from(["step", "step", "fail", "lose_reply"])),
    st.tuples(st.just("exchange"), st.sampled_from(["step", "fail", "lose_reply"])),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(actions, min_size=10, max_size=50))
def test_nothing_that_was_told_as_durable_is_lost_and_nothing_closed_comes_back(history: list[Any]) -> None:
    """Whatever dies and fails, in whatever order; in the end all is as each client was told, in memory and in the store."""
    world = History()
    world.finish()  # sessions are open, as at nearly all times
    for action, *details in history:
        getattr(world, action)(*details)
    world.finish()
    wanted = sorted(client.id for client in world.clients)
    assert all(client.wants == "" and client.attached and client.answered == len(client.inputs) for client in world.clients)
    assert sorted(world.h.stored()) == wanted
    table = world.h.engine.books.table
    assert sorted(table.id(int(session)) for session in np.flatnonzero(table.status)) == wanted
    for client in world.over:
        assert client.session is not None
        refused = world.h.attached(client.session, stream=999)
        assert isinstance(refused, StepStreamError) and refused.reason is Reason.SESSION_CLOSED
