"""Rollouts that commit to durable sessions: their end is told once the store has it, and the last draws can be told again."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from stepstream_server.engine.durable import tails
from stepstream_server.engine.ports import Commit, Opened, RolloutEnding, Write
from stepstream_server.errors import Reason, StepStreamError
from support.durable import Durable
from support.engine import Refusal
from support.rollouts import CALLER, text
from support.tokens import SpeakingBackend, tokens_spec

PROMPT = (3, 1)


class Speaking(Durable):
    """Durable sessions of the model that speaks."""

    spec = tokens_spec()

    def __init__(self) -> None:
        super().__init__(SpeakingBackend(slots=16), capacity=8, max_rollout_paths=8)

    def next_server(self) -> None:
        """The server dies, and another one begins."""
        self.crash(SpeakingBackend(slots=16))

    def prompted(self) -> Opened:
        """A session that was fed the prompt, which the store has; no stream holds it."""
        (session,) = self.opened("a", attached=False)
        self.call(session, 0, PROMPT, stream=400)
        self.done()
        return session

    def some(self, session: Opened, steps: int, turns: int, **options: Any) -> None:
        """A rollout draws so many of its steps."""
        self.generate(session, steps, **{"commit": Commit.EACH, "secret": b"", **options})
        for _ in range(turns):
            self.turn()

    def again(self, session: Opened, steps: int, seq: int, *, stream: int = CALLER + 1, **options: Any) -> Any:
        """Goes on with a rollout of before from a number on; returns the reply, all of it told in `drawn(stream)`."""
        request = self.generate(session, steps, stream=stream, seq=seq, secret=b"", **{"commit": Commit.EACH, **options})
        self.done()  # it is found
        self.settle()
        self.done()
        return self.told(request)


@pytest.fixture
def h() -> Speaking:
    """An engine whose store is stepped by hand."""
    return Speaking()


def reason(reply: object) -> Reason | None:
    """Why a rollout was refused; None if it was not."""
    return reply.reason if isinstance(reply, StepStreamError) else None


@pytest.mark.parametrize("commit", [Commit.EACH, Commit.END])
def test_the_end_is_told_once_the_store_has_all(h: Speaking, commit: Commit) -> None:
    """Draws before it do not wait."""
    session = h.prompted()
    h.generate(session, 3, commit=commit, secret=b"")
    h.settle()
    before = h.drawn()
    assert before == text(PROMPT, 3)[: len(before)] and len(before) < 3 and h.ending() is None
    h.step()
    assert h.drawn() == text(PROMPT, 3) and h.ending() is RolloutEnding.LENGTH
    assert h.ear.durable[CALLER, 0] == 5
    assert h.get("a").durable_seq == 5


def test_the_end_is_told_at_once_where_nothing_commits(h: Speaking) -> None:
    """Nothing is to be written."""
    session = h.prompted()
    h.generate(session, 3, commit=Commit.NONE, secret=b"")
    h.settle()
    assert h.ending() is RolloutEnding.LENGTH and h.asked() == []


@pytest.mark.parametrize("commit", [Commit.EACH, Commit.END])
def test_whoever_waits_for_the_end_hears_that_the_store_has_failed(h: Speaking, commit: Commit) -> None:
    """Its caller can ask for the rest again."""
    session = h.prompted()
    h.generate(session, 3, commit=commit, secret=b"")
    h.settle()
    heard = len(h.drawn())
    (refused,) = h.step("fail")
    assert isinstance(refused, Refusal) and (refused.stream, refused.reason) == (CALLER, Reason.STORE_UNAVAILABLE)
    assert h.ending() is None and len(h.drawn()) == heard
    h.clock.advance(1.0)
    assert h.again(session, 3 - heard, 2 + heard).seq == 2 + heard
    assert [*h.drawn(), *h.drawn(CALLER + 1)] == text(PROMPT, 3)
    assert h.ending(CALLER + 1) is RolloutEnding.LENGTH and h.get("a").next_seq == 5


def test_a_caller_that_has_left_is_told_nothing(h: Speaking) -> None:
    """Everything withheld for it is forgotten."""
    session = h.prompted()
    h.generate(session, 3, commit=Commit.EACH, secret=b"")
    h.settle()
    heard = h.drawn()
    h.hang_up(CALLER)
    h.turn()
    h.step()
    assert h.drawn() == heard and h.ending() is None
    assert not h.engine._outbox.pieces._client


def test_what_the_store_has_and_the_caller_has_not_heard_is_told_again(h: Speaking) -> None:
    """After a crash the rollout goes on behind it, as if nothing had been."""
    session = h.prompted()
    h.some(session, 10, 5)
    h.clock.advance(0.1)
    h.turn()
    h.store.die()
    h.next_server()
    reply = h.again(session, 8, 4)
    assert reply.seq == 4
    assert h.drawn(CALLER + 1) == text(PROMPT, 10)[2:]
    assert h.get("a").next_seq == 12


def test_what_the_store_does_not_have_is_stepped_again_by_the_caller(h: Speaking) -> None:
    """It replays the draws that it has heard, and goes on."""
    session = h.prompted()
    h.some(session, 10, 5)
    heard = h.drawn()
    h.next_server()
    h.call(session, 2, heard, stream=401)
    h.done()
    reply = h.again(session, 10 - len(heard), 2 + len(heard))
    assert reply.seq == 2 + len(heard)
    assert heard + h.drawn(CALLER + 1) == text(PROMPT, 10)


def test_draws_by_chance_are_the_same(h: Speaking) -> None:
    """They depend on the seed and the number."""
    session = h.prompted()
    options: dict[str, Any] = {"seed": 7, "temperature": 1.0}
    h.some(session, 10, 5, **options)
    h.clock.advance(0.1)
    h.turn()
    h.store.die()
    h.next_server()
    h.again(session, 9, 3, **options)
    assert h.drawn(CALLER + 1) == text(PROMPT, 10, 7, 1.0)[1:]


def test_no_more_is_told_again_than_is_wanted(h: Speaking) -> None:
    """The session stands where it stood."""
    session = h.prompted()
    h.generate(session, 6, commit=Commit.EACH, secret=b"")
    h.settle()
    h.done()
    assert h.again(session, 2, 3).seq == 3
    assert h.drawn(CALLER + 1) == text(PROMPT, 6)[1:3]
    assert h.ending(CALLER + 1) is RolloutEnding.LENGTH
    assert h.get("a").next_seq == 8 and h.engine.stats().rollouts == 0


def test_a_stop_sequence_is_found_in_what_is_told_again(h: Speaking) -> None:
    """One may begin there and end in what is drawn then."""
    fed = text(PROMPT, 8)
    session = h.prompted()
    h.some(session, 4, 8)
    h.done()
    assert h.get("a").next_seq == 6
    h.again(session, 7, 3, stop=((fed[3], fed[4]),))
    told = h.drawn(CALLER + 1)
    assert told == fed[1 : 1 + len(told)] and h.ending(CALLER + 1) is RolloutEnding.STOP
    assert (fed[3], fed[4]) not in list(itertools.pairwise(told))


def test_what_else_is_applied_makes_draws_be_forgotten(h: Speaking) -> None:
    """A number that a step has taken is nobody's to draw again."""
    session = h.prompted()
    h.generate(session, 4, commit=Commit.EACH, secret=b"")
    h.settle()
    h.done()
    h.call(session, 6, [1.0], stream=401)
    h.done()
    reply = h.again(session, 4, 4)
    assert reason(reply) is Reason.SEQUENCE_MISMATCH and reply.expected_seq == 7
    assert h.engine._tails._of == {}


def test_draws_before_a_prompt_are_not_those_behind_it(h: Speaking) -> None:
    """The last rollout's draws alone can be told again."""
    session = h.prompted()
    h.generate(session, 3, commit=Commit.EACH, secret=b"")
    h.settle()
    h.done()
    h.generate(session, 2, (5, 5), stream=CALLER + 2, commit=Commit.EACH, secret=b"")
    h.settle()
    h.done()
    assert h.get("a").next_seq == 9
    fed = [*PROMPT, *text(PROMPT, 3), 5, 5]
    assert h.drawn(CALLER + 2) == text(fed, 2)
    assert reason(h.again(session, 3, 6)) is Reason.SEQUENCE_MISMATCH
    h.next_server()
    assert reason(h.again(session, 3, 5)) is Reason.SEQUENCE_MISMATCH
    assert h.again(session, 3, 7, stream=CALLER + 3).seq == 7
    assert h.drawn(CALLER + 3) == text(fed, 3)


@pytest.mark.parametrize(("options", "field"), [({"outputs": True}, "outputs"), ({"prompt": (1,)}, "prompt")])
def test_what_is_told_again_has_neither_prompt_nor_outputs(h: Speaking, options: dict[str, Any], field: str) -> None:
    """Outputs are not kept, and a prompt would come before the draws."""
    session = h.prompted()
    h.generate(session, 4, commit=Commit.EACH, secret=b"")
    h.settle()
    h.done()
    reply = h.again(session, 4, 4, **options)
    assert reason(reply) is Reason.INVALID_ARGUMENT and reply.field == field
    assert h.get("a").next_seq == 6
    assert h.again(session, 3, 4, stream=CALLER + 2).seq == 4


def test_as_many_draws_are_kept_as_there_is_room_for(h: Speaking, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those before them are gone, in memory and in the store."""
    monkeypatch.setattr(tails, "KEPT_DRAWS", 5)
    session = h.prompted()
    h.generate(session, 40, commit=Commit.EACH, secret=b"")
    h.settle()
    (group,) = [task.group for task in h.store.tasks if isinstance(task, Write)]
    kept = group.drawn[0].tolist()
    assert kept == text(PROMPT, 40)[-5:]
    h.done()
    assert reason(h.again(session, 9, 36)) is Reason.SEQUENCE_MISMATCH
    h.next_server()
    assert h.again(session, 9, 37).seq == 37
    assert h.drawn(CALLER + 1) == text(PROMPT, 44)[35:]


def test_draws_in_a_group_never_change(h: Speaking) -> None:
    """Though the rollout goes on while the store writes."""
    session = h.prompted()
    h.some(session, 60, 3)
    h.clock.advance(0.1)
    h.turn()
    (group,) = [task.group for task in h.store.tasks if isinstance(task, Write)]
    count = len(group.drawn[0])
    assert count == group.heads["next_seq"][0] - len(PROMPT)
    h.settle()
    assert group.drawn[0].tolist() == text(PROMPT, 60)[:count]


def test_a_rollout_that_fails_is_told_at_once(h: Speaking) -> None:
    """Behind what it had drawn: nothing waits for the store."""
    session = h.prompted()
    h.some(session, 10, 3)
    h.attach(session, stream=1)
    refusals = [each for each in h.ear.outcomes if isinstance(each, Refusal) and each.stream == CALLER]
    assert [each.reason for each in refusals] == [Reason.SESSION_IN_USE]
    assert len(h.drawn()) == refusals[0].first - len(PROMPT)


def test_sessions_that_are_not_durable_keep_no_draws(h: Speaking) -> None:
    """They would be of no use."""
    (session,) = h.open()
    h.generate(session, 4, PROMPT, commit=Commit.EACH)
    h.settle()
    assert h.ending() is RolloutEnding.LENGTH
    assert h.engine._tails._of == {}
    assert reason(h.again(session, 4, 4)) in (Reason.SEQUENCE_MISMATCH, Reason.SESSION_IN_USE)
    assert np.all(h.engine.books.table.durable_seq == 0)
