"""Random histories of sessions that are stepped, rolled out, forked and closed by many callers at once, against plain lists.

What callers are told says which steps each session has had; after every turn its state must be that of just these steps, and all
that was drawn must be what the model says after them. No caller names a number, so none is told that it was another one, whoever
leaves in front of it.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pytest

from stepstream_server.engine.ports import NO_SEQ, NO_STREAM, Begun, Close, Commit, Forked, Open, Opened, RolloutEnding
from stepstream_server.errors import Reason, StepStreamError
from support.engine import Answer, Refusal
from support.rollouts import Rolling, after, text

HISTORIES = 50
SESSIONS = 4
PATHS = 5
GONE = (Reason.SESSION_CLOSED, Reason.SESSION_NOT_FOUND)


@dataclass
class Told:
    """A session as its callers know it."""

    opened: Opened
    steps: dict[int, int] = field(default_factory=dict)  # tokens by number; those of a rollout as soon as they may be applied
    closed: bool = False


@dataclass
class Sent:
    """A call: steps, or a rollout."""

    told: Told | None
    tokens: list[int]  # of a rollout: its prompt
    request: int = 0
    commit: Commit = Commit.NONE
    wanted: int = 0  # draws; 0: it is no rollout
    seed: int = 0
    temperature: float = 0.0
    start: int | None = None  # where it has begun
    expected: list[int] = field(default_factory=list)  # its draws
    left: bool = False  # nobody listens any more
    over: bool = False


class World(Rolling):
    """Sessions and calls under way."""

    def __init__(self, slow: bool, max_batch: int) -> None:
        super().__init__(PATHS, SESSIONS, slow=slow, max_batch=max_batch, max_pending_steps=60)
        self.sessions: list[Told] = []
        self.calls: dict[int, Sent] = {}  # by stream
        self.forks: dict[int, tuple[Told, int]] = {}  # by request: of which session, and where
        self.numbers = itertools.count(1000)
        self.ways: Counter[Any] = Counter()  # how calls have ended

    def chosen(self, index: int) -> Told | None:
        return self.sessions[index % len(self.sessions)] if self.sessions else None

    def stands(self, told: Told) -> int:
        return int(self.engine.books.table.next_seq[told.opened.session])

    # Actions ---------------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        request = self.request()
        self.door.submit(Open(NO_STREAM, request, [""]))
        self.listen()
        (opened,) = self.ear.replies[request]
        if isinstance(opened, Opened):
            self.sessions.append(Told(opened))

    def step(self, index: int, tokens: list[int]) -> None:
        if (told := self.chosen(index)) is not None:
            stream = next(self.numbers)
            self.calls[stream] = Sent(told, tokens)
            self.call(told.opened, NO_SEQ, [*map(float, tokens)], stream=stream)

    def roll_out(self, index: int | None, commit: Commit, prompt: list[int], wanted: int, seed: int, warm: bool) -> None:
        told = None if index is None else self.chosen(index)
        stream, temperature = next(self.numbers), 2.0 if warm else 0.0
        request = self.generate(
            told.opened if told else None,
            wanted,
            prompt,
            stream=stream,
            commit=commit,
            seed=seed,
            temperature=temperature,
        )
        self.calls[stream] = Sent(told, prompt, request, commit if told else Commit.NONE, wanted, seed, temperature)

    def leave(self, index: int) -> None:
        open_calls = [stream for stream, sent in self.calls.items() if not (sent.over or sent.left)]
        if open_calls:
            stream = open_calls[index % len(open_calls)]
            sent = self.calls[stream]
            sent.left = True
            self.hang_up(stream)
            if sent.start is not None:
                self.ways[sent.commit, RolloutEnding.CANCELLED] += 1
            if sent.commit is Commit.EACH and sent.start is not None and sent.told is not None:
                for seq in range(self.stands(sent.told), sent.start + len(sent.tokens + sent.expected)):
                    del sent.told.steps[seq]  # it stops here

    def branch(self, index: int, ahead: int) -> None:
        if (told := self.chosen(index)) is not None:
            at = int(self.engine.books.table.admitted[told.opened.session]) - ahead
            self.forks[self.fork(told.opened, max(0, at), secret=b"")] = told, max(0, at)

    def end(self, index: int) -> None:
        if (told := self.chosen(index)) is not None:
            told.closed = True
            self.sessions.remove(told)
            self.door.submit(Close(self.request(), told.opened.id, b""))
            self.listen()

    # Turns -----------------------------------------------------------------------------------------------------------

    def listen(self) -> None:
        """One turn: takes note of what was told, and compares."""
        fresh = [sent.told for sent in self.calls.values() if sent.told is not None and not self.stands(sent.told)]
        outcomes = self.turn()
        pieces, self.ear.pieces = self.ear.pieces, {}
        for outcome in outcomes:
            if isinstance(outcome, Answer):
                self._answered(outcome)
        self._hear_beginnings(fresh)
        for stream, parts in pieces.items():
            for piece in parts:
                self._drawn(self.calls[stream], piece)
        for outcome in outcomes:
            if isinstance(outcome, Refusal):
                self._refused(outcome)
        self._hear_forks()
        self.check_books()
        for told in self.sessions:
            self._compare(told)

    def _answered(self, answer: Answer) -> None:
        sent = self.calls[answer.stream]
        assert sent.told is not None
        tokens, sent.tokens = sent.tokens[: answer.length], sent.tokens[answer.length :]
        sent.over = not sent.tokens
        for offset, token in enumerate(tokens):
            assert answer.first + offset not in sent.told.steps
            sent.told.steps[answer.first + offset] = token

    def _hear_beginnings(self, fresh: list[Told]) -> None:
        """fresh: sessions that had no steps before this turn."""
        for sent in self.calls.values():
            if not sent.wanted or sent.start is not None or sent.over or sent.request not in self.ear.replies:
                continue
            reply = self.ear.replies[sent.request]
            if isinstance(reply, StepStreamError):
                sent.over = True
                self.ways[reply.reason] += 1
                initial = not sent.tokens and (sent.told is None or any(sent.told is each for each in fresh))
                assert reply.reason in (Reason.QUEUE_FULL, Reason.SESSION_IN_USE, *GONE) or initial
                assert (reply.reason == Reason.INVALID_ARGUMENT) <= initial
                continue
            assert isinstance(reply, Begun)
            sent.start = reply.seq
            before = [sent.told.steps[seq] for seq in range(reply.seq)] if sent.told else []
            sent.expected = text(before + sent.tokens, sent.wanted, sent.seed, sent.temperature)
            if sent.commit is Commit.EACH and sent.told and not sent.left:
                self._commit(sent)

    def _commit(self, sent: Sent) -> None:
        """The session has, or is about to have, what was fed and is drawn."""
        assert sent.told is not None
        assert sent.start is not None
        for offset, token in enumerate(sent.tokens + sent.expected):
            sent.told.steps[sent.start + offset] = token

    def _drawn(self, sent: Sent, piece: Any) -> None:
        assert not sent.left
        assert not sent.over
        assert sent.start is not None
        first = sent.start + len(sent.tokens)
        assert piece.values == sent.expected[piece.first - first : piece.next - first]
        assert len(piece.values) == 1
        if piece.ending is not None:
            assert piece.ending is RolloutEnding.LENGTH
            assert piece.next == first + sent.wanted
            sent.over = True
            self.ways[sent.commit, piece.ending] += 1
            if sent.commit is Commit.END and sent.told:
                self._commit(sent)

    def _refused(self, refusal: Refusal) -> None:
        sent = self.calls[refusal.stream]
        assert not sent.left
        sent.over = True
        if sent.wanted:  # its session has ended
            assert refusal.reason == Reason.SESSION_CLOSED
            self.ways[sent.commit, RolloutEnding.FAILED] += 1
            assert sent.told is not None
            assert sent.told.closed
            assert sent.commit is not Commit.NONE
            return
        self.ways[refusal.reason] += 1
        assert refusal.reason in (Reason.SESSION_IN_USE, Reason.QUEUE_FULL, *GONE)
        if refusal.reason == Reason.SESSION_IN_USE:
            assert any(each.told is sent.told and each.commit is not Commit.NONE and each.wanted for each in self.calls.values())

    def _hear_forks(self) -> None:
        for request, (original, at) in list(self.forks.items()):
            if request in self.ear.replies:
                del self.forks[request]
                reply = self.ear.replies[request]
                if isinstance(reply, Forked) and isinstance(reply.sessions[0], Opened):
                    assert reply.next_seq == at
                    steps = {seq: original.steps[seq] for seq in range(at)}
                    self.sessions.append(Told(reply.sessions[0], steps))

    def _compare(self, told: Told) -> None:
        """The session has just the steps that its callers were told of."""
        table, session = self.engine.books.table, told.opened.session
        assert table.alive(session, told.opened.generation)
        had = [told.steps[seq] for seq in range(self.stands(told))]
        assert self.speaking.states[table.slot[session]].tolist() == after(had)


def act(world: World, rng: random.Random) -> None:
    """One random action."""

    def some(least: int) -> list[int]:
        return [rng.randrange(7) for _ in range(rng.randint(least, 4))]

    match rng.choices(range(8), [2, 10, 10, 2, 3, 2, 1, 30])[0]:
        case 0:
            world.begin()
        case 1:
            world.step(rng.randrange(8), some(1))
        case 2:
            index = None if rng.random() < 0.1 else rng.randrange(8)
            prompt = some(0) if rng.random() < 0.5 else some(1)
            world.roll_out(
                index, rng.choice(list(Commit)), prompt, rng.randint(1, 12), rng.randrange(1 << 64), rng.random() < 0.7
            )
        case 3:
            world.leave(rng.randrange(8))
        case 4:
            world.branch(rng.randrange(8), rng.randint(-1, 3))
        case 5:
            world.step(rng.randrange(8), some(1))
            world.leave(-1)
        case 6:
            world.end(rng.randrange(8))
        case _:
            world.listen()


@pytest.mark.parametrize("slow", [False, True], ids=["chunks", "single steps"])
@pytest.mark.parametrize("max_batch", [1, 2, 1024])
def test_every_history_is_as_its_callers_were_told(slow: bool, max_batch: int) -> None:
    """Steps, rollouts of every commit, leaving, forking and closing in any order, and in launches of any size."""
    ways: Counter[Any] = Counter()
    for number in range(HISTORIES):
        rng = random.Random(f"{slow} {max_batch} {number}")
        world = World(slow, max_batch)
        world.begin()
        world.begin()
        try:
            for _ in range(rng.randint(10, 120)):
                act(world, rng)
            world.listen()
            while world.engine.busy:
                world.listen()
            world.listen()
            check_end(world)
        except AssertionError as error:
            error.add_note(f"history {number}")
            raise
        ways += world.ways
    for commit in Commit:
        assert ways[commit, RolloutEnding.LENGTH] > 50
        assert ways[commit, RolloutEnding.CANCELLED]
    assert ways[Commit.END, RolloutEnding.FAILED]
    assert ways[Commit.EACH, RolloutEnding.FAILED]
    for reason in (Reason.SESSION_IN_USE, Reason.SESSION_CLOSED, Reason.QUEUE_FULL):
        assert ways[reason]


def check_end(world: World) -> None:
    """Everybody who listens has had an outcome, and nothing is left but sessions."""
    for sent in world.calls.values():
        assert sent.over or sent.left
    stats = world.engine.stats()
    assert (stats.rollouts, stats.pending_steps, stats.sessions) == (0, 0, len(world.sessions))
    assert len(world.backend.free) == SESSIONS + 2 * PATHS - len(world.sessions)
