"""Sampling: the next input of a rollout out of the model's last prediction, and whether what was drawn ends it.

What is drawn depends on the prediction, the rollout's settings, its seed, the step's number and its path, and on nothing else: it
is the same alone and in any batch, in one rollout or in several. Chance comes from Philox4x64-10 (Salmon et al., Parallel Random
Numbers: As Easy as 1, 2, 3, SC 2011), whose block for any (seed, step, path) can be computed by itself.

A token that may turn out to be the beginning of a stop sequence is held until that is decided. All sequences are followed at
once: a bit for each place of each says whether the last tokens are the sequence up to there (Baeza-Yates and Gonnet, A New
Approach to Text Searching, CACM 1992), so that a token costs the same whatever the sequences and the tokens are.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from stepstream_server.engine.ports import Floats, Generate, Ints, Tensor
from stepstream_server.spec import HeadSpec

_AHEAD = 64  # steps whose chances are made at once, per row: 16 us for one, and hardly more for all of them
_COUNTERS = 1 << 256  # Philox's
_STEP_BITS = 64  # of the counter: the step's number; the path's above
_WORDS = 4  # of 64 bits in one block
_FRACTION_BITS = 53  # of a float64
_LARGEST = float(np.finfo(np.float32).max)


class Draws:
    """Predictions and settings of all rows that rollouts may have; row by row what it takes to draw."""

    def __init__(self, head: HeadSpec, rows: int, largest: float = 0.0) -> None:
        """head: whose output a rollout feeds back. largest: magnitude of the floats that the model takes; 0: any."""
        self._head = head
        self._largest = largest
        self._levels = np.array(head.levels)
        self.last = np.zeros((rows, head.width), np.float32)  # the head's last output
        self._temperature = np.zeros(rows)
        self._top_k = np.zeros(rows, np.int64)
        self._top_p = np.zeros(rows)
        self._seed = np.zeros(rows, np.uint64)
        self._path = np.zeros(rows, np.int64)
        self._chances = np.zeros((rows, _AHEAD))  # uniform in [0, 1), of the steps from `_first` on
        self._first = np.full(rows, -_AHEAD)

    def begin(self, rows: Ints, wanted: Generate) -> None:
        """The rows are this rollout's paths from now on."""
        self._temperature[rows] = wanted.temperature
        self._top_k[rows] = wanted.top_k or self._head.width
        self._top_p[rows] = wanted.top_p or 1.0
        self._seed[rows] = wanted.seed
        self._path[rows] = np.arange(len(rows))
        self._first[rows] = -_AHEAD

    def draw(self, rows: Ints, seqs: Ints) -> Tensor:
        """The inputs of these steps: int64 [n] of tokens; float32 [n, width] or, of quantiles, [n, 1], as far as the
        model takes them. seqs: their numbers."""
        temperature, chances = self._temperature[rows], self._chances_of(rows, seqs)
        match self._head.kind:
            case "next_token":
                return _tokens(self.last[rows], temperature, self._top_k[rows], self._top_p[rows], chances)
            case "quantiles":
                values = _values(self.last[rows], self._levels, temperature, chances)
            case _:
                values = self.last[rows]
        return values.clip(-self._largest, self._largest) if self._largest else values

    def _chances_of(self, rows: Ints, seqs: Ints) -> Floats:
        """Finds what Philox says of each row's step: [n] in [0, 1)."""
        places = seqs - self._first[rows]
        used_up = (places >= _AHEAD) & (self._temperature[rows] > 0)
        if used_up.any():
            for row, seq in zip(rows[used_up].tolist(), seqs[used_up].tolist(), strict=True):
                first = seq - (seq - row) % _AHEAD  # rows that have begun together run out at different steps
                self._chances[row] = chances(int(self._seed[row]), first, int(self._path[row]), _AHEAD)
                self._first[row] = first
            places = seqs - self._first[rows]
        found: Floats = self._chances[rows, np.minimum(places, _AHEAD - 1)]
        return found


def chances(seed: int, seq: int, path: int, count: int) -> Floats:
    """Uniform numbers in [0, 1) of `count` steps from `seq` on: each the upper bits of the first word of Philox4x64-10's block
    with key (seed, 0) and counter (seq, path, 0, 0)."""
    before = (path << _STEP_BITS) + seq - 1  # numpy counts on before it makes a block
    words = np.random.Philox(key=seed, counter=before % _COUNTERS).random_raw(_WORDS * count)[::_WORDS]
    return (words >> np.uint64(64 - _FRACTION_BITS)).astype(np.float64) * 2.0**-_FRACTION_BITS


def _tokens(logits: NDArray[np.float32], temperature: Floats, top_k: Ints, top_p: Floats, chance: Floats) -> Ints:
    """Token per row of logits [n, tokens]: the likeliest where the temperature is 0, else by the inverse of the distribution's
    sums in the order of tokens, in float64."""
    tokens: Ints = logits.argmax(axis=1)
    warm = np.flatnonzero(temperature > 0)
    if warm.size:
        scores = logits[warm].astype(np.float64)
        scores -= scores.max(axis=1, keepdims=True)
        with np.errstate(over="ignore"):  # near temperature 0: all but the likeliest are infinitely less likely
            scores /= temperature[warm, None]
        weights = np.exp(scores)
        limited = np.flatnonzero((top_k[warm] < logits.shape[1]) | (top_p[warm] < 1.0))
        if limited.size:
            weights[limited] = _likeliest(weights[limited], top_k[warm[limited]], top_p[warm[limited]])
        sums = weights.cumsum(axis=1)
        # A chance is below 1 by 2^-53 at least: even the rounded product is below the sum of all, what is drawn is possible.
        tokens[warm] = (sums <= chance[warm, None] * sums[:, -1:]).sum(axis=1)
    return tokens


def _likeliest(weights: Floats, top_k: Ints, top_p: Floats) -> Floats:
    """Weights [n, tokens] of the top_k likeliest of each row, and of these of the fewest with the share top_p; 0 elsewhere."""
    order = np.argsort(-weights, axis=1, kind="stable")  # of equal ones the lowest token first
    ordered = np.take_along_axis(weights, order, axis=1)
    ordered[np.arange(weights.shape[1]) >= top_k[:, None]] = 0.0
    sums = ordered.cumsum(axis=1)
    ordered[sums - ordered >= top_p[:, None] * sums[:, -1:]] = 0.0
    chosen = np.zeros_like(weights)
    np.put_along_axis(chosen, order, ordered, axis=1)
    return chosen


def _values(quantiles: NDArray[np.float32], levels: Floats, temperature: Floats, chance: Floats) -> NDArray[np.float32]:
    """Value per row of quantiles [n, levels], [n, 1]: the inverse distribution at `chance`, straight between the levels and on
    beyond the outer ones; its distance from the median times the temperature, as far as float32 goes."""
    medians = _between(quantiles, levels, np.full(len(quantiles), 0.5))
    with np.errstate(over="ignore"):
        values = medians + temperature * (_between(quantiles, levels, chance) - medians)
    return values.clip(-_LARGEST, _LARGEST).astype(np.float32)[:, None]


def _between(quantiles: NDArray[np.float32], levels: Floats, at: Floats) -> Floats:
    """Quantiles [n, levels] of each row at the level `at`: [n]."""
    if len(levels) == 1:
        return quantiles[:, 0].astype(np.float64)
    high = np.searchsorted(levels, at).clip(1, len(levels) - 1)
    share = (at - levels[high - 1]) / (levels[high] - levels[high - 1])
    rows = np.arange(len(quantiles))
    below, above = quantiles[rows, high - 1].astype(np.float64), quantiles[rows, high].astype(np.float64)
    between: Floats = (1 - share) * below + share * above  # at a level just what is said of it
    return between


class Stops:
    """Follows the tokens of one rollout. Counts are of those that have been neither let go nor dropped."""

    def __init__(self, sequences: Sequence[tuple[int, ...]]) -> None:
        """sequences: none of them empty; none at all: every token is let go at once. Of several that end at the same token
        the longest counts, so that nothing of a stop sequence is let go."""
        self._width = max(1, len(sequences))  # bits of one place: the first places of all sequences, then the second ones, ...
        self._firsts = (1 << len(sequences)) - 1
        self._ends = 0
        self._places: dict[int, int] = {}  # where each token stands
        for number, sequence in enumerate(sequences):
            bit = 1 << number
            for token in sequence:
                self._places[token] = self._places.get(token, 0) | bit
                bit <<= self._width
            self._ends |= bit >> self._width
        self._begun = 0  # the places up to which the last tokens are a sequence
        self._held = 0

    def take(self, token: int) -> tuple[int, bool]:
        """Adds a token. Returns how many of the oldest tokens can be let go, and whether the others are a stop sequence."""
        self._begun = (self._begun << self._width | self._firsts) & self._places.get(token, 0)
        ended = self._begun & self._ends
        held, self._held = self._held + 1, self._longest(ended or self._begun)
        return held - self._held, ended > 0

    def _longest(self, places: int) -> int:
        """How many tokens the furthest of the places takes."""
        return -(-places.bit_length() // self._width)
