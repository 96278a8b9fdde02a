"""A model of tokens whose text anybody can continue by hand: the likeliest next token is the sum of all that were fed."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stepstream_server.engine.ports import Computed, Ints, Tensor
from stepstream_server.engine.rollouts.sampling import chances
from stepstream_server.spec import CellModel, CellSpec, EmbeddingFront, HeadSpec, ModelSpec, StateSpec, TensorSpec
from support.backend import FakeBackend, faults_of

TOKENS = 7


def tokens_spec() -> ModelSpec:
    """A token in, logits of the next one out."""
    return ModelSpec(
        name="speaker",
        version=1,
        inputs=(TensorSpec("token", "int64", (), limit=TOKENS),),
        outputs=(TensorSpec("next", "float32", (TOKENS,)),),
        states=(StateSpec("sum", (1,)), StateSpec("count", (1,)), StateSpec("last.next", (TOKENS,))),
        computation=CellModel(CellSpec("rnn", 1, 1, 1), EmbeddingFront(TOKENS, 1)),
        heads=(HeadSpec("next", "next_token", TOKENS),),
        fingerprint="1" * 64,
    )


def logits_after(total: Any) -> NDArray[np.float32]:
    """Of the next token after tokens of this sum, or of these sums: the likelier the less it lies above the sum, mod TOKENS."""
    above = (np.arange(TOKENS) - np.asarray(total)[..., None]) % TOKENS
    logits: NDArray[np.float32] = (-0.5 * above).astype(np.float32)
    return logits


class Speaker:
    """One stream of the model, by itself."""

    def __init__(self, fed: Iterable[int] = ()) -> None:
        self.sum = self.count = 0
        self.feed(fed)

    def feed(self, tokens: Iterable[int]) -> None:
        for token in tokens:
            self.sum = (self.sum + token) % TOKENS
            self.count += 1

    def draw(self, seed: int = 0, temperature: float = 0.0) -> int:
        """The token of the next step; it is not fed."""
        if not temperature:
            return self.sum
        weights = [math.exp(score / temperature) for score in logits_after(self.sum).tolist()]
        left = float(chances(seed, self.count, 0, 1)[0]) * math.fsum(weights)
        for token, weight in enumerate(weights):
            if left < weight:
                return token
            left -= weight
        return TOKENS - 1

    def roll(self, steps: int, seed: int = 0, temperature: float = 0.0) -> list[int]:
        """Draws and feeds so many tokens."""
        drawn = []
        for _ in range(steps):
            drawn.append(self.draw(seed, temperature))
            self.feed(drawn[-1:])
        return drawn

    @property
    def state(self) -> list[float]:
        """A slot's numbers: zeros at first."""
        return [self.sum, self.count, *logits_after(self.sum).tolist()] if self.count else [0.0] * (2 + TOKENS)


@dataclass
class SpeakingBackend(FakeBackend):
    """Computes the model. `poison` is a token that makes its step non-finite."""

    rows: list[list[int]] = field(default_factory=list)  # slots of each launch

    def __post_init__(self) -> None:
        super().__post_init__()
        self.states = np.zeros((self.slots, 2 + TOKENS), np.float32)

    def read(self, slots: Ints) -> dict[str, Tensor]:
        states = self.states[slots]
        return {"sum": states[:, :1], "count": states[:, 1:2], "last.next": states[:, 2:]}

    def write(self, slots: Ints, states: dict[str, Tensor]) -> None:
        self.states[slots] = np.concatenate([states["sum"], states["count"], states["last.next"]], axis=1)

    def launch(self, function: str, slots: Ints, inputs: tuple[Tensor, ...], length: int) -> Any:
        self.before_launch()
        if len(set(slots.tolist())) != len(slots) or set(slots.tolist()) & set(self.free):
            raise AssertionError(f"slots twice in one launch, or nobody's: {slots}")
        tokens = inputs[0]
        assert tokens.shape == (len(slots), length)
        assert ((tokens >= 0) & (tokens < TOKENS)).all()
        self.launches.append((len(slots), length))
        self.rows.append(slots.tolist())
        sums = (self.states[slots, :1].astype(np.int64) + np.cumsum(tokens, axis=1)) % TOKENS
        logits = logits_after(sums)
        logits[tokens == self.poison] = np.inf
        return slots, length, sums, logits

    def collect(self, ticket: Any) -> Computed:
        self.before_collect()
        slots, length, sums, logits = ticket
        finite = np.isfinite(logits).all(axis=(1, 2))
        moved = slots[finite]
        self.states[moved, 0] = sums[finite, -1]
        self.states[moved, 1] += length
        self.states[moved, 2:] = logits[finite, -1]
        return Computed((logits,), None if finite.all() else faults_of(finite))
