"""The engine against a plain reference session that does everything at once, on random histories."""

from __future__ import annotations

import math
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from stepstream_server.engine.ports import Keep, Opened
from support.engine import Answer, Harness, Refusal
from support.reference import Outcome, ReferenceSession

WINDOW = 6


def flatten(outcomes: list[Answer | Refusal], handle: int) -> list[Outcome]:
    """A session's outcomes step by step, however they were grouped."""
    steps: list[Outcome] = []
    for outcome in outcomes:
        if outcome.handle != handle:
            continue
        seqs = range(outcome.first, outcome.first + outcome.length)
        if isinstance(outcome, Refusal):
            steps += [(seq, outcome.reason, outcome.expected) for seq in seqs]
        else:
            sums = [None] * (outcome.length - len(outcome.sums)) + list(outcome.sums)
            steps += list(zip(seqs, sums, strict=True))
    return steps


# Small whole numbers: their sums are exact in float32, so that equality is meant literally.
values = st.lists(st.one_of(st.integers(-8, 8).map(float), st.just(math.nan)), min_size=1, max_size=5)
row = st.tuples(st.integers(-4, 2), values, st.sampled_from(Keep))
actions = st.one_of(
    st.tuples(st.just("block"), st.dictionaries(st.integers(0, 2), row, min_size=1, max_size=3)),
    st.tuples(st.just("reset"), st.tuples(st.integers(0, 2), st.integers(-3, 1))),
    st.tuples(st.just("acknowledge"), st.tuples(st.integers(0, 2), st.integers(-2, 3))),
    st.tuples(st.just("attach"), st.integers(0, 2)),
    st.tuples(st.just("turn"), st.none()),
)


@settings(max_examples=400, deadline=None)
@given(st.lists(actions, max_size=30))
def test_every_history_has_the_outcomes_of_the_reference(history: list[tuple[str, Any]]) -> None:
    """Repeats, gaps, straddling, go back N, windows, resets and takeovers, pipelined at random over three sessions."""
    h = Harness(window_steps=WINDOW)
    sessions: list[Opened] = h.open(3)
    references = [ReferenceSession(WINDOW) for _ in sessions]
    expected: list[list[Outcome]] = [[], [], []]
    outcomes: list[Answer | Refusal] = []
    streams = [1, 1, 1]
    for action, given_ in history:
        match action, given_:
            case "block", rows:
                for handle, (offset, numbers, keep) in rows.items():
                    first = max(0, references[handle].next_seq + offset)
                    expected[handle] += references[handle].send(first, numbers, keep)
                    h.send([sessions[handle]], [first], [numbers], stream=streams[handle], handles=[handle], keep=keep)
            case "reset", (handle, offset):
                seq = max(0, references[handle].next_seq + offset)
                expected[handle] += references[handle].reset(seq)
                h.reset(sessions[handle], seq, stream=streams[handle], handle=handle)
            case "acknowledge", (handle, offset):
                outcomes += h.settle()  # a client acknowledges what it has received
                count = references[handle].acked + offset
                references[handle].acknowledge(count)
                h.acknowledge(sessions[handle], count, stream=streams[handle], handle=handle)
            case "attach", handle:
                outcomes += h.settle()  # else what is still queued would be dropped
                streams[handle] += 1
                h.attach(sessions[handle], stream=streams[handle], handle=handle, acked=references[handle].acked)
                expected[handle] += references[handle].resend()
            case _:
                outcomes += h.turn()
    outcomes += h.settle()
    for handle in range(3):
        assert flatten(outcomes, handle) == expected[handle]
        info = h.get(sessions[handle].id)
        assert (info.next_seq, info.acked) == (references[handle].next_seq, references[handle].acked)
        assert h.backend.states[handle, 0] == references[handle].sum
    assert h.engine.stats().pending_steps == 0
