"""Models whose prediction follows from their last input alone, so that anybody can say how they are rolled out.

`ring` reads tokens and expects each to be followed by the next one, around in a circle; `walk` reads a number and expects
one that is less or more by up to 1.25.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from stepstream_server.engine.ports import Computed, Ints, Tensor
from stepstream_server.spec import CellModel, CellSpec, EmbeddingFront, HeadSpec, ModelSpec, StateSpec, TensorSpec, TextSpec
from support.backend import FakeBackend, faults_of

TOKENS = 8
CERTAINTY = 3.0  # logit of the token that is expected; those of all others are 0
LEVELS = (0.1, 0.5, 0.9)
STEPS_OF_WALK = np.array([-1.0, 0.0, 1.0], np.float32)  # at LEVELS


WORDS_OF_RING = TextSpec("words", tuple(f"word {number}" for number in range(TOKENS)))


def ring_spec(name: str) -> ModelSpec:
    """Tokens below TOKENS, each a word."""
    return _spec(
        name,
        TensorSpec("token", "int64", (), limit=TOKENS, text=WORDS_OF_RING),
        HeadSpec("next", "next_token", TOKENS, labels=WORDS_OF_RING.vocabulary),
        computation=CellModel(CellSpec("rnn", 1, 1, 1), EmbeddingFront(TOKENS, 1)),
    )


def ended_spec(name: str) -> ModelSpec:
    """`ring_spec`, drawn greedily unless the caller says otherwise and ended by token 5 or by 2 and 3 in a row; all words that it
    does not know are token 0, and its tokens are labelled by their numbers."""
    spec = ring_spec(name)
    text = dataclasses.replace(WORDS_OF_RING, unknown="word 0", lower=True)
    heads = (dataclasses.replace(spec.heads[0], labels=tuple(map(str, range(TOKENS))), stop=((5,), (2, 3)), temperature=0.0),)
    return dataclasses.replace(spec, heads=heads, inputs=(dataclasses.replace(spec.inputs[0], text=text),))


def walk_spec(name: str) -> ModelSpec:
    """One number, and quantiles of the next one."""
    return _spec(name, TensorSpec("x", "float32", (1,)), HeadSpec("next", "quantiles", 3, levels=LEVELS, predicts="x"))


def _spec(name: str, reading: TensorSpec, head: HeadSpec, **told: Any) -> ModelSpec:
    return ModelSpec(
        name=name,
        version=1,
        inputs=(reading,),
        outputs=(TensorSpec(head.name, "float32", (head.width,)),),
        states=(StateSpec(f"last.{head.name}", (head.width,)), StateSpec("count", (1,))),
        heads=(head,),
        fingerprint="1" * 64,
        **{"computation": CellModel(CellSpec("rnn", 1, 1, 1)), **told},
    )


def ring(tokens: Tensor) -> Tensor:
    """Logits [..., TOKENS] behind tokens [...]."""
    expected = (tokens[..., None] + 1) % TOKENS == np.arange(TOKENS)
    return np.where(expected, np.float32(CERTAINTY), np.float32(0))


def walk(values: Tensor) -> Tensor:
    """Quantiles [..., 3] behind values [..., 1]."""
    quantiles: Tensor = values + STEPS_OF_WALK
    return quantiles


@dataclass
class EchoBackend(FakeBackend):
    """Gives what `predict` makes of each input, and counts steps."""

    predict: Callable[[Tensor], Tensor] = ring
    width: int = TOKENS

    def __post_init__(self) -> None:
        super().__post_init__()
        self.states = np.zeros((self.slots, self.width + 1), np.float32)

    def read(self, slots: Ints) -> dict[str, Tensor]:
        return {"last.next": self.states[slots, :-1].copy(), "count": self.states[slots, -1:].copy()}

    def write(self, slots: Ints, states: dict[str, Tensor]) -> None:
        self.states[slots] = np.concatenate([states["last.next"], states["count"]], axis=1)

    def launch(self, function: str, slots: Ints, inputs: tuple[Tensor, ...], length: int) -> Any:
        self.before_launch()
        if self.broken:
            raise RuntimeError("the device fell off the bus")
        self.launches.append((len(slots), length))
        return slots, self.predict(inputs[0]).astype(np.float32), length

    def collect(self, ticket: Any) -> Computed:
        self.before_collect()
        slots, outputs, length = ticket
        finite = np.isfinite(outputs).all(axis=(1, 2))
        self.states[slots[finite], :-1] = outputs[finite, -1]
        self.states[slots[finite], -1] += length
        return Computed((outputs,), None if finite.all() else faults_of(finite))


def ring_backend() -> EchoBackend:
    """Of `ring`."""
    return EchoBackend(slots=512)


def walk_backend() -> EchoBackend:
    """Of `walk`."""
    return EchoBackend(slots=512, predict=walk, width=3)
