"""What must hold after every turn, whatever was done: books that balance, nothing leaked, one outcome per input."""

from __future__ import annotations

from typing import Any
from unittest import mock

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from stepstream_server.engine.books import answer_cache
from support.histories import HISTORIES, World


@settings(max_examples=200, deadline=None)
@given(
    HISTORIES,
    st.sampled_from([1, 2, 4, 16]),
    st.sampled_from([1, 3, 6, 9]),
    st.sampled_from([1, 2, 64]),
    st.sampled_from([8, 24, 1 << 20]),
    st.sampled_from([1, 2, 3]),
)
def test_the_books_balance_and_every_input_has_one_outcome(
    history: list[Any], page: int, window: int, max_batch: int, window_bytes: int, depth: int
) -> None:
    """On random histories of everything that callers can do, with pages and windows that do not fit each other."""
    with mock.patch.object(answer_cache, "_PAGE_STEPS", page), np.errstate(all="ignore"):
        world = World(depth, window_steps=window, max_batch=max_batch, window_bytes=window_bytes)
        world.play(history)
        for key, told in world.told.items():
            assert told == world.asked[key] if key not in world.left else _is_subsequence(told, world.asked[key])
        for stream, length in world.lengths.items():
            assert len(world.told.get((stream, 0), ())) == length
        assert {key for key, asked in world.asked.items() if asked} - world.left <= set(world.told)


def _is_subsequence(part: list[int], whole: list[int]) -> bool:
    """Whether the part is the whole with some left out."""
    rest = iter(whole)
    return all(item in rest for item in part)
