"""Draws: where chance comes from, and what is made of it and of a prediction."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from stepstream_server.engine.ports import NO_SEQ, Commit, Generate
from stepstream_server.engine.rollouts import sampling
from stepstream_server.engine.rollouts.sampling import Draws, chances
from stepstream_server.spec import HeadSpec

MASK = (1 << 64) - 1
HUGE = float(np.finfo(np.float32).max)
QUANTILES = HeadSpec("y", "quantiles", 5, levels=(0.05, 0.25, 0.5, 0.75, 0.95))


def philox(key: tuple[int, int], counter: tuple[int, int, int, int]) -> tuple[int, ...]:
    """Philox4x64-10 as the paper has it: ten rounds of two products, the key bumped between them."""
    k0, k1 = key
    c0, c1, c2, c3 = counter
    for _ in range(10):
        p0, p1 = 0xD2E7470EE14C6C93 * c0, 0xCA5A826395121157 * c2
        c0, c1, c2, c3 = p1 >> 64 ^ c1 ^ k0, p1 & MASK, p0 >> 64 ^ c3 ^ k1, p0 & MASK
        k0, k1 = k0 + 0x9E3779B97F4A7C15 & MASK, k1 + 0xBB67AE8584CAA73B & MASK
    return c0, c1, c2, c3


def chance(seed: int, seq: int, path: int) -> float:
    """The contract's, from the plain Philox."""
    return (philox((seed, 0), (seq, path, 0, 0))[0] >> 11) * 2.0**-53


def asked(**settings: Any) -> Generate:
    """A rollout of these settings."""
    wanted = Generate(0, 0, "", b"", NO_SEQ, Commit.NONE, (), max_steps=1, arrival=0.0)
    return dataclasses.replace(wanted, **settings)


def next_token(width: int) -> HeadSpec:
    """A head over so many tokens."""
    return HeadSpec("next", "next_token", width)


def draw_all(head: HeadSpec, last: Any, seqs: range, **settings: Any) -> NDArray[Any]:
    """What one rollout draws at each of these steps from the same prediction."""
    draws = Draws(head, 1)
    row = np.zeros(1, np.int64)
    draws.begin(row, asked(**settings))
    draws.last[0] = np.asarray(last, np.float32)
    return np.array([draws.draw(row, np.array([seq]))[0] for seq in seqs])


# Chance ------------------------------------------------------------------------------------------------------------------


def test_the_plain_philox_gives_the_known_answers() -> None:
    """Random123's, of the ten-round generator: all bits clear, all bits set, and digits of pi."""
    known = [
        ((0, 0), (0, 0, 0, 0), "16554d9eca36314c db20fe9d672d0fdc d7e772cee186176b 7e68b68aec7ba23b"),
        ((MASK, MASK), (MASK, MASK, MASK, MASK), "87b092c3013fe90b 438c3c67be8d0224 9cc7d7c69cd777b6 a09caebf594f0ba0"),
        (
            (0x452821E638D01377, 0xBE5466CF34E90C6C),
            (0x243F6A8885A308D3, 0x13198A2E03707344, 0xA4093822299F31D0, 0x082EFA98EC4E6C89),
            "a528f45403e61d95 38c72dbd566e9788 a5a1610e72fd18b5 57bd43b5e52b7fe6",
        ),
    ]
    for key, counter, words in known:
        assert philox(key, counter) == tuple(int(word, 16) for word in words.split())


def test_the_first_chance_of_all() -> None:
    """Seed 0, step 0, path 0: the upper 53 bits of the generator's first word."""
    assert chances(0, 0, 0, 1).tolist() == [(0x16554D9ECA36314C >> 11) / 2**53]


@settings(deadline=None)
@given(
    st.integers(0, MASK),
    st.integers(0, 1 << 62) | st.integers(0, 100),
    st.integers(0, 2047),
    st.integers(1, 70),
)
def test_a_chance_depends_on_seed_step_and_path_alone(seed: int, seq: int, path: int, count: int) -> None:
    """However many are made at once, each is what the plain Philox says of its step."""
    made = chances(seed, seq, path, count)
    assert made.tolist() == [chance(seed, seq + offset, path) for offset in range(count)]
    assert ((made >= 0) & (made < 1)).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, MASK), st.integers(0, 1000), st.lists(st.integers(1, 90), min_size=1, max_size=4))
def test_draws_go_on_where_another_rollout_ended(seed: int, first: int, lengths: list[int]) -> None:
    """In runs of any length, on a row that others have used before: the draws of one long rollout."""
    head, last = next_token(9), np.linspace(0, 1, 9)
    whole = draw_all(head, last, range(first, first + sum(lengths)), seed=seed, temperature=1.0)
    draws, row = Draws(head, 1), np.zeros(1, np.int64)
    parts = []
    for number, length in enumerate(lengths):
        draws.begin(row, asked(seed=seed ^ 1, temperature=0.5))
        draws.last[0] = last
        draws.draw(row, np.array([number]))
        draws.begin(row, asked(seed=seed, temperature=1.0))
        draws.last[0] = last
        parts += [int(draws.draw(row, np.array([first + seq]))[0]) for seq in range(length)]
        first += length
    assert parts == whole.tolist()


def test_rows_that_begin_together_do_not_run_out_together() -> None:
    """A thousand texts are given chances for their next steps a few at a time, or all others would wait every so many turns."""
    draws, rows = Draws(next_token(3), 256), np.arange(256)
    draws.begin(rows, asked(temperature=1.0, paths=256))
    with mock.patch.object(sampling, "chances", wraps=chances) as made:
        draws.draw(rows, np.full(256, 20))
        counts = [made.call_count]
        for seq in range(21, 221):
            draws.draw(rows, np.full(256, seq))
            counts.append(made.call_count)
    assert counts[0] == 256
    assert np.diff(counts).max() <= 4


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 130), st.integers(0, 63), st.integers(0, MASK))
def test_chances_are_those_of_their_steps_on_any_row(seq: int, row: int, seed: int) -> None:
    """Also at the first steps, before which there are none."""
    draws, rows = Draws(QUANTILES, 64), np.arange(64)
    draws.begin(rows, asked(temperature=1.0, seed=seed, paths=64))
    found = [float(draws._chances_of(rows[row : row + 1], np.array([at]))[0]) for at in range(seq, seq + 3)]
    assert found == [chance(seed, at, row) for at in range(seq, seq + 3)]


# Alone and among others --------------------------------------------------------------------------------------------------

tuning = st.fixed_dictionaries(
    {
        "temperature": st.sampled_from([0.0, 0.3, 1.0, 2.5]),
        "top_k": st.sampled_from([0, 1, 3, 40]),
        "top_p": st.sampled_from([0.0, 0.4, 0.9, 1.0]),
        "seed": st.integers(0, MASK),
    }
)


@settings(max_examples=40, deadline=None)
@given(tuning, st.integers(0, 299), st.integers(0, 10_000), st.integers(0, 2**32 - 1))
def test_a_token_is_drawn_alike_alone_and_among_many(wanted: dict[str, Any], place: int, seq: int, chaos: int) -> None:
    """Beside 300 rows of other settings, predictions and steps."""
    rng = np.random.default_rng(chaos)
    head, rows = next_token(37), np.arange(301)
    draws = Draws(head, len(rows))
    for row in rows:
        draws.begin(
            rows[row : row + 1],
            asked(
                temperature=float(rng.choice([0.0, 0.7, 1.0])),
                top_k=int(rng.integers(0, 50)),
                top_p=float(rng.choice([0.0, 0.5, 1.0])),
                seed=int(rng.integers(0, 1 << 60)),
            ),
        )
    draws.last[:] = rng.normal(size=draws.last.shape) * 3
    seqs = rng.integers(0, 10_000, len(rows))
    draws.begin(rows[place : place + 1], asked(**wanted))
    seqs[place] = seq
    chosen = rng.permutation(rows)
    together = dict(zip(chosen.tolist(), draws.draw(chosen, seqs[chosen]).tolist(), strict=True))
    assert [together[place]] == draw_all(head, draws.last[place], range(seq, seq + 1), **wanted).tolist()


@settings(max_examples=40, deadline=None)
@given(st.sampled_from([0.0, 0.5, 1.0, 3.0]), st.integers(0, MASK), st.integers(0, 10_000), st.integers(0, 2**32 - 1))
def test_a_value_is_drawn_alike_alone_and_among_many(temperature: float, seed: int, seq: int, chaos: int) -> None:
    """The same bits of a float32."""
    rng = np.random.default_rng(chaos)
    rows = np.arange(301)
    draws = Draws(QUANTILES, len(rows))
    for row in rows:
        draws.begin(rows[row : row + 1], asked(temperature=float(rng.uniform(0, 2)), seed=int(rng.integers(0, 1 << 60))))
    draws.last[:] = np.sort(rng.normal(size=draws.last.shape), axis=1)
    seqs = rng.integers(0, 10_000, len(rows))
    place = int(rng.integers(0, len(rows)))
    draws.begin(rows[place : place + 1], asked(temperature=temperature, seed=seed))
    seqs[place] = seq
    alone = draw_all(QUANTILES, draws.last[place], range(seq, seq + 1), temperature=temperature, seed=seed)
    assert draws.draw(rows, seqs)[place].tobytes() == alone[0].tobytes()


def test_paths_of_one_rollout_draw_differently() -> None:
    """Each by its own chance."""
    draws, rows = Draws(QUANTILES, 8), np.arange(8)
    draws.begin(rows, asked(temperature=1.0, seed=5, paths=8))
    draws.last[:] = [1.0, 2.0, 3.0, 4.0, 5.0]
    drawn = draws.draw(rows, np.full(8, 3))[:, 0]
    levels = [np.interp(chance(5, 3, path), QUANTILES.levels, [1.0, 2.0, 3.0, 4.0, 5.0]) for path in range(8)]
    inside = [path for path in range(8) if 0.05 <= chance(5, 3, path) <= 0.95]
    assert np.allclose(drawn[inside], np.array(levels)[inside])
    assert len(set(drawn.tolist())) == 8


# Tokens ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({"temperature": 1.0}, [0.4, 0.3, 0.2, 0.1]),
        ({"temperature": 0.5}, [16 / 30, 9 / 30, 4 / 30, 1 / 30]),
        ({"temperature": 1.0, "top_k": 2}, [4 / 7, 3 / 7, 0, 0]),
        ({"temperature": 1.0, "top_p": 0.75}, [4 / 9, 3 / 9, 2 / 9, 0]),
        ({"temperature": 1.0, "top_k": 3, "top_p": 0.75}, [4 / 7, 3 / 7, 0, 0]),  # 0.7 of 0.9 is enough
        ({"temperature": 1e12}, [0.25, 0.25, 0.25, 0.25]),
        ({"temperature": 1e308}, [0.25, 0.25, 0.25, 0.25]),
        ({"temperature": 1e-3}, [1, 0, 0, 0]),
        ({"temperature": 5e-324}, [1, 0, 0, 0]),
    ],
)
def test_frequencies_follow_the_distribution(wanted: dict[str, Any], expected: list[float]) -> None:
    """Over 6,000 steps of one seed, within four standard deviations; what is ruled out never comes."""
    drawn = draw_all(next_token(4), np.log([0.4, 0.3, 0.2, 0.1]), range(6000), seed=11, **wanted)
    counts = np.bincount(drawn, minlength=4)
    spread = 4 * np.sqrt(6000 * np.array(expected) * (1 - np.array(expected)))
    assert (np.abs(counts - 6000 * np.array(expected)) <= spread).all(), counts


@settings(deadline=None)
@given(st.lists(st.floats(-HUGE, HUGE, width=32), min_size=2, max_size=20), st.integers(0, 100))
def test_temperature_0_takes_the_likeliest(logits: list[float], seq: int) -> None:
    """Of equal ones the first. A very small temperature takes one of the likeliest; so do top_k = 1 and a tiny top_p."""
    scores = np.array(logits, np.float32).astype(np.float64)
    head, at = next_token(len(logits)), range(seq, seq + 3)
    assert set(draw_all(head, logits, at).tolist()) == {int(scores.argmax())}
    assert set(scores[draw_all(head, logits, at, temperature=1e-300)]) == {scores.max()}
    as_likely = np.flatnonzero(np.exp((scores - scores.max()) / 1.5) == 1.0)
    for limits in ({"top_k": 1}, {"top_p": 5e-324}, {"top_p": 1e-30}, {"top_p": 0.01}):
        assert set(draw_all(head, logits, at, temperature=1.5, **limits).tolist()) == {int(as_likely[0])}


def test_of_equally_likely_tokens_the_lowest_are_among_the_top() -> None:
    """top_k cuts through a tie at the same place each time."""
    drawn = draw_all(next_token(5), [1.0, 2.0, 1.0, 2.0, 1.0], range(400), temperature=1.0, top_k=3)
    assert set(drawn.tolist()) == {0, 1, 3}


@pytest.mark.parametrize(
    ("top_p", "most"), [(0.25, 0), (0.25 + 1e-12, 1), (0.5, 1), (0.5 + 1e-12, 2), (0.75, 2), (1.0, 3), (0.0, 3)]
)
def test_top_p_takes_no_more_than_it_needs(top_p: float, most: int) -> None:
    """Four tokens of a quarter each: a share that is reached exactly needs no further one."""
    drawn = draw_all(next_token(4), [0.0] * 4, range(400), temperature=1.0, top_p=top_p)
    assert set(drawn.tolist()) == set(range(most + 1))


@pytest.mark.parametrize("wanted", [{}, {"top_k": 2}, {"top_p": 0.999}, {"top_k": 3, "top_p": 1.0}])
def test_impossible_tokens_never_come(wanted: dict[str, Any]) -> None:
    """Logits as low and as high as float32 goes: what has no weight is not drawn, first and last token included."""
    last = [-HUGE, HUGE, -HUGE, HUGE, -HUGE]
    drawn = draw_all(next_token(5), last, range(500), temperature=1.0, seed=3, **wanted)
    assert set(drawn.tolist()) == {1, 3}
    assert np.isin(draw_all(next_token(5), [-HUGE] * 5, range(50), temperature=1.0), range(5)).all()


def test_every_chance_finds_a_token_with_weight() -> None:
    """The lowest and the highest there are lead to the first and to the last possible token."""
    draws, row = Draws(next_token(6), 1), np.zeros(1, np.int64)
    draws.begin(row, asked(temperature=1.0))
    draws.last[0] = [-HUGE, 0.1, 0.2, 0.3, 0.4, -HUGE]
    draws.draw(row, np.array([0]))
    for value, token in ((0.0, 1), (math.nextafter(1.0, 0.0), 4)):
        draws._chances[0, 5] = value
        assert draws.draw(row, np.array([5])).tolist() == [token]


# Values ------------------------------------------------------------------------------------------------------------------

ascending = st.lists(st.floats(-1e6, 1e6, width=32), min_size=5, max_size=5).map(sorted)


def value_at(head: HeadSpec, last: Any, level: float, temperature: float = 1.0) -> float:
    """What is drawn where chance is at that level."""
    draws, row = Draws(head, 1), np.zeros(1, np.int64)
    draws.begin(row, asked(temperature=temperature))
    draws.last[0] = np.asarray(last, np.float32)
    draws.draw(row, np.array([0]))
    draws._chances[0, 1] = level
    return float(draws.draw(row, np.array([1]))[0, 0])


@given(ascending, st.lists(st.floats(0, 1, exclude_max=True), min_size=2, max_size=8))
def test_values_grow_with_chance(quantiles: list[float], levels: list[float]) -> None:
    """A higher level never gives a lower value, but for the last bit of what is the same value."""
    drawn = [value_at(QUANTILES, quantiles, level) for level in sorted(levels)]
    slack = 1e-6 * max(1.0, *map(abs, quantiles))
    assert all(low <= high + slack for low, high in itertools.pairwise(drawn))


@given(ascending, st.floats(0, 1, exclude_max=True))
def test_temperature_0_gives_the_median(quantiles: list[float], level: float) -> None:
    """Whatever chance says."""
    assert value_at(QUANTILES, quantiles, level, temperature=0.0) == quantiles[2]


@pytest.mark.parametrize(
    ("level", "value"),
    [(0.05, 1.0), (0.15, 1.5), (0.25, 2.0), (0.5, 4.0), (0.6, 5.6), (0.95, 12.0), (0.0, 0.75), (0.975, 12.5)],
)
def test_between_the_levels_and_beyond_them(level: float, value: float) -> None:
    """Straight lines, which go on outside as they came in."""
    assert value_at(QUANTILES, [1.0, 2.0, 4.0, 8.0, 12.0], level) == pytest.approx(value, rel=1e-6)


def test_temperature_stretches_values_around_the_median() -> None:
    """Half of it halves the distance."""
    quantiles = [1.0, 2.0, 4.0, 8.0, 12.0]
    assert [value_at(QUANTILES, quantiles, 0.75, temperature) for temperature in (0.5, 1.0, 2.0)] == [6.0, 8.0, 12.0]


def test_a_single_level_is_all_there_is_to_draw() -> None:
    """At any chance and temperature."""
    head = HeadSpec("y", "quantiles", 1, levels=(0.9,))
    assert {value_at(head, [3.5], level, temperature) for level in (0.0, 0.3, 0.99) for temperature in (0.0, 1.0, 9.0)} == {3.5}


def test_a_median_between_levels_lies_between() -> None:
    """Where no level is 0.5."""
    head = HeadSpec("y", "quantiles", 2, levels=(0.25, 0.75))
    assert value_at(head, [1.0, 3.0], 0.1, temperature=0.0) == 2.0


@pytest.mark.parametrize("temperature", [1e30, 1e200, 1.7e308])
def test_values_stay_within_float32(temperature: float) -> None:
    """However far temperature and chance would carry them: what is fed is finite."""
    quantiles = [-HUGE, -1e30, 0.0, 1e30, HUGE]
    assert [value_at(QUANTILES, quantiles, level, temperature) for level in (0.0, 0.3, 0.7, 0.999)] == [-HUGE, -HUGE, HUGE, HUGE]


def test_a_regression_feeds_back_what_it_says() -> None:
    """As wide as it is."""
    head = HeadSpec("y", "regression", 3, predicts="x")
    assert draw_all(head, [1.0, 2.5, -3.0], range(2)).tolist() == [[1.0, 2.5, -3.0]] * 2
