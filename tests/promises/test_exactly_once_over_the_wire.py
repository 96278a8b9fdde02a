"""Exactly once, over real gRPC: random histories of everything that callers and connections do, against the reference.

Every answer, every refusal's reason and expected number, every count that the server names and, at the end, every session's
state is compared.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Coroutine, Iterator, Sequence
from typing import Any, ClassVar, TypeVar

import pytest
import uvloop
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from stepstream_server.engine.ports import NO_SEQ, Keep
from support.history import Live, Row, Zero
from support.world import POISON, Served, World

_HANG_SECONDS = 30  # an outcome that never comes is a failure, not a wait for ever
_MOST_SESSIONS = 6
# For every change, and with `--long`. Of eight faults put into the ledger by hand five were found by the 71st history, one by the
# 135th, one by about every 300th (and by tests/engine at once); one shows in about every 2,000th only: that is for `--long`.
_HISTORIES, _MANY_HISTORIES = 300, 10_000
Found = TypeVar("Found")
Rows = list[list[float]]

which = st.integers(0, _MOST_SESSIONS - 1)
place = st.integers(0, 2)
offset = st.sampled_from([0, 0, 0, 0, 1, 2, -1, -1, -2, -2, -3, -5, -9])
# Small whole numbers: their sums are exact in float32, so that equality is meant literally.
number = st.integers(-8, 8).map(float)
sound = st.lists(number, min_size=1, max_size=4)
spoilt = st.tuples(number, number, st.sampled_from([POISON, POISON, math.nan]), number).map(list) | st.just([POISON])
values = st.one_of(*[sound] * 11, spoilt)
queued = st.lists(values, max_size=3)  # what is still queued when something happens
long = st.lists(st.lists(number, min_size=3, max_size=4), min_size=2, max_size=2)
copied = st.sampled_from([None, None, 0, -1, -2, -3, -4, 1])
keep = st.sampled_from([Keep.ALL, Keep.ALL, Keep.LAST, Keep.NONE])
secret = st.sampled_from(["right", "right", "right", "none", "wrong"])
key = st.sampled_from(["right", "right", "right", "wrong"])
fate = st.sampled_from(["sent", "sent", "sent", "twice", "lost"])


class ExactlyOnce(RuleBasedStateMachine):
    """One history.

    Rules have no preconditions but do nothing where they do not apply: which sessions there are may depend on timing, for
    example on whether a fork was asked for in time, and which rules there are must not.
    """

    servers: ClassVar[Servers]

    def __init__(self) -> None:
        super().__init__()
        self.world = World(self.servers.current())
        self.sound = True  # nothing has gone wrong so far

    def run(self, doing: Coroutine[Any, Any, None]) -> None:
        self.sound = False
        self.servers.run(doing)
        self.sound = True

    def queue(self, live: Live, rows: Rows) -> None:
        """Steps that wait behind a launch that goes on until somebody needs the engine."""
        if rows:
            self.world.hold(live)
            self.run(self.world.pipeline(live, rows, Keep.ALL if len(rows) == 1 else Keep.LAST))

    def held(self, index: int) -> tuple[int, list[Live]]:
        """A stream that holds sessions, and these, a chosen one first; none if no stream does."""
        held = [(place, live) for place in self.world.streams for live in self.world.at(place).values()]
        if not held:
            return 0, []
        place, chosen = held[index % len(held)]
        return place, [chosen, *(each for each in self.world.at(place).values() if each is not chosen)]

    @initialize(counts=st.sampled_from([(1, 0), (1, 1), (2, 0), (2, 1)]), rows=st.lists(sound, max_size=2), keep=keep)
    def begin(self, counts: tuple[int, int], rows: list[list[float]], keep: Keep) -> None:
        for at, count in enumerate(counts):
            if count:
                self.run(self.world.open(at, count, None))
        self.run(self.world.pipeline(self.world.sessions[0], rows, keep))

    @rule(at=place, count=st.integers(1, 2), idle_ttl=st.sampled_from([None, None, 3.0, 100.0]))
    def open(self, at: int, count: int, idle_ttl: float | None) -> None:
        if len(self.world.sessions) < _MOST_SESSIONS:
            self.run(self.world.open(at, count, idle_ttl))

    @rule(at=place, index=which)
    def open_again(self, at: int, index: int) -> None:
        for request, made in one_of(self.world.openings, index):
            self.run(self.world.open_again(at, request, made))

    @rule(index=which, rows=st.lists(st.tuples(offset, values), min_size=1, max_size=3), keep=keep, fate=fate, acks=st.booleans())
    def block(self, index: int, rows: list[tuple[int, list[float]]], keep: Keep, fate: str, acks: bool) -> None:
        at, lives = self.held(index)
        sent = [
            (live, Row(max(0, live.point + offset), tuple(numbers), keep))
            for live, (offset, numbers) in zip(lives, rows, strict=False)
        ]
        if sent:
            message = self.world.block(at, sent, keep, acks)
            self.world.messages.append(message)
            for _ in range({"sent": 1, "twice": 2, "lost": 0}[fate]):
                self.run(self.world.send(message))

    @rule(index=which, rows=st.lists(values, min_size=1, max_size=4), keep=keep, overlap=st.sampled_from([0, 0, 1, 2]))
    def pipeline(self, index: int, rows: list[list[float]], keep: Keep, overlap: int) -> None:
        for live in self.held(index)[1][:1]:
            self.run(self.world.pipeline(live, rows, keep, overlap))

    @rule(index=which, offsets=st.lists(offset, min_size=1, max_size=2))
    def reset(self, index: int, offsets: list[int]) -> None:
        at, lives = self.held(index)
        zeros = [(live, Zero(max(0, live.point + each))) for live, each in zip(lives, offsets, strict=False)]
        if zeros:
            message = self.world.reset(at, zeros)
            self.world.messages.append(message)
            self.run(self.world.send(message))

    @rule(back=st.integers(0, 5))
    def send_again(self, back: int) -> None:
        for message in one_of(self.world.messages, -1 - back):
            self.run(self.world.send(message))

    @rule(index=which, offset=st.sampled_from([0, 0, -1, -2, -4, 3]))
    def acknowledge(self, index: int, offset: int) -> None:
        for live in self.held(index)[1][:1]:
            self.run(self.world.acknowledge(live, max(0, live.known.next_seq + offset)))

    @rule(index=which, keep=keep)
    def acknowledge_behind_repeat(self, index: int, keep: Keep) -> None:
        for live in self.held(index)[1][:1]:
            self.run(self.world.acknowledge_behind_repeat(live, keep))

    @rule(index=which)
    def hear(self, index: int) -> None:
        for live in self.held(index)[1][:1]:
            self.run(self.world.hear(live))

    @rule(
        index=which, queued=queued, at=place, back=st.integers(0, 9), secret=st.sampled_from(["right", "right", "right", "wrong"])
    )
    def attach(self, index: int, queued: Rows, at: int, back: int, secret: str) -> None:
        for live in one_of(self.world.sessions, index):
            self.queue(live, queued)
            self.run(self.world.attach(live, at, back, secret))

    @rule(index=which, queued=queued, back=st.integers(0, 9))
    def cut(self, index: int, queued: Rows, back: int) -> None:
        at, lives = self.held(index)
        if lives:
            self.queue(lives[0], queued)
            self.run(self.world.cut(at, back))

    @rule(index=which, queued=queued, count=st.integers(1, 2), close=st.booleans())
    def detach(self, index: int, queued: Rows, count: int, close: bool) -> None:
        at, lives = self.held(index)
        if lives:
            self.queue(lives[0], queued)
            self.run(self.world.detach(at, lives[:count], close))

    @rule(index=which, queued=queued, offset=st.none() | offset, values=values, keep=keep, secret=secret)
    def step(self, index: int, queued: Rows, offset: int | None, values: list[float], keep: Keep, secret: str) -> None:
        for live in one_of(self.world.sessions, index):
            self.queue(live, queued)
            seq = NO_SEQ if offset is None else max(0, live.point + offset)
            self.run(self.world.step(live, seq, values, keep, secret))

    @rule(index=which, queued=queued, secret=secret)
    def close(self, index: int, queued: Rows, secret: str) -> None:
        for live in one_of(self.world.sessions, index):
            self.queue(live, queued)
            self.run(self.world.close(live, secret))

    @rule(index=which, queued=queued | long, offset=copied, count=st.integers(1, 2), secret=secret)
    def fork(self, index: int, queued: Rows, offset: int | None, count: int, secret: str) -> None:
        for live in one_of(self.world.sessions[:_MOST_SESSIONS], index):
            self.queue(live, queued)
            at_seq = None if offset is None else max(0, live.point + offset)
            self.run(self.world.fork(live, at_seq, count, secret))

    @rule(index=which, queued=queued | long, offset=copied, close=st.booleans(), secret=secret)
    def export(self, index: int, queued: Rows, offset: int | None, close: bool, secret: str) -> None:
        for live in one_of(self.world.sessions, index):
            self.queue(live, queued)
            at_seq = None if offset is None else max(0, live.point + offset)
            self.run(self.world.export(live, at_seq, close, secret))

    @rule(index=which, new_id=st.booleans(), spoil=st.sampled_from([False, False, False, True]))
    def bring(self, index: int, new_id: bool, spoil: bool) -> None:
        for snapshot in one_of(self.world.snapshots, index):
            self.run(self.world.bring(snapshot, new_id, spoil))

    @rule(seconds=st.sampled_from([1.0, 1.0, 2.0, 4.0, 11.0]))
    def wait(self, seconds: float) -> None:
        self.run(self.world.wait(seconds))

    @rule(index=which)
    def knock(self, index: int) -> None:
        for dead, reason in one_of(self.world.dead, index):
            self.run(self.world.knock(dead, reason))

    def teardown(self) -> None:
        try:
            if self.sound:
                self.run(self.world.finish())
        finally:
            if self.sound:
                self.world.leave()
            else:
                self.servers.replace()


def one_of(found: Sequence[Found], index: int) -> Iterator[Found]:
    """One of them, unless there is none."""
    if found:
        yield found[index % len(found)]


class Servers:
    """One server for all histories, and a fresh one after each that failed; all in one event loop with their clients."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *, on_the_loop: bool) -> None:
        self._loop = loop
        self._on_the_loop = on_the_loop  # whether it turns the engine
        self._served: Served | None = None

    def current(self) -> Served:
        """Starts it, if need be."""
        if self._served is None:
            self._served = self._loop.run_until_complete(Served.start(on_the_loop=self._on_the_loop))
        return self._served

    def run(self, doing: Coroutine[Any, Any, None]) -> None:
        """Until it is done, or hangs."""

        async def in_time() -> None:
            async with asyncio.timeout(_HANG_SECONDS):
                await doing

        self._loop.run_until_complete(in_time())

    def replace(self) -> None:
        """Stops the server, with all that is left in it."""
        if self._served is not None:
            served, self._served = self._served, None
            self._loop.run_until_complete(served.stack.aclose())


@pytest.mark.slow
@pytest.mark.timeout(0)  # the more examples, the longer; each rule has its own limit
@pytest.mark.parametrize("on_the_loop", [True, False])
def test_every_history_has_the_outcomes_of_the_reference_over_the_wire(on_the_loop: bool, long_run: bool) -> None:
    """Drop, duplicate, reorder, straddle, pipeline, take over, fork, reset, move, close, expire and fail midway, at random."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        ExactlyOnce.servers = Servers(runner.get_loop(), on_the_loop=on_the_loop)
        try:
            run_state_machine_as_test(
                ExactlyOnce,
                settings=settings(
                    max_examples=_MANY_HISTORIES if long_run else _HISTORIES,
                    stateful_step_count=12,
                    deadline=None,
                    print_blob=True,
                    suppress_health_check=list(HealthCheck),
                ),
            )
        finally:
            ExactlyOnce.servers.replace()
