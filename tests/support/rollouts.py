"""An engine over the speaking model that rolls its sessions out, and the books that must balance meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from stepstream_server.engine.books.status import Status
from stepstream_server.engine.ports import NO_SEQ, Begun, Commit, Opened, RolloutEnding
from stepstream_server.errors import StepStreamError
from support.engine import Answer, Harness, Refusal
from support.tokens import Speaker, SpeakingBackend, tokens_spec

CALLER = 500  # of rollouts, unless a test says otherwise


class Rolling(Harness):
    """Sessions and rollouts of the speaking model."""

    spec = tokens_spec()

    def __init__(
        self,
        paths: int = 8,
        sessions: int = 4,
        *,
        slow: bool = False,
        poison: float = float("nan"),
        max_batch: int = 1024,
        **settings: float,
    ) -> None:
        """paths: that one caller may have. slow: each launch takes a second, so that chunks are cut into single steps."""
        self.speaking = SpeakingBackend(slots=sessions + 2 * paths, max_batch=max_batch, poison=poison)
        super().__init__(self.speaking, capacity=sessions, max_rollout_paths=2 * paths, **settings)
        if slow:
            self.speaking.before_collect = lambda: self.clock.advance(1.0)
            self.engine.warm_up()

    def speak(self, session: Opened, tokens: Sequence[int], seq: int = NO_SEQ) -> list[Answer | Refusal]:
        """Steps a session as a one-shot caller, and waits for the outcomes."""
        self.call(session, seq, [*map(float, tokens)], stream=400, secret=session.secret)
        return self.settle()

    def state(self, session: Opened) -> list[float]:
        """The numbers of a session's slot."""
        numbers: list[float] = self.speaking.states[self.get(session.id).slot].tolist()
        return numbers

    def begun(self, request: int) -> int:
        """Where a rollout has begun."""
        reply = self.ear.replies[request]
        assert isinstance(reply, Begun), reply
        return reply.seq

    def refused(self, request: int) -> StepStreamError:
        """Why a rollout has not begun."""
        reply = self.ear.replies[request]
        assert isinstance(reply, StepStreamError), reply
        return reply

    def roll(self, session: Opened | None, max_steps: int, prompt: Sequence[int] = (), **options: Any) -> list[int]:
        """Rolls out to the end: what was told."""
        stream = options.setdefault("stream", CALLER)
        self.ear.pieces.pop(stream, None)
        request = self.generate(session, max_steps, prompt, **options)
        self.settle()
        self.begun(request)
        assert self.ending(stream) in (RolloutEnding.STOP, RolloutEnding.LENGTH)
        self.check_books()
        return self.drawn(stream)

    def check_books(self) -> None:
        """Every slot is free, or a session's, or a rollout's; every row of rollouts is free or one rollout's path."""
        table, rolls = self.engine.books.table, self.engine._rollouts
        alive = sorted({*table._by_id.values(), *table.replaced})
        under_way = list(rolls._by_stream.values())
        held = [slot for each in under_way if each.commit is not Commit.EACH for slot in rolls._slot[each.rows].tolist()]
        stats = self.engine.stats()
        assert (stats.rollouts, stats.rollout_slots, stats.sessions) == (len(under_way), len(held), len(alive))
        assert sorted([*self.backend.free, *table.slot[alive].tolist(), *held]) == list(range(self.backend.slots))
        rows = [row for each in under_way for row in each.rows.tolist()]
        assert sorted(rows) == sorted(rolls._active.tolist()) == sorted(rolls._of_row)
        assert sorted([*rows, *rolls._free]) == list(range(len(rolls._slot)))
        assert rolls.prompted == rolls._prompt_left[rows].sum()
        committing = {each.session for each in under_way if each.session >= 0 and table.alive(each.session, each.generation)}
        assert {session for session in alive if table.status[session] == Status.ROLLING} == committing
        for each in under_way:
            if each.commit is Commit.EACH and each.session in committing:
                assert rolls._slot[each.rows[0]] == table.slot[each.session]
        assert (table.acked[alive] <= table.next_seq[alive]).all()
        assert (table.next_seq[alive] <= table.admitted[alive]).all()

    def rolled_state(self, stream: int = CALLER) -> list[float]:
        """The numbers of the slot that the first path of a rollout computes in."""
        rolls = self.engine._rollouts
        numbers: list[float] = self.speaking.states[rolls._slot[rolls._by_stream[stream].rows[0]]].tolist()
        return numbers


def text(fed: Sequence[int], steps: int, seed: int = 0, temperature: float = 0.0) -> list[int]:
    """What the model says after it was fed that."""
    return Speaker(fed).roll(steps, seed, temperature)


def after(fed: Sequence[int]) -> list[float]:
    """The numbers of a slot after it was fed that."""
    return Speaker(fed).state


def close(values: Any, expected: Any) -> bool:
    """Equal, shape included, but for the rounding of float32."""
    return np.shape(values) == np.shape(expected) and np.allclose(values, expected, rtol=1e-6)
