"""The fields of `model.json` where the model is a program (`format_version` 2), their types and ranges."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from stepstream_server.bundles.fields import (
    FLOAT32_MAX,
    MAX_TENSORS,
    MAX_WIDTH,
    About,
    Digest,
    Entry,
    HeadKind,
    Labels,
    Levels,
    Shape,
    StateName,
    Stop,
    Temperature,
    TensorName,
    TextEntry,
    shorten,
    wrong,
)
from stepstream_server.spec import PLAIN, DType

MAX_STATES = 512  # a transducer of sixteen layers has six states a layer
MAX_NUMBERS = 1 << 24  # of one step and one session's states together, 64 MiB: nothing steps more in real time
MAX_LIMIT = 1 << 31  # rows of a table that an index chooses from: what int32 holds
MAX_FILES = 4096  # of external data: some exporters write one per weight

GraphName = Annotated[str, Field(min_length=1, max_length=512)]  # of a tensor: exporters join the names of nested modules
GraphFile = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}\.onnx$")]  # no folders: stays in the bundle
DataFile = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,254}$")]  # likewise
BatchAxis = Annotated[int, Field(ge=0, le=8, description="Along which axis of the graph's tensor the sessions of a batch lie.")]
# Whole numbers stay exact, since those of an int64 do not fit a float.
Value = (
    Annotated[int, Field(ge=-(1 << 63), lt=1 << 63)]
    | Annotated[float, Field(ge=-FLOAT32_MAX, le=FLOAT32_MAX, allow_inf_nan=False)]
)
Values = Value | bool | Annotated[tuple[Value | bool, ...], Field(min_length=1, max_length=MAX_NUMBERS)]


class ProgramInput(Entry):
    """An input: what one step of one session brings, and the tensor of the graph that takes it."""

    name: TensorName
    tensor: GraphName
    shape: Shape = Field(description="Of one step of one session: no batch axis, no time axis, nothing carried.")
    batch_axis: BatchAxis = 0
    carry: int = Field(
        default=0, ge=0, le=MAX_WIDTH, description="The last so many values along axis 0 stand in front of the next step's."
    )
    description: str = ""


class FloatInput(ProgramInput):
    """An input of real numbers, which have a range: of an opaque graph nobody knows what it makes of larger ones."""

    dtype: Literal["float32"]
    range: float = Field(gt=0, le=PLAIN, allow_inf_nan=False, description="Valid values are -range <= value <= range.")


class WholeInput(ProgramInput):
    """An input of whole numbers."""

    dtype: Literal["int32", "int64"]
    limit: int = Field(default=0, ge=0, le=MAX_LIMIT, description="Valid values are 0 <= value < limit; without one, any.")
    text: TextEntry | None = Field(default=None, description="Of tokens: how text becomes them, and back.")


class BoolInput(ProgramInput):
    """An input of truth values."""

    dtype: Literal["bool"]


class ConstantEntry(Entry):
    """An input of the graph that has one value for ever."""

    tensor: GraphName
    dtype: DType
    shape: Shape = Field(default=(), description="Of the graph's tensor.")
    value: Values = Field(description="One number, or all of them in C order.")


class ProgramState(Entry):
    """A piece of a session's memory, and the tensors of the graph from which a step reads it and to which it writes it."""

    name: StateName
    read: GraphName
    written: GraphName
    dtype: DType = "float32"
    shape: Shape = Field(description="Of one session: no batch axis.")
    batch_axis: BatchAxis = 0
    initial: Values = Field(default=0, description="Its value when a session begins: one number, or all of them in C order.")


class ProgramOutput(Entry):
    """An output, the tensor of the graph that it is, and what its numbers mean."""

    name: TensorName
    tensor: GraphName
    dtype: DType = "float32"
    shape: Shape = Field(description="Of one step of one session.")
    batch_axis: BatchAxis = 0
    kind: HeadKind = "regression"
    levels: Levels = Field(default=(), description="quantiles only, one per number, ascending.")
    labels: Labels = Field(default=(), description="classes and next_token: names of the numbers.")
    predicts: str = Field(
        default="", description="Name of the float32 input whose next value this output predicts: what a rollout feeds back."
    )
    stop: Stop = ()
    temperature: Temperature | None = Field(default=None, description="next_token only: of rollouts whose caller does not say.")
    description: str = Field(default="", description="What the numbers are and in which unit.")


class DataEntry(Entry):
    """A file of the graph's external data, beside the manifest."""

    file: DataFile
    sha256: Digest


class GraphEntry(Entry):
    """The file of the graph, beside the manifest."""

    file: GraphFile
    sha256: Digest
    data: tuple[DataEntry, ...] = Field(default=(), max_length=MAX_FILES)


class ProgramManifest(About):
    """Manifest of a bundle whose model is a program."""

    model_config = ConfigDict(title="A program: format_version 2")

    format_version: Literal[2]
    kind: Literal["program"]
    inputs: tuple[Annotated[FloatInput | WholeInput | BoolInput, Field(discriminator="dtype")], ...] = Field(
        min_length=1, max_length=MAX_TENSORS
    )
    constants: tuple[ConstantEntry, ...] = Field(default=(), max_length=MAX_TENSORS)
    states: tuple[ProgramState, ...] = Field(default=(), max_length=MAX_STATES)
    outputs: tuple[ProgramOutput, ...] = Field(min_length=1, max_length=MAX_TENSORS)
    program: GraphEntry


def check_sizes(manifest: ProgramManifest, file: str) -> None:
    """Raises BundleError naming `file` where the numbers that fields claim are more than may be made of them."""
    total = 0
    for group in ("inputs", "constants", "states", "outputs"):
        for index, entry in enumerate(getattr(manifest, group)):
            total += math.prod(entry.shape) + getattr(entry, "carry", 0) * math.prod(entry.shape[1:])
            if total > MAX_NUMBERS:
                expected = f"at most {MAX_NUMBERS} numbers in all inputs, constants, states and outputs"
                raise wrong(file, f"{group}[{index}].shape", expected, shorten(entry.shape))
