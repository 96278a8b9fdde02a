"""What a bundle declares, as plain records. Backends build from it; the engine knows nothing more of a model.

A model is, per step and session, `inputs, states -> outputs, states`. Every piece of memory is a named state. What computes a
step is a cell, `inputs -> front -> cell -> heads -> outputs`, whose states are `h` and `c`, what the front remembers, and the
last outputs; or a program, a graph that somebody brought.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

CellKind = Literal["lstm", "gru", "rnn"]
HeadKind = Literal["regression", "quantiles", "classes", "next_token"]
DType = Literal["float32", "int32", "int64", "bool"]
TextCodec = Literal["bytes", "words", "pieces"]

PLAIN = 1e15  # no reading or state of a real model comes near; squares of what is smaller can be summed without an overflow
MAX_STOPS = 16  # of a model, and as many of a caller: each is looked for after every draw
MAX_STOP_TOKENS = 64  # held back until it is clear what they are: a line of text
_FLOAT32_MAX = float(np.finfo(np.float32).max)


@dataclass(frozen=True, slots=True)
class TextSpec:
    """How text becomes the tokens of an input, and back.

    bytes: a token is a byte of UTF-8. words: a token is a word or a punctuation mark, and white space only separates them.
    pieces: each word between white space, with the sign `space` in front of it, is cut from left to right into the longest
    entries of the vocabulary; pieces are joined as they are, and the sign becomes a space.
    """

    codec: TextCodec
    vocabulary: tuple[str, ...] = ()  # words and pieces: entry by token
    unknown: str = ""  # the entry that stands for what the vocabulary lacks; "": text with such is refused
    lower: bool = False  # text is put into lower case first
    space: str = ""  # pieces only, such as SentencePiece's "\u2581"


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """An input or output. `shape` is that of one step of one session: no batch axis, no time axis."""

    name: str
    dtype: DType
    shape: tuple[int, ...]
    description: str = ""
    limit: int = 0  # inputs of whole numbers: valid values are 0 <= value < limit; 0: any value of the dtype
    range: float = 0.0  # float32 inputs: valid values are -range <= value <= range; 0: any finite value
    text: TextSpec | None = None  # inputs of one token per step: how text becomes its tokens, and back

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def step_bytes(self) -> int:
        """Bytes of one step of one session."""
        return self.elements * np.dtype(self.dtype).itemsize

    @property
    def bounds(self) -> str:
        """Which numbers are valid, in words; "" where any number of the dtype is."""
        if self.range:
            return f"{-self.range:g} <= {self.name} <= {self.range:g}"
        return f"0 <= {self.name} < {self.limit}" if self.limit else ""

    def within(self, values: NDArray[Any]) -> NDArray[np.bool_]:
        """Mask of the shape of values: True for numbers that are not beyond range or limit; NaN is beyond a range."""
        within = np.ones(values.shape, np.bool_)
        if self.range:
            within = np.abs(values) <= self.range
        elif self.limit:
            within = (values >= 0) & (values < self.limit)
        return within


@dataclass(frozen=True, slots=True)
class StateSpec:
    """One named piece of a session's memory."""

    name: str
    shape: tuple[int, ...]
    dtype: DType = "float32"
    initial: tuple[float, ...] = ()  # its values when a session begins, in C order, as numbers of its dtype; none: zeros

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def initial_value(self) -> NDArray[Any]:
        """The state in which a session begins, [*shape]."""
        return np.array(self.initial or np.zeros(self.elements), self.dtype).reshape(self.shape)


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
class CellModel:
    """A computation that is a recurrent cell with what stands before it."""

    cell: CellSpec
    front: FeaturesFront | EmbeddingFront | None = None

    @property
    def facts(self) -> dict[str, str]:
        """The facts that people ask for first, by name."""
        return {"cell": self.cell.kind, "hidden_size": str(self.cell.hidden_size), "layers": str(self.cell.layers)}


@dataclass(frozen=True, slots=True)
class GraphTensor:
    """The tensor of a program's graph that a declared one is, and along which of its axes the sessions of a batch lie."""

    tensor: str
    batch_axis: int = 0


@dataclass(frozen=True, slots=True)
class GraphState:
    """The tensors of a program's graph that a state is read from and written to."""

    read: str
    written: str
    batch_axis: int = 0


@dataclass(frozen=True, slots=True)
class Constant:
    """An input of a program's graph that has one value for ever."""

    tensor: str
    dtype: DType
    shape: tuple[int, ...]
    value: tuple[float, ...]  # in C order


@dataclass(frozen=True, slots=True)
class Program:
    """A computation that is a graph in ONNX. It says what of the graph the model's tensors and states are.

    States of a program are first those that its graph has, then `carry.{input}` [N, *rest] of each input of which the last N
    values along axis 0 stand in front of the next step's, then `last.{output}` of an output that predicts an input.
    """

    inputs: tuple[GraphTensor, ...]  # one per input of the model
    carry: tuple[int, ...]  # beside it: N, 0 for none
    states: tuple[GraphState, ...]  # one per state that the graph has
    outputs: tuple[GraphTensor, ...]  # one per output of the model
    constants: tuple[Constant, ...] = ()

    @property
    def facts(self) -> dict[str, str]:
        """The facts that people ask for first, by name."""
        return {"cell": "program"}


@dataclass(frozen=True, slots=True)
class HeadSpec:
    """The meaning of an output's numbers; of a cell also how they come about.

    Top layer's h [H] -> output `name` [width]: `head.{name}.weight` [width, H], `head.{name}.bias` [width], then
    `* scale + offset`. With `residual_of`, that input's first value, as it came, is added: the head predicts a change (regression
    and quantiles only). An output of a program has any shape, and width says how many numbers that are.

    quantiles: `levels` says which, ascending; the outputs are sorted so that they never cross. classes and next_token:
    the outputs are logits, `labels` names them where they have names.

    `predicts` names the float32 input whose next value the head predicts: what a rollout feeds back (regression as wide as the
    input, quantiles of an input of one number).

    Of rollouts on a next_token head, `stop` says which sequences of tokens end each of them, beside those that its caller names,
    and `temperature` how they are drawn where the caller does not say.
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
    stop: tuple[tuple[int, ...], ...] = ()
    temperature: float | None = None  # None: that of callers, 1


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A named, versioned recurrent step function with declared inputs, outputs and state."""

    name: str
    version: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    states: tuple[StateSpec, ...]  # order of the columns in a state row
    computation: CellModel | Program
    heads: tuple[HeadSpec, ...]  # one per output
    fingerprint: str  # sha256, hexadecimal, of weights or graph and of every manifest field that outputs depend on
    description: str = ""
    licence: str = ""
    provenance: str = ""
    time_step_seconds: float | None = None
    extra: dict[str, object] = field(default_factory=dict)  # manifest fields of the author's own

    @property
    def state_bytes(self) -> int:
        """Bytes of one session's state."""
        return sum(state.elements * np.dtype(state.dtype).itemsize for state in self.states)

    @property
    def largest_state(self) -> float:
        """The magnitude beyond which a float state counts as not finite. Of a graph that somebody brought nothing is known; the
        limits of a cell follow from its weights, and its backend knows them."""
        return PLAIN if isinstance(self.computation, Program) else _FLOAT32_MAX

    @property
    def rollout_head(self) -> HeadSpec | None:
        """The head that predicts the next input, which a rollout is stepped on; None where there is none, or several inputs."""
        if len(self.inputs) > 1:
            return None
        return next((head for head in self.heads if head.kind == "next_token" or head.predicts), None)

    @property
    def output_step_bytes(self) -> int:
        """Bytes of all outputs of one step of one session."""
        return sum(output.step_bytes for output in self.outputs)


def cell_model(spec: ModelSpec) -> CellModel:
    """The computation of a model that is a cell. Raises TypeError for a program."""
    if not isinstance(spec.computation, CellModel):
        raise TypeError(f"model {spec.name} is a program, not a cell")
    return spec.computation
