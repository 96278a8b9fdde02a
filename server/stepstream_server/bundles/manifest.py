"""The format of `model.json`: its fields, their types and ranges.

What one field must be is said here, in `fields` and in `program/manifest.py`, and in `manifest.schema.json`, which is generated
from these records; what fields must be to each other is said in `check.py`. To write the schema again after a change:

    python -c "from stepstream_server.bundles import manifest; print(manifest.schema_text(), end='')" > manifest.schema.json
"""

from __future__ import annotations

import json
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, TypeAdapter

from stepstream_server.bundles.fields import (
    MAX_TENSORS,
    MAX_WIDTH,
    About,
    Digest,
    Entry,
    HeadKind,
    Labels,
    Levels,
    Number,
    Shape,
    StateName,
    Stop,
    Temperature,
    TensorName,
    TextEntry,
    Width,
    parse_as,
    shorten,
    wrong,
)
from stepstream_server.bundles.program.manifest import ProgramManifest, check_sizes

# Each bound is far above what a CPU or one GPU can step in real time: a single LSTM layer of H = 16,384 has 8.6 GB of weights.
MAX_HIDDEN = 16_384
MAX_LAYERS = 64

FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}\.safetensors$")]  # no folders: stays in the bundle
Hidden = Annotated[int, Field(ge=1, le=MAX_HIDDEN)]
Layers = Annotated[int, Field(ge=1, le=MAX_LAYERS)]
Numbers = Annotated[tuple[Number, ...], Field(min_length=1, max_length=MAX_WIDTH)]


class InputEntry(Entry):
    """An input: what one step of one session brings."""

    name: TensorName
    dtype: Literal["float32", "int64"]
    shape: Shape = Field(description="Of one step of one session: no batch axis, no time axis.")
    description: str = ""
    limit: int = Field(default=0, ge=0, le=MAX_WIDTH, description="int64 only: valid values are 0 <= value < limit.")
    text: TextEntry | None = Field(default=None, description="Of tokens: how text becomes them, and back.")


class OutputEntry(Entry):
    """An output: that of the head of the same name."""

    name: TensorName
    dtype: Literal["float32"]
    shape: Shape = Field(description="Of one step of one session.")


class StateEntry(Entry):
    """A piece of a session's memory, float32, zero when the session begins."""

    name: StateName
    shape: Shape


class CellEntry(Entry):
    """The recurrent part."""

    kind: Literal["lstm", "gru", "rnn"]
    input_size: Width = Field(description="Features per step that reach the first layer.")
    hidden_size: Hidden
    layers: Layers


class FeaturesEntry(Entry):
    """(features - mean) / scale, one mean and one scale per feature."""

    kind: Literal["features"]
    mean: Numbers
    scale: Numbers
    differences: bool = Field(default=False, description="Features are the F inputs, then their F changes since the last step.")


class EmbeddingEntry(Entry):
    """A row of `embedding.weight` [tokens, width] per token."""

    kind: Literal["embedding"]
    tokens: Width
    width: Width


class HeadEntry(Entry):
    """The top layer's h -> one output of the same name: (weight h + bias) * scale + offset."""

    name: TensorName
    kind: HeadKind
    width: Width
    scale: Number = 1.0
    offset: Number = 0.0
    residual_of: str = Field(default="", description="Name of the input whose first value is added: a change is predicted.")
    levels: Levels = Field(default=(), description="quantiles only, one per output, ascending.")
    labels: Labels = Field(default=(), description="classes and next_token: names of the outputs.")
    predicts: str = Field(
        default="", description="Name of the float32 input whose next value this head predicts: what a rollout feeds back."
    )
    stop: Stop = ()
    temperature: Temperature | None = Field(default=None, description="next_token only: of rollouts whose caller does not say.")
    description: str = Field(default="", description="What the numbers are and in which unit.")


class WeightsEntry(Entry):
    """The file of the weights, beside the manifest."""

    file: FileName
    sha256: Digest


class CellManifest(About):
    """Manifest of a bundle whose model is a cell."""

    model_config = ConfigDict(title="A cell: format_version 1")

    format_version: Literal[1]
    cell: CellEntry
    front: Annotated[FeaturesEntry | EmbeddingEntry, Field(discriminator="kind")] | None = None
    heads: tuple[HeadEntry, ...] = Field(min_length=1, max_length=MAX_TENSORS)
    inputs: tuple[InputEntry, ...] = Field(min_length=1, max_length=1)
    outputs: tuple[OutputEntry, ...] = Field(min_length=1, max_length=MAX_TENSORS)
    states: tuple[StateEntry, ...] = Field(min_length=1, max_length=512)
    weights: WeightsEntry


Manifest = CellManifest | ProgramManifest
_MANIFEST: TypeAdapter[Manifest] = TypeAdapter(Annotated[Manifest, Field(discriminator="format_version")])


def parse(text: str | bytes, file: str) -> Manifest:
    """Reads a manifest. Raises BundleError naming `file` and each field that is not what it must be."""
    manifest = _with_text_of_input(parse_as(_MANIFEST, text, file), file)
    if isinstance(manifest, ProgramManifest):
        check_sizes(manifest, file)
    return manifest


def _with_text_of_input(manifest: Manifest, file: str) -> Manifest:
    """Text of bundles that were written before it belonged to an input is that of the first one; their words were the labels of
    the tokens that rollouts draw."""
    if manifest.text is None:
        return manifest
    first, *others = manifest.inputs
    if getattr(first, "text", None) is not None:
        raise wrong(file, "text", "nothing, since inputs[0].text says it", shorten(manifest.text))
    heads = manifest.outputs if isinstance(manifest, ProgramManifest) else manifest.heads
    drawn: Labels = next((head.labels for head in heads if head.kind == "next_token"), ())
    text = TextEntry(codec=manifest.text, vocabulary=drawn if manifest.text == "words" else ())
    return manifest.model_copy(update={"text": None, "inputs": (first.model_copy(update={"text": text}), *others)})


def schema_text() -> str:
    """The JSON Schema of the records above, as it is shipped in `manifest.schema.json`."""
    about = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "StepStream bundle manifest (model.json)"}
    return json.dumps(about | _MANIFEST.json_schema(), indent=2, ensure_ascii=False) + "\n"
