"""What a bundle declares, as plain records. Backends build from it; the engine knows nothing more of a model.

A model is, per step and session, `inputs -> front -> cell -> heads -> outputs`, with every piece of memory declared as a
named float32 state: `h` and `c` of the cell, what the front remembers, and the last outputs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

CellKind = Literal["lstm", "gru", "rnn"]
HeadKind = Literal["regression", "quantiles", "classes", "next_token"]
DType = Literal["float32", "int64"]
TextCodec = Literal["bytes", "words"]


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """An input or output. `shape` is that of one step of one session: no batch axis, no time axis."""

    name: str
    dtype: DType
    shape: tuple[int, ...]
    description: str = ""
    limit: int = 0  # int64 inputs: valid values are 0 <= value < limit

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def step_bytes(self) -> int:
        """Bytes of one step of one session."""
        return self.elements * (4 if self.dtype == "float32" else 8)


@dataclass(frozen=True, slots=True)
class StateSpec:
    """One named piece of a session's memory, float32, zero when a session begins."""

    name: str
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class CellSpec:
    """The recurrent part. Weights are named as torch names them: `cell.weight_ih_l{k}`, `cell.weight_hh_l{k}`,
    `cell.bias_ih_l{k}`, `cell.bias_hh_l{k}`, gates in torch's order (LSTM i, f, g, o; GRU r, z, n)."""

    kind: CellKind
    input_size: int  # features per step that reach the first layer
    hidden_size: int
    layers: int


@dataclass(frozen=True, slots=True)
class FeaturesFront:
    """float32 input [F] -> `(features - mean) / scale`. With `differences`, features are the F values followed by their F
    changes since the step before, remembered in state `previous` [F]."""

    mean: tuple[float, ...]  # one per feature: F, or 2 F with differences
    scale: tuple[float, ...]  # as many, not 0
    differences: bool = False


@dataclass(frozen=True, slots=True)
class EmbeddingFront:
    """int64 input [] -> row of `embedding.weight` [tokens, width]."""

    tokens: int
    width: int


@dataclass(frozen=True, slots=True)
class HeadSpec:
    """Top layer's h [H] -> output `name` [width]: `head.{name}.weight` [width, H], `head.{name}.bias` [width], then
    `* scale + offset`. With `residual_of`, that input's first value, as it came, is added: the head predicts a change (regression
    and quantiles only).

    quantiles: `levels` says which, ascending; the outputs are sorted so that they never cross. classes and next_token:
    the outputs are logits, `labels` names them where they have names.

    `predicts` names the float32 input whose next value the head predicts: what a rollout feeds back (regression as wide as the
    input, quantiles of an input of one number).
    """

    name: str
    kind: HeadKind
    width: int
    scale: float = 1.0
    offset: float = 0.0
    residual_of: str = ""
    levels: tuple[float, ...] = ()
    labels: tuple[str, ...] = ()
    predicts: str = ""  # at most one head of a model says it
    description: str = ""


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A named, versioned recurrent step function with declared inputs, outputs and state."""

    name: str
    version: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    states: tuple[StateSpec, ...]  # order of the columns in a state row
    cell: CellSpec
    front: FeaturesFront | EmbeddingFront | None
    heads: tuple[HeadSpec, ...]
    fingerprint: str  # sha256, hexadecimal, of weights and of every manifest field that outputs depend on
    description: str = ""
    licence: str = ""
    provenance: str = ""
    time_step_seconds: float | None = None
    text: TextCodec | None = None  # how text becomes tokens and back; words are the labels of the next_token head
    extra: dict[str, object] = field(default_factory=dict)  # manifest fields of the author's own

    @property
    def state_elements(self) -> int:
        """float32 numbers in one session's state."""
        return sum(state.elements for state in self.states)

    @property
    def rollout_head(self) -> HeadSpec | None:
        """The head that predicts the next input, which a rollout is stepped on."""
        return next((head for head in self.heads if head.kind == "next_token" or head.predicts), None)

    @property
    def output_step_bytes(self) -> int:
        """Bytes of all outputs of one step of one session."""
        return sum(output.step_bytes for output in self.outputs)
