"""A world of sessions, streams and one-shot callers around a hand-turned engine, and random histories of what they do."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from hypothesis import strategies as st

from stepstream_server.engine.ports import NO_SEQ, NO_STREAM, Keep, Opened
from support.backend import FakeBackend
from support.engine import Answer, Harness, Refusal

SESSIONS = 4


class World(Harness):
    """Sessions, who holds them under which handle, and what each stream has asked and been told."""

    lands = False

    def __init__(self, depth: int = 1, **settings: float) -> None:
        super().__init__(FakeBackend(slots=SESSIONS, depth=depth), idle_ttl_seconds=10, max_pending_steps=20, **settings)
        self.sessions: dict[int, tuple[Opened, int, int]] = {}  # by index: the session, its stream, its handle
        self.asked: dict[tuple[int, int], list[int]] = {}  # by (stream, handle): numbers of steps sent
        self.told: dict[tuple[int, int], list[int]] = {}
        self.left: set[tuple[int, int]] = set()  # streams and handles that may not hear of everything
        self.sums: dict[tuple[int, int, int], float] = {}  # by (session, generation, seq): what was answered first
        self.owners: dict[tuple[int, int], tuple[int, int]] = {}  # (session, generation) of each (stream, handle)
        self.handles, self.calls = itertools.count(1), itertools.count(100)
        self.lengths: dict[int, int] = {}  # steps of each one-shot call, by its stream

    def play(self, history: Any) -> None:
        """Does all that the history says after the beginning, and lets the engine finish."""
        for action, *details in [*BEGINNING, *history]:
            ACTIONS[action](self, *details)
        self.listen()
        while self.engine.busy:
            self.listen()

    def point(self, index: int) -> int:
        """The session's admission point."""
        session, table = self.sessions[index][0], self.engine.books.table
        return int(table.admitted[session.session]) if table.generation[session.session] == session.generation else 0

    def ask_for(self, stream: int, handle: int, first: int, length: int) -> None:
        self.asked.setdefault((stream, handle), []).extend(range(first, first + length))

    def listen(self) -> None:
        """Takes one turn, notes what was told, and checks the books, slots and streams."""
        for outcome in self.turn():
            key = outcome.stream, outcome.handle
            self.told.setdefault(key, []).extend(range(outcome.first, outcome.first + outcome.length))
            if isinstance(outcome, Answer):
                seqs = range(outcome.first + outcome.length - len(outcome.sums), outcome.first + outcome.length)
                for seq, value in zip(seqs, outcome.sums, strict=True):
                    assert self.sums.setdefault((*self.owners[key], seq), value) == value
        self.left |= {(stream, handle) for stream, handle, _ in self.ear.detached}
        self.engine.books.check()
        table, free = self.engine.books.table, self.backend.free
        assert sorted([*free, *table.slot[np.flatnonzero(table.status)].tolist()]) == list(range(SESSIONS))
        assert self.engine.stats().streams == len({int(stream) for stream in table.stream if stream != NO_STREAM})


index = st.integers(0, SESSIONS - 1)
numbers = st.lists(st.sampled_from([1.0, -2.0, 3.0, 3e38, float("nan")]) | st.integers(-8, 8).map(float), min_size=1, max_size=7)
rows = st.dictionaries(index, st.tuples(st.sampled_from([0, 0, 0, 1, -1, -3, -5]), numbers), min_size=1, max_size=4)
actions = st.one_of(
    st.tuples(st.just("block"), rows, st.sampled_from(Keep), st.booleans(), st.booleans()),
    st.tuples(st.just("block"), rows, st.sampled_from(Keep), st.booleans(), st.just(False)),
    st.tuples(st.just("reset"), index, st.integers(-3, 1)),
    st.tuples(st.just("acknowledge"), index, st.integers(-2, 6)),
    st.tuples(st.just("attach"), index, st.integers(1, 3), st.integers(0, 5)),
    st.tuples(st.just("detach"), index, st.booleans()),
    st.tuples(st.just("end stream"), st.integers(1, 3)),
    st.tuples(st.just("call"), index, st.none() | st.integers(-4, 1), numbers, st.booleans(), st.booleans()),
    st.tuples(st.just("sequence"), index, st.none() | st.integers(0, 3), numbers, st.booleans(), st.booleans()),
    st.tuples(st.just("sequence"), index, st.none() | st.integers(0, 3), numbers, st.just(False), st.booleans()),
    st.tuples(st.just("caller gone")),
    st.tuples(st.just("open"), index, st.integers(1, 3)),
    st.tuples(st.just("clock"), st.sampled_from([1.0, 6.0, 11.0])),
    st.tuples(st.just("turn")),
    st.tuples(st.just("turn")),
)


HISTORIES = st.lists(actions, min_size=12, max_size=40)  # short ones hardly ever acknowledge what was answered
BEGINNING = [["open", 0, 1], ["open", 1, 1], ["open", 2, 2]]


def _block(world: World, given_rows: dict[int, Any], keep: Keep, acknowledges: bool, late: bool) -> None:
    known = {index: row for index, row in given_rows.items() if index in world.sessions}
    for stream in {world.sessions[index][1] for index in known}:
        mine = [index for index in known if world.sessions[index][1] == stream]
        firsts = [max(0, world.point(index) + known[index][0]) for index in mine]
        for index, first in zip(mine, firsts, strict=True):
            world.ask_for(stream, world.sessions[index][2], first, len(known[index][1]))
        world.send(
            [world.sessions[index][0] for index in mine],
            firsts,
            [known[index][1] for index in mine],
            stream=stream,
            handles=[world.sessions[index][2] for index in mine],
            keep=keep,
            acked=[max(0, first - 2) for first in firsts] if acknowledges else None,
            deadline=world.clock() + (0 if late else 1e9),
        )


def _reset(world: World, index: int, offset: int) -> None:
    if index in world.sessions:
        session, stream, handle = world.sessions[index]
        seq = max(0, world.point(index) + offset)
        world.ask_for(stream, handle, seq, 1)
        world.reset(session, seq, stream=stream, handle=handle)


def _acknowledge(world: World, index: int, offset: int) -> None:
    if index in world.sessions:
        session, stream, handle = world.sessions[index]
        world.acknowledge(session, int(world.engine.books.table.acked[session.session]) + offset, stream=stream, handle=handle)


def _attach(world: World, index: int, stream: int, acked: int) -> None:
    if index not in world.sessions:
        return
    session, *former = world.sessions[index]
    handle = next(world.handles)
    world.left.add((former[0], former[1]))
    world.owners[stream, handle] = session.session, session.generation
    attached = world.attach(session, stream=stream, handle=handle, acked=acked)
    if isinstance(attached, Opened):
        world.sessions[index] = session, stream, handle
        world.ask_for(stream, handle, attached.acked, attached.next_seq - attached.acked)


def _detach(world: World, index: int, close: bool) -> None:
    if index in world.sessions:
        session, stream, handle = world.sessions[index]
        world.left.add((stream, handle))
        world.detach(session, stream=stream, handle=handle, close=close)


def _end_stream(world: World, stream: int) -> None:
    world.left |= {key for key in world.asked if key[0] == stream}
    world.end_stream(stream)


def _call(world: World, index: int, offset: int | None, values: list[float], secret: bool, late: bool) -> None:
    if index in world.sessions:
        session, stream = world.sessions[index][0], next(world.calls)
        seq = NO_SEQ if offset is None else max(0, world.point(index) + offset)
        world.owners[stream, 0] = session.session, session.generation
        world.left.add((stream, 0))  # its number is the engine's choice
        deadline = world.clock() + (0 if late else 1e9)
        world.call(session, seq, values, stream=stream, secret=session.secret if secret else b"", deadline=deadline)
        world.asked[stream, 0] = list(range(10_000))
        world.lengths[stream] = len(values)


def _sequence(world: World, index: int, seq: int | None, values: list[float], start: bool, end: bool) -> None:
    """A one-shot step, under an id of one-shot callers or of streams, that may begin or end its session."""
    stream = next(world.calls)
    name = world.sessions[index][0].id if index in world.sessions and len(values) > 4 else f"sequence-{index}"
    seqs = [NO_SEQ if seq is None else seq]
    world.owners[stream, 0] = -stream, 0  # what it answers belongs to any session of that id
    world.left.add((stream, 0))
    world.call_many([name], seqs, [values], stream=stream, starts=[start], ends=[end])
    world.asked[stream, 0] = list(range(10_000))
    world.lengths[stream] = len(values)


def _caller_gone(world: World) -> None:
    """The newest one-shot caller stops listening."""
    if world.lengths:
        stream, _ = world.lengths.popitem()
        world.hang_up(stream)


def _open(world: World, index: int, stream: int) -> None:
    if index in world.sessions and isinstance(world.get(world.sessions[index][0].id), Refusal | Exception):
        del world.sessions[index]
    if index not in world.sessions:
        handle = next(world.handles)
        (opened,) = world.open(1, stream=stream, first_handle=handle)
        if isinstance(opened, Opened):
            world.sessions[index] = opened, stream, handle
            world.owners[stream, handle] = opened.session, opened.generation


ACTIONS: dict[str, Any] = {
    "block": _block,
    "reset": _reset,
    "acknowledge": _acknowledge,
    "attach": _attach,
    "detach": _detach,
    "end stream": _end_stream,
    "call": _call,
    "sequence": _sequence,
    "caller gone": _caller_gone,
    "open": _open,
    "clock": lambda world, seconds: world.clock.advance(seconds),
    "turn": World.listen,
}
