"""Sequences against a plain reference that does everything at once, on random histories of several callers and streams."""

from __future__ import annotations

import itertools
import math
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from stepstream_server.engine.ports import NO_SEQ, Close, Ending, Opened
from stepstream_server.errors import Reason
from support.backend import FakeBackend
from support.engine import Answer, Harness
from support.sequence_reference import Outcome, ReferenceSequence, ReferenceTable, Row
from support.sequences import closed, listed

IDS = ("a", "b", "c")
WINDOW = 300
IDLE = 10.0  # seconds


class World:
    """An engine and its reference, told the same."""

    def __init__(self) -> None:
        self.h = Harness(FakeBackend(slots=64), window_steps=WINDOW, idle_ttl_seconds=IDLE, max_batch=2)
        self.reference = ReferenceTable(WINDOW)
        self.expected: dict[tuple[int, int], list[Outcome]] = {}  # by (stream, handle)
        self.told: dict[tuple[int, int], list[Outcome]] = {}
        self.opened: dict[str, Opened] = {}
        self.handles: dict[str, tuple[int, int]] = {}  # of the stream that holds it
        self.numbers = itertools.count()

    def listen(self, *, settle: bool) -> None:
        """Notes what is told."""
        for sequence in self.reference.live.values() if settle else ():
            sequence.dropped = False
        for each in self.h.settle() if settle else self.h.turn():
            outcomes = list(each.sums) if isinstance(each, Answer) else [each.reason] * each.length
            self.told.setdefault((each.stream, each.handle), []).extend(outcomes)

    def call(self, stream: int, rows: list[Row]) -> None:
        """One command of rows of different ids."""
        if not rows:
            return
        if any(self._looks_back(row) for row in rows):
            self.listen(settle=True)  # which answers have been acknowledged by then is a matter of turns
            for name, sequence in self.reference.live.items():
                sequence.acked = self.h.get(name).acked
        handles = list(itertools.islice(self.numbers, len(rows)))
        held = any(row.end and row.id in self.reference.live and self.reference.live[row.id].held for row in rows)
        for handle, row in zip(handles, rows, strict=True):
            self.expected[stream, handle] = self.reference.call(row)
        self.h.call_many(
            [row.id for row in rows],
            [NO_SEQ if row.seq is None else row.seq for row in rows],
            [row.values for row in rows],
            stream=stream,
            handles=handles,
            secrets=[row.secret for row in rows],
            starts=[row.start for row in rows],
            ends=[row.end for row in rows],
            deadline=self.h.clock() + (0.0 if rows[0].late else 1e9),
        )
        if held:
            self.listen(settle=True)  # until the turn in which it ends a session is its stream's

    def _looks_back(self, row: Row) -> bool:
        """It repeats steps, but for the whole row with which a session has ended; or names the number of one that was
        dropped."""
        sequence = self.reference.live.get(row.id)
        if row.start or row.seq is None:
            return False
        if sequence is None:
            return not self.reference.ended_with(row)
        return sequence.dropped or row.seq < len(sequence.sums)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 80))
def test_every_history_of_sequences_has_the_outcomes_of_the_reference(seed: int, length: int) -> None:
    """Starts, ends, replacements, repeats and late steps sent ahead by several callers, among streams that hold the same
    sessions. Whoever names no number never hears that it was another one."""
    world, random = World(), Random(seed)
    for action in random.choices(list(ACTIONS), weights=list(ACTIONS.values()), k=length):
        action(world, random)
    world.listen(settle=True)
    assert world.told == world.expected
    assert sorted(listed(world.h)) == sorted(world.reference.live)
    assert closed(world.h) == world.reference.closed
    assert world.h.engine.stats().sessions == len(world.reference.live)
    assert len(world.h.backend.free) == world.h.backend.slots - len(world.reference.live)
    for name, sequence in world.reference.live.items():
        info = world.h.get(name)
        assert (info.next_seq, info.attached) == (len(sequence.sums), sequence.held)
        assert world.h.backend.states[info.slot, 0] == (sequence.sums[-1] if sequence.sums else 0.0)


def _call(world: World, random: Random) -> None:
    late = random.random() < 0.2
    rows = [_row(world, random, name, late) for name in random.sample(IDS, random.choice([1, 1, 1, 2, 3]))]
    stream = random.choice([7, 8, 9])
    world.call(stream, rows)
    if random.random() < 0.2:  # a retry that does not wait
        world.call(stream, [row for row in rows if row.seq is not None])


def _row(world: World, random: Random, name: str, late: bool) -> Row:
    sequence = world.reference.live.get(name)
    start = random.random() < (0.7 if sequence is None else 0.1)
    end = random.random() < 0.2
    point = 0 if start or sequence is None else len(sequence.sums)
    numbered = random.random() < 0.6
    seq = max(0, point + random.choice([0] * 12 + [-3, -2, -1, 1])) if numbered else None
    values = [math.nan if random.random() < 0.02 else float(random.randint(-8, 8)) for _ in range(random.choice([1, 1, 1, 2, 5]))]
    if start and random.random() < 0.02:
        values = [1.0] * (WINDOW + 1)
    secret = sequence.secret if sequence is not None and random.random() < 0.3 else b""
    return Row(name, seq, tuple(values), start, end, secret, late)


def _open(world: World, random: Random) -> None:
    name = random.choice(IDS)
    world.listen(settle=True)
    opened = world.h.open_as(name)
    assert isinstance(opened, Opened) is (name not in world.reference.live)
    if isinstance(opened, Opened):
        world.opened[name] = opened
        world.reference.open(name, opened.secret)


def _attach(world: World, random: Random) -> None:
    name, sequence = _some(world, random)
    if sequence is None or not sequence.secret:
        return
    world.listen(settle=True)
    world.handles[name] = 100 + next(world.numbers), 0
    stream, handle = world.handles[name]
    attached = world.h.attach(world.opened[name], stream=stream, handle=handle, acked=len(sequence.sums))
    assert isinstance(attached, Opened)
    sequence.held, sequence.acked = True, len(sequence.sums)


def _block(world: World, random: Random) -> None:
    name, sequence = _some(world, random)
    if sequence is None or not sequence.held:
        return
    world.listen(settle=True)
    (stream, handle), seq, value = world.handles[name], len(sequence.sums), float(random.randint(-8, 8))
    world.expected.setdefault((stream, handle), []).append(sequence.step(value, keep=True))
    world.h.send([world.opened[name]], [seq], [[value]], stream=stream, handles=[handle], acked=[seq])
    sequence.acked = max(sequence.acked, seq)


def _detach(world: World, random: Random) -> None:
    name, sequence = _some(world, random)
    if sequence is not None and sequence.held:
        world.listen(settle=True)
        stream, handle = world.handles[name]
        world.h.detach(world.opened[name], stream=stream, handle=handle)
        sequence.held = False


def _close(world: World, random: Random) -> None:
    name, sequence = _some(world, random)
    if sequence is not None and not sequence.held:
        world.listen(settle=True)
        assert world.h.ask(Close(world.h.request(), name, b"")) == len(sequence.sums)
        world.reference.end(name, Ending.CLOSED, Reason.SESSION_CLOSED)


def _wait(world: World, random: Random) -> None:
    """Long enough for everything to expire."""
    world.listen(settle=True)
    world.h.clock.advance(IDLE + 1)
    world.listen(settle=True)
    for name in list(world.reference.live):
        world.reference.end(name, Ending.EXPIRED, Reason.SESSION_EXPIRED)


def _turn(world: World, random: Random) -> None:
    world.listen(settle=False)


def _some(world: World, random: Random) -> tuple[str, ReferenceSequence | None]:
    name = random.choice(IDS)
    return name, world.reference.live.get(name)


ACTIONS = {_call: 30, _turn: 8, _open: 2, _attach: 2, _block: 2, _detach: 2, _close: 1, _wait: 1}  # how often
