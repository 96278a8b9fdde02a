"""Calls of one-shot callers as columns of rows: joined, cut, and in rounds that have each session once."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from stepstream_server.engine.ports import Call, Ints


def joined(calls: Sequence[Call]) -> Call:
    """All calls as one."""
    if len(calls) == 1:
        return calls[0]
    secrets: list[bytes] = []
    if any(call.secrets for call in calls):
        secrets = [secret for call in calls for secret in call.secrets or [b""] * len(call.ids)]
    return Call(
        np.concatenate([call.rows for call in calls]),
        [session_id for call in calls for session_id in call.ids],
        secrets,
        np.concatenate([call.starts for call in calls]),
        tuple(np.concatenate(parts) for parts in zip(*(call.inputs for call in calls), strict=True)),
    )


def part(call: Call, places: Ints | NDArray[np.bool_]) -> Call:
    """Some of a call's rows, in ascending order, by their places or by a mask."""
    chosen = np.zeros(len(call.ids), np.bool_)
    chosen[places] = True
    steps = chosen.repeat(call.rows["length"])
    return Call(
        call.rows[chosen],
        list(itertools.compress(call.ids, chosen)),
        list(itertools.compress(call.secrets, chosen)),
        call.starts[chosen],
        tuple(values[steps] for values in call.inputs),
    )


def rounds(ids: Sequence[str]) -> Iterator[Ints]:
    """Places of the ids, in rounds that have each id at most once: the first of each, then the second of each, and so on."""
    seen: Counter[str] = Counter()
    rounds: list[list[int]] = []
    for place, session_id in enumerate(ids):
        number = seen[session_id]
        seen[session_id] += 1
        if number == len(rounds):
            rounds.append([])
        rounds[number].append(place)
    yield from map(np.array, rounds)
