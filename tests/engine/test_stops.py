"""Stop sequences: what may be told early, what is held back, and what ends a rollout."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepstream_server.engine.rollouts.sampling import Stops

sequences = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=5).map(tuple), min_size=1, max_size=4)
texts = st.lists(st.integers(0, 2), max_size=40)


def naive_end(tokens: Sequence[int], stops: Sequence[tuple[int, ...]]) -> int:
    """Tokens of the longest stop sequence that they end with; 0: with none."""
    return max((len(stop) for stop in stops if tuple(tokens[-len(stop) :]) == stop), default=0)


def naive_hold(tokens: Sequence[int], stops: Sequence[tuple[int, ...]]) -> int:
    """The most tokens at the end that some stop sequence begins with."""
    return max(
        (n for stop in stops for n in range(1, len(stop)) if n <= len(tokens) and tuple(tokens[-n:]) == stop[:n]), default=0
    )


def run(tokens: Sequence[int], stops: Sequence[tuple[int, ...]]) -> tuple[list[int], bool]:
    """What is let go of tokens up to the first stop sequence, and whether there was one."""
    follower = Stops(stops)
    told = 0
    for token in tokens:
        free, stopped = follower.take(token)
        told += free
        if stopped:
            return list(tokens[:told]), True
    return list(tokens[:told]), False


@given(texts, sequences)
def test_every_token_is_let_go_held_or_the_stop(text: list[int], stops: list[tuple[int, ...]]) -> None:
    """As soon as it can be no part of a stop sequence, and no earlier: compared with looking at the whole text each time."""
    follower = Stops(stops)
    told = 0
    for count, token in enumerate(text, start=1):
        free, stopped = follower.take(token)
        assert free >= 0
        told += free
        dropped = naive_end(text[:count], stops)
        assert stopped == (dropped > 0)
        assert told == count - (dropped or naive_hold(text[:count], stops))
        if stopped:
            break


@given(texts, sequences)
def test_no_stop_sequence_is_ever_told(text: list[int], stops: list[tuple[int, ...]]) -> None:
    """Neither whole, nor the tokens of the one that ended it; and the order of the sequences makes no difference."""
    told, stopped = run(text, stops)
    joined = [tuple(told[start : start + len(stop)]) == stop for stop in stops for start in range(len(told))]
    assert not any(joined)
    assert (told, stopped) == run(text, stops[::-1])


@pytest.mark.parametrize(
    ("text", "stops", "told", "stopped"),
    [
        ([1, 2, 1, 2, 3], [(1, 2, 3)], [1, 2], True),  # what began as the stop turns out to be text, and begins it again
        ([1, 1, 1, 2], [(1, 1, 2)], [1], True),
        ([0, 1, 2, 3, 4], [(1, 2, 3, 4), (2, 3)], [0, 1], True),  # one inside another ends it earlier
        ([0, 1, 2, 3], [(2, 3), (1, 2, 3)], [0], True),  # of two that end together the longer one
        ([5], [(5,)], [], True),
        ([1, 2], [(1, 2, 3)], [], False),
        ([1, 2, 4], [(1, 2, 3)], [1, 2, 4], False),
        ([1, 2, 2, 3], [(1, 2, 4), (2, 3)], [1, 2], True),  # held for one, dropped for another
    ],
)
def test_overlapping_sequences(text: list[int], stops: list[tuple[int, ...]], told: list[int], stopped: bool) -> None:
    """By hand."""
    assert run(text, stops) == (told, stopped)


def test_without_sequences_nothing_is_held() -> None:
    """Every token is let go at once."""
    follower = Stops(())
    assert [follower.take(token) for token in (0, 1, 1)] == [(1, False)] * 3


class Watched(int):
    """A token that counts how often it is looked at."""

    looks = 0

    def __hash__(self) -> int:
        Watched.looks += 1
        return super().__hash__()

    def __eq__(self, other: object) -> bool:
        Watched.looks += 1
        return int(self) == other


def test_a_token_costs_the_same_whatever_the_sequences_are() -> None:
    """Sixteen of 64 tokens each, of which one holds 63 tokens all the time and the others must be looked for in these."""
    stops = [(0,) * 63 + (1,), *((5,) * 63 + (last,) for last in range(6, 21))]
    follower = Stops(stops)
    Watched.looks = 0
    free = [follower.take(Watched(0)) for _ in range(1000)]
    assert free == [(0, False)] * 63 + [(1, False)] * 937
    assert Watched.looks <= 2 * 1000
    assert follower.take(1) == (0, True)
