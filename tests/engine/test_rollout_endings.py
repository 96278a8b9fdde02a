"""What a rollout leaves behind, ended normally or at any moment by whoever asked for it: on random histories, to the bit."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest

from stepstream_server.engine.ports import NO_SEQ, Begun, Commit, RolloutEnding
from support.engine import Answer
from support.rollouts import CALLER, Rolling, after, text

HISTORIES = 500  # per commit
LEAVING = ("stays", "caller leaves", "stream ends", "door is lost")


@dataclass
class Plan:
    """One history: a session's steps, a rollout behind them, and when its caller leaves."""

    attached: bool
    before: list[int]  # applied, and answered
    acked: int  # of these
    pending: list[int]  # when the rollout is asked for
    prompt: list[int]
    numbered: bool
    seed: int
    temperature: float
    drawn: list[int]  # if nothing ends it early, those of the stop sequence included
    stop: tuple[tuple[int, ...], ...]
    told: list[int]
    turns: int
    leaving: str

    @property
    def base(self) -> list[int]:
        return self.before + self.pending

    @property
    def rolled(self) -> list[int]:
        return self.prompt + self.drawn


def plan(rng: random.Random) -> Plan:
    """A random one."""

    def some(least: int, most: int) -> list[int]:
        return [rng.randrange(7) for _ in range(rng.randint(least, most))]

    before, pending = some(0, 5), some(0, 4)
    prompt = some(0 if before or pending else 1, 3)
    seed, temperature, steps = rng.randrange(1 << 64), rng.choice([0.0, 1.0, 3.0]), rng.randint(1, 7)
    drawn = told = text(before + pending + prompt, steps, seed, temperature)
    stop: tuple[tuple[int, ...], ...] = ()
    if rng.random() < 0.5:
        at, length = rng.randrange(steps), rng.randint(1, 3)
        stop = (tuple(drawn[at : at + length]), tuple(some(2, 3)))
        ends = [end for end in range(1, steps + 1) if any(tuple(drawn[:end][-len(each) :]) == each for each in stop)]
        if ends:
            drawn = drawn[: ends[0]]
            told = drawn[: -max(len(each) for each in stop if tuple(drawn[-len(each) :]) == each)]
    attached = rng.random() < 0.5
    acked = rng.randint(0, len(before)) if attached else 0
    leaving = rng.choice(LEAVING)
    turns = rng.randint(0, len(pending) + len(prompt) + len(drawn) + 1)
    numbered = rng.random() < 0.5
    return Plan(attached, before, acked, pending, prompt, numbered, seed, temperature, drawn, stop, told, turns, leaving)


@pytest.mark.parametrize("commit", Commit)
def test_what_is_left_is_just_what_is_defined(commit: Commit) -> None:
    """State, next number, acknowledged count and slots: END all or nothing, EACH what has run, NONE nothing."""
    begun, seen = 0, set()
    for number in range(HISTORIES):
        given = plan(random.Random(f"{commit} {number}"))
        try:
            has_begun, ending = play(given, commit)
        except AssertionError as error:
            error.add_note(repr(given))
            raise
        begun += has_begun
        seen.add((given.leaving, has_begun, ending))
    assert begun > HISTORIES / 2
    assert seen >= {(leaving, True, None) for leaving in LEAVING[1:]} | {(leaving, False, None) for leaving in LEAVING[1:]}
    assert seen >= {("stays", True, RolloutEnding.STOP), ("stays", True, RolloutEnding.LENGTH)}


def play(given: Plan, commit: Commit) -> tuple[bool, RolloutEnding | None]:
    """Plays it, and checks what is left. Returns whether the rollout has begun, and how its caller was told that it ended."""
    h = Rolling(sessions=3, paths=3, slow=True)
    session = h.open()[0] if given.attached else h.open_as("a")
    other = h.open_as("other")
    h.speak(other, [1, 2])
    if given.before:
        if given.attached:
            h.send([session], [0], [given.before])
            h.settle()
            h.acknowledge(session, given.acked)
        else:
            h.speak(session, given.before, seq=0)
    if given.pending:
        if given.attached:
            h.send([session], [len(given.before)], [given.pending])
        else:
            h.call(session, len(given.before), [*map(float, given.pending)], stream=77)
    request = h.generate(
        session,
        len(given.drawn) if given.told == given.drawn else 50,
        given.prompt,
        seq=len(given.base) if given.numbered else NO_SEQ,
        commit=commit,
        seed=given.seed,
        temperature=given.temperature,
        stop=given.stop,
    )
    for _ in range(given.turns):
        h.turn()
        h.check_books()
    told_before = h.drawn()
    leave(h, given.leaving)
    h.settle()
    h.check_books()
    if given.leaving != "stays":
        assert h.drawn() == told_before  # nobody is told anything any more
    ending = h.ending()
    begun = isinstance(h.ear.replies.get(request), Begun)
    steps = h.get(session.id).next_seq
    check_told(h, given, ending)
    check_state(h, given, commit, begun, ending, steps)
    check_acked(h, given, commit, begun, steps)
    assert h.state(other) == after([1, 2])
    stats = h.engine.stats()
    assert (stats.rollouts, stats.rollout_slots, stats.pending_steps) == (0, 0, 0)
    assert len(h.backend.free) == h.backend.slots - 2
    left = (given.base + (given.rolled if commit is not Commit.NONE else []))[:steps]
    answers = h.speak(session, [3, 4])
    assert {type(each) for each in answers} == {Answer}
    assert h.state(session) == after([*left, 3, 4])
    assert h.get(session.id).next_seq == steps + 2
    return begun, ending


def leave(h: Rolling, how: str) -> None:
    """Ends the rollout from outside, or lets it be."""
    match how:
        case "caller leaves":
            h.hang_up(CALLER)
        case "stream ends":
            h.end_stream(CALLER)
        case "door is lost":
            h.lose_door()


def check_told(h: Rolling, given: Plan, ending: RolloutEnding | None) -> None:
    """The beginning of the text; all of it, with the right ending, where it ended normally."""
    told = h.drawn()
    assert told == given.told[: len(told)]
    if given.leaving == "stays":
        assert ending is (RolloutEnding.LENGTH if given.told == given.drawn else RolloutEnding.STOP)
    if ending is not None:
        assert told == given.told
        assert h.ear.pieces[CALLER][-1].next == len(given.base) + len(given.rolled)


def check_state(h: Rolling, given: Plan, commit: Commit, begun: bool, ending: RolloutEnding | None, steps: int) -> None:
    """The session's, and how many steps that is."""
    session_id = next(each for each in h.engine.books.table._by_id if each != "other")
    state = h.speaking.states[h.get(session_id).slot].tolist()
    if not begun:
        assert state == after(given.base[:steps])
        assert steps == len(given.base) or given.leaving == "door is lost"
    elif commit is Commit.EACH:
        assert state == after((given.base + given.rolled)[:steps])
        if CALLER in h.ear.pieces:
            assert steps >= len(given.base + given.prompt) + len(h.drawn())
            assert h.ear.pieces[CALLER][-1].next <= steps
        assert ending is None or steps == len(given.base + given.rolled)
    else:
        committed = given.rolled if commit is Commit.END and ending is not None else []
        assert state == after(given.base + committed)
        assert steps == len(given.base + committed)


def check_acked(h: Rolling, given: Plan, commit: Commit, begun: bool, steps: int) -> None:
    """A number acknowledges, and so does a caller where no stream is; what is committed behind that needs no acknowledgement."""
    start = len(given.base)
    acked = given.acked if given.attached else len(given.before) if given.pending else 0
    if begun and commit is not Commit.NONE and (given.numbered or not given.attached):
        acked = start
    session_id = next(each for each in h.engine.books.table._by_id if each != "other")
    assert h.get(session_id).acked == (steps if begun and acked == start else acked)
