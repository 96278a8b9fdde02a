"""The n-gram model that the code model is compared with."""

from __future__ import annotations

import numpy as np
import pytest
from corpus import Files, load_shipped
from ngram import Ngram


@pytest.fixture(scope="module")
def files() -> Files:
    """A few files to count in."""
    return load_shipped()


@pytest.mark.parametrize("before", [b"", b"d", b"import ", b"\x00\xff\x00\xff\x00"])
@pytest.mark.parametrize("context", [0, 1, 5, 7])
def test_what_may_come_next_adds_up_to_one(files: Files, context: int, before: bytes) -> None:
    """Whatever was seen before it, of the 256 bytes one must come."""
    model = Ngram(files.values(), context)
    likely = [model.probabilities(before + bytes([byte]))[-1] for byte in range(256)]
    assert min(likely) > 0
    assert sum(likely) == pytest.approx(1)


def test_a_file_counted_is_foretold(files: Files) -> None:
    """On what it was trained on it is nearly certain; on another file, better with more context."""
    *counted, held_out = files.values()
    seen = Ngram(files.values()).probabilities(held_out)
    costs = [-np.log2(Ngram(counted, context).probabilities(held_out)).mean() for context in (0, 1, 2, 3)]
    assert -np.log2(seen).mean() < 1 < min(costs)
    assert costs == sorted(costs, reverse=True)


def test_only_what_came_before_counts(files: Files) -> None:
    """What follows a byte does not change how likely it was; neither does what lies further back than the context."""
    content = files["chunk.py"]
    model = Ngram(files.values())
    whole = model.probabilities(content)
    np.testing.assert_array_equal(model.probabilities(content[:50]), whole[:50])
    np.testing.assert_array_equal(model.probabilities(content[45:60])[5:], whole[50:60])


def test_counts_by_hand() -> None:
    """One byte of context, worked out by hand: two strings of two bytes, each counted twice."""
    model = Ngram([b"ab", b"ab", b"cb", b"cb"], context=1)
    # Both pairs have a count of 2, so n2 = 2, and n1, n3 and n4 are taken as 1: Y = 1 / (1 + 2 * 2), D2 = 2 - 3 Y n3 / n2.
    # `b`, the one byte that follows another, counts 2, for it follows two: all n are 1, Y = 1 / 3, D2 = 2 - 3 Y.
    pair, single = 2 - 3 / 10, 2 - 1.0
    lower = ((2 - single) + single / 256) / 2
    assert model.probabilities(b"ab")[1] == pytest.approx(((2 - pair) + pair * lower) / 2)
    assert model.probabilities(b"xb")[1] == pytest.approx(lower)
