"""Rollouts that leave their steps in a durable session: calls break and servers die, and every draw comes once, in order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, Literal

import grpc
import numpy as np
import pytest

from stepstream import Client, ConnectionLost, Session
from support.servicer import QUICK, FakeServicer, FakeSession, reciting
from support.status import failed_call

TEXT = "def f(x):\n    return für(x)\n\n# end € of it"
Commit = Literal["end", "each"]
COMMITS = pytest.mark.parametrize("commit", ["end", "each"])


@pytest.fixture
async def servicer() -> FakeServicer:
    """With models to roll out; those of text recite TEXT."""
    servicer = reciting(TEXT)
    servicer.window.replay_steps = 1024
    return servicer


@pytest.fixture
async def client(address: str) -> AsyncIterator[Client]:
    """A client that loses no time."""
    async with Client(address, QUICK) as connected:
        yield connected


@pytest.fixture
async def session(client: Client) -> AsyncIterator[Session]:
    """A new durable session `a` of a model of text."""
    async with client.open_session("letters", id="a", durable=True) as session:
        yield session


def dying(servicer: FakeServicer, *restored: int) -> Callable[[FakeSession], Any]:
    """Lets the server die before a call breaks, and be restored from these numbers, one after the other, or
    from where it stands if that is less."""
    left = list(restored)

    async def die(_: FakeSession) -> None:
        if left:
            session = servicer.sessions["a"]
            servicer.crash(a=min(left.pop(0), session.next_seq))

    return die


async def told(session: Session, max_steps: int, prompt: str | None, **more: Any) -> str:
    """All of a rollout, whose number is right in the end."""
    rollout = session.generate(prompt, max_steps=max_steps, **more)
    text = "".join([piece async for piece in rollout])
    assert session.next_seq == rollout.next_seq
    return text


@COMMITS
@pytest.mark.parametrize("ahead", [0, 3])
@pytest.mark.parametrize("pieces", [1, 3])
async def test_calls_break_and_the_session_stays(
    session: Session, servicer: FakeServicer, commit: Commit, ahead: int, pieces: int
) -> None:
    """Draws that were not heard are told again where it is the session's, and drawn again where it is not."""
    rolls = servicer.rollouts
    rolls.pieces, rolls.ahead, rolls.break_at = pieces, ahead, [4, 8, 9, 14, 21]
    assert await told(session, 26, "def ", commit=commit) == TEXT[4:29]  # 26 bytes: ü has two
    assert (await session.step(0))["count"] == [31]


@COMMITS
@pytest.mark.parametrize("restored", [0, 1, 2, 5, 7, 9, 30])
async def test_a_server_dies_in_the_middle(session: Session, servicer: FakeServicer, commit: Commit, restored: int) -> None:
    """Wherever it is restored: before the rollout, within its prompt, behind what was heard or beyond it."""
    await session.chunk("de", outputs="none")
    rolls = servicer.rollouts
    rolls.break_at, rolls.ahead, rolls.before_break = [8], 3, dying(servicer, restored)
    assert await told(session, 12, "f ", commit=commit) == TEXT[4:16]
    assert servicer.sessions["a"].next_seq == session.next_seq == 16
    assert servicer.sessions["a"].total == sum(TEXT.encode()[:16])


async def test_a_server_dies_within_the_prompt(session: Session, servicer: FakeServicer) -> None:
    """The rest of it goes along."""
    rolls = servicer.rollouts
    rolls.break_at, rolls.before_break = [3], dying(servicer, 2)
    assert await told(session, 5, "def ", commit="each") == TEXT[4:9]
    assert [len(call.prompt[0]) // 8 for call in rolls.calls] == [4, 4, 2]
    assert servicer.sessions["a"].total == sum(TEXT.encode()[:9])


@COMMITS
async def test_it_dies_again_and_again(session: Session, servicer: FakeServicer, commit: Commit) -> None:
    """Each time from somewhere else, never below what is in the store."""
    rolls = servicer.rollouts
    rolls.break_at, rolls.before_break = [6, 9, 9, 12], dying(servicer, 0, 3, 5, 12)
    assert await told(session, 12, "def ", commit=commit) == TEXT[4:16]
    assert servicer.sessions["a"].total == sum(TEXT.encode()[:16])


@pytest.mark.parametrize(
    ("commit", "restored"), [("end", None), ("end", 0), ("end", 9), ("each", None), ("each", 0), ("each", 3), ("each", 9)]
)
async def test_an_ending_that_was_not_heard(
    session: Session, servicer: FakeServicer, commit: Commit, restored: int | None
) -> None:
    """It was the session's, and perhaps is no more."""
    rolls = servicer.rollouts
    rolls.lose_endings = 1
    rolling = asyncio.ensure_future(told(session, 5, "def ", commit=commit))
    await servicer.until(lambda: rolls.lose_endings == 0)
    if restored is not None:
        servicer.crash(a=restored)
    assert await rolling == TEXT[4:9]
    assert (servicer.sessions["a"].next_seq, servicer.sessions["a"].total) == (9, sum(TEXT.encode()[:9]))


@COMMITS
async def test_stop_sequences_are_seen_across_a_break(session: Session, servicer: FakeServicer, commit: Commit) -> None:
    """The beginning of one was drawn and not told."""
    rolls = servicer.rollouts
    end = TEXT.encode().index(b"\n\n")
    rolls.break_at, rolls.before_break = [end + 1], dying(servicer, end)
    assert await told(session, 60, "def ", commit=commit, stop="\n\n") == TEXT[4 : TEXT.index("\n\n")]
    assert session.next_seq == end + 2


@COMMITS
async def test_draws_are_those_of_an_unbroken_rollout(client: Client, servicer: FakeServicer, commit: Commit) -> None:
    """Of numbers as well, without a prompt."""
    async with client.open_session("walk", id="a", durable=True) as session:
        await session.chunk([1.0, 2.0])
        whole = await session.generate(max_steps=9, seed=3, commit="none").whole()
        servicer.rollouts.break_at, servicer.rollouts.before_break = [5, 5, 8], dying(servicer, 1, 5, 6)
        assert np.array_equal(await session.generate(max_steps=9, seed=3, commit=commit).whole(), whole)
        assert session.next_seq == 11


async def test_what_was_delivered_is_told_again_after_the_rollout(session: Session, servicer: FakeServicer) -> None:
    """Until it is durable: a rollout that was left early, too."""
    rollout = session.generate("def ", max_steps=20, commit="each")
    async for _ in rollout:
        break
    await rollout.aclose()
    before = (await session.step(0))["count"][0]
    servicer.write("a")
    servicer.crash(a=servicer.sessions["a"].next_seq)
    assert (await session.step(0))["count"][0] == before + 1


async def test_one_that_leaves_nothing_waits_until_the_session_stands(session: Session, servicer: FakeServicer) -> None:
    """It runs on a copy of what was applied."""
    await session.chunk("def ", outputs="none")
    rolls = servicer.rollouts
    rolls.break_at, rolls.before_break = [6], dying(servicer, 1)
    assert await session.generate(max_steps=5, commit="none").whole() == TEXT[4:9]
    assert session.next_seq == servicer.sessions["a"].next_seq == 4


async def test_a_store_that_is_away_does_not_end_it(session: Session, servicer: FakeServicer) -> None:
    """Its last message is refused until it is written; then it is told."""
    servicer.rollouts.break_at = [8]
    servicer.rollouts.breaks_with = failed_call(grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE", "not written")
    assert await told(session, 5, "def ", commit="each") == TEXT[4:9]


@pytest.mark.parametrize("commit", ["end", "each"])
async def test_an_attach_of_its_own_stream_does_not_end_it(session: Session, servicer: FakeServicer, commit: Commit) -> None:
    """The stream broke, and the rollout was begun before the server had heard of the next one, which takes the session back."""
    servicer.rollouts.break_at = [6]
    servicer.rollouts.breaks_with = failed_call(grpc.StatusCode.FAILED_PRECONDITION, "SESSION_IN_USE", "a stream has taken it")
    assert await told(session, 5, "def ", commit=commit) == TEXT[4:9]
    assert len(servicer.rollouts.calls) == 2


async def test_draws_that_are_kept_no_more_end_it(session: Session, servicer: FakeServicer) -> None:
    """Nobody can tell them: the caller hears that the connection was lost."""
    rolls = servicer.rollouts

    async def forget(each: FakeSession) -> None:
        each.drawn.clear()

    rolls.break_at, rolls.ahead, rolls.before_break = [7], 3, forget
    with pytest.raises(ConnectionLost):
        await told(session, 12, "def ", commit="each")
    assert session.next_seq == 10
