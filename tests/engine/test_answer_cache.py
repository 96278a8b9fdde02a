"""Kept answers against a dictionary, with pages and windows that do not fit each other."""

from __future__ import annotations

from typing import Any
from unittest import mock

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from stepstream_server.engine.books import answer_cache
from stepstream_server.engine.books.answer_cache import AnswerCache, count_held, let_go
from stepstream_server.spec import TensorSpec

SESSIONS = 3
moves = st.tuples(st.sampled_from(["keep", "skip", "acknowledge"]), st.integers(0, SESSIONS - 1), st.integers(1, 9))


@settings(max_examples=300, deadline=None)
@given(st.lists(moves, max_size=60), st.sampled_from([1, 2, 4, 8]), st.integers(1, 17))
def test_what_is_kept_is_found_until_it_is_acknowledged(history: list[Any], page: int, window: int) -> None:
    """Whatever is kept, skipped and let go of, also when the ring comes round and pages are used again."""
    with mock.patch.object(answer_cache, "_PAGE_STEPS", page):
        cache = AnswerCache([TensorSpec("y", "float32", (2,))], SESSIONS, window)
    kept: list[dict[int, float]] = [{} for _ in range(SESSIONS)]
    acked, ends, value = [0] * SESSIONS, [0] * SESSIONS, 0.0
    for move, session, count in history:
        steps = min(count, window - (ends[session] - acked[session]))
        if move == "keep" and steps:
            values = np.arange(value, value + 2 * steps, dtype=np.float32).reshape(steps, 2)
            cache.make_room(1, steps)
            cache.keep(session, np.arange(ends[session], ends[session] + steps), [values])
            kept[session] |= {ends[session] + step: value + 2 * step for step in range(steps)}
            value += 2 * steps
        if move != "acknowledge":
            ends[session] += steps
            continue
        to = min(acked[session] + count, ends[session])
        let_go(cache.pages, session, acked[session], to, ends[session])
        kept[session] = {seq: number for seq, number in kept[session].items() if seq >= to}
        acked[session] = to
    for session in range(SESSIONS):
        first, length = acked[session], ends[session] - acked[session]
        places = cache.find(session, first, length)
        assert {first + int(step) for step in np.flatnonzero(places >= 0)} == set(kept[session])
        assert count_held(cache.pages, session, first, ends[session]) == len(kept[session])
        for seq, number in kept[session].items():
            assert cache.get(cache.find(session, seq, 1))[0].tolist() == [[number, number + 1]]
    if acked == ends:
        assert cache.bytes_used == 0
