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


def flatten(outcomes: list[Answer | Refusal], tag: int) -> list[Outcome]:
    """A session's outcomes step by step, however they were grouped."""
    steps: list[Outcome] = []
    for outcome in outcomes:
        if outcome.tag != tag:
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
                for tag, (offset, numbers, keep) in rows.items():
                    first = max(0, references[tag].next_seq + offset)
                    expected[tag] += references[tag].send(first, numbers, keep)
                    h.send([sessions[tag]], [first], [numbers], stream=streams[tag], tags=[tag], keep=keep)
            case "reset", (tag, offset):
                seq = max(0, references[tag].next_seq + offset)
                expected[tag] += references[tag].reset(seq)
                h.reset(sessions[tag], seq, stream=streams[tag], tag=tag)
            case "acknowledge", (tag, offset):
                outcomes += h.settle()  # a client acknowledges what it has received
                count = references[tag].acked + offset
                references[tag].acknowledge(count)
                h.acknowledge(sessions[tag], count, stream=streams[tag], tag=tag)
            case "attach", tag:
                outcomes += h.settle()  # else what is still queued would be dropped
                streams[tag] += 1
                h.attach(sessions[tag], stream=streams[tag], tag=tag, acked=references[tag].acked)
                expected[tag] += references[tag].resend()
            case _:
                outcomes += h.turn()
    outcomes += h.settle()
    for tag in range(3):
        assert flatten(outcomes, tag) == expected[tag]
        info = h.get(sessions[tag].id)
        assert (info.next_seq, info.acked) == (references[tag].next_seq, references[tag].acked)
        assert h.backend.states[tag, 0] == references[tag].sum
    assert h.engine.stats().pending_steps == 0
