"""How long what rollouts draw waits to be told: the longer the more there are, and each client its part of the telling."""

from __future__ import annotations

import numpy as np

from stepstream_server.engine.outbox import Pieces
from stepstream_server.engine.ports import PIECE
from stepstream_server.spec import TensorSpec

HOLD = 0.03


def drawn(pieces: Pieces, streams: list[int], now: float, client: int = 1, value: float = 0.0) -> None:
    """One draw of each, under the number that is its value."""
    rows = np.zeros(len(streams), PIECE)
    rows["stream"], rows["first"], rows["steps"], rows["next"], rows["size"] = streams, value, 1, value + 1, 1
    pieces.add(rows, np.full(len(streams), client), np.full(len(streams), value, np.float32), None, now)


def told(pieces: Pieces, now: float, *, idle: bool = False) -> dict[int, list[float]]:
    """Draws that each stream is told."""
    rolled = pieces.take(now, idle=idle)
    if rolled is None:
        return {}
    values = np.split(rolled.values, np.cumsum(rolled.pieces["size"])[:-1])
    return {int(stream): part.tolist() for stream, part in zip(rolled.pieces["stream"], values, strict=True)}


def some() -> Pieces:
    """Nothing yet, of a model with one output."""
    return Pieces([TensorSpec("y", "float32", (1,))], HOLD)


def test_a_few_wait_for_what_comes_next() -> None:
    """Each hears of all its draws at once."""
    pieces = some()
    for draw in range(3):
        drawn(pieces, [5, 6], 10.0 + 0.01 * draw, value=draw)
        assert told(pieces, 10.0 + 0.01 * draw) == {}
    assert told(pieces, 10.04) == {5: [0, 1, 2], 6: [0, 1, 2]}
    assert told(pieces, 20.0, idle=True) == {}


def test_a_thousand_are_told_once_a_second() -> None:
    """Those that have waited longest first, and not all at once."""
    pieces, counts = some(), []
    for launch in range(200):
        now = 10.0 + 0.01 * launch
        drawn(pieces, list(range(10 * (launch % 100), 10 * (launch % 100) + 10)), now)
        counts.append(len(told(pieces, now)))
    assert max(counts) <= 30
    assert 800 <= sum(counts[100:]) <= 1100


def test_what_is_urgent_does_not_wait_and_takes_nobody_along() -> None:
    """The first draws of a rollout, and its last."""
    pieces = some()
    drawn(pieces, [5, 6, 7], 10.0)
    pieces.hurry(6)
    assert pieces.urgent
    assert told(pieces, 10.0) == {6: [0]}
    assert not pieces.urgent
    assert told(pieces, 10.0, idle=True) == {5: [0], 7: [0]}


def test_a_lone_text_is_told_as_often_beside_many() -> None:
    """Clients have equal parts of the telling, as far as they want it."""
    pieces, heard = some(), []
    for launch in range(100):
        now = 10.0 + 0.01 * launch
        drawn(pieces, list(range(100, 1100)), now, client=1)
        drawn(pieces, [5], now, client=2)
        heard.append(5 in told(pieces, now))
    assert sum(heard) >= 20


def test_what_is_urgent_of_nobody_is_forgotten() -> None:
    """Of a rollout that has nothing to be told."""
    pieces = some()
    pieces.hurry(9)
    assert told(pieces, 10.0) == {}
    assert not pieces.urgent
