"""Pieces: what rollouts have drawn and nobody has been told yet.

To tell every draw in the turn that made it would cost more than the draw: a message to a worker, one to the client, and their
wake-ups. So draws wait a little for the next ones, but for the first of a rollout and the last, and unless the engine has nothing
else to do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stepstream_server.engine.ports import Ints, Rolled, Tensor
from stepstream_server.spec import TensorSpec


class Pieces:
    """Collects them, with engine-wide streams."""

    def __init__(self, outputs: Sequence[TensorSpec], hold_seconds: float) -> None:
        self._specs = outputs
        self._hold_seconds = hold_seconds
        self._parts: list[Rolled] = []
        self._taken_at = float("-inf")  # monotonic seconds
        self._urgent = False

    def add(self, pieces: NDArray[Any], values: Tensor, outputs: Sequence[Tensor] | None) -> None:
        """Adds some; all as in `ports.Rolled`, outputs None if no piece has any."""
        given = outputs or [np.zeros((0, *spec.shape), spec.dtype) for spec in self._specs]
        self._parts.append(Rolled(pieces, values, tuple(given)))

    def hurry(self) -> None:
        """What there is must not wait."""
        self._urgent = True

    def take(self, now: float, *, idle: bool) -> Rolled | None:
        """What is to be told now, a piece for each rollout; None if there is nothing, or it may wait. idle: nothing follows."""
        if not self._parts or not (idle or self._urgent or now - self._taken_at >= self._hold_seconds):
            return None
        parts, self._parts = self._parts, []
        self._taken_at, self._urgent = now, False
        return parts[0] if len(parts) == 1 else _joined(parts)


def moved(order: Ints, sizes: Ints) -> Ints:
    """Where the elements come from of groups of these sizes that are brought into an order."""
    sorted_sizes = sizes[order]
    starts = (np.cumsum(sizes) - sizes)[order]
    within = np.arange(int(sizes.sum())) - np.repeat(np.cumsum(sorted_sizes) - sorted_sizes, sorted_sizes)
    index: Ints = np.repeat(starts, sorted_sizes) + within
    return index


def _joined(parts: Sequence[Rolled]) -> Rolled:
    """One piece for each rollout, of all that it has here."""
    pieces, values = np.concatenate([part.pieces for part in parts]), np.concatenate([part.values for part in parts])
    outputs = [np.concatenate(of_output) for of_output in zip(*(part.outputs for part in parts), strict=True)]
    order = np.argsort(pieces["stream"], kind="stable")
    ordered = pieces[order]
    starts = np.concatenate([[0], np.flatnonzero(np.diff(ordered["stream"])) + 1])
    whole = ordered[starts]
    for name in ("steps", "size", "kept"):
        whole[name] = np.add.reduceat(ordered[name], starts)
    last = np.append(starts[1:], len(ordered)) - 1
    whole["next"], whole["ending"] = ordered["next"][last], ordered["ending"][last]
    kept = moved(order, pieces["kept"])
    return Rolled(whole, values[moved(order, pieces["size"])], tuple(each[kept] for each in outputs))
