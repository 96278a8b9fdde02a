"""`stepstream.Rollout`, blocking."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import stepstream
from stepstream._rollout import Ending, Piece

if TYPE_CHECKING:
    from stepstream.sync._client import Client


class Rollout(Iterator[Piece]):
    """What is being generated: as `stepstream.Rollout`, blocking. A few pieces are taken ahead of their use."""

    def __init__(self, client: Client, rollout: stepstream.Rollout) -> None:
        self._client = client
        self._rollout = rollout
        self._pieces = client._iterate(rollout)

    @property
    def seed(self) -> int:
        """As `stepstream.Rollout.seed`."""
        return self._rollout.seed

    @property
    def ending(self) -> Ending | None:
        """As `stepstream.Rollout.ending`."""
        return self._rollout.ending

    @property
    def next_seq(self) -> int | None:
        """As `stepstream.Rollout.next_seq`."""
        return self._rollout.next_seq

    def whole(self) -> Piece:
        """As `stepstream.Rollout.whole`."""
        return self._rollout._joined(list(self))

    def close(self) -> None:
        """As `stepstream.Rollout.aclose`."""
        self._pieces.close()

    def __next__(self) -> Piece:
        return next(self._pieces)
