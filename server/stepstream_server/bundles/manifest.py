"""The format of `model.json`: its fields, their types and ranges.

What one field must be is said here and in `manifest.schema.json`, which is generated from these records; what fields must be
to each other is said in `check.py`. To write the schema again after a change:

    python -c "from stepstream_server.bundles import manifest; print(manifest.schema_text(), end='')" > manifest.schema.json
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from stepstream_server.errors import BundleError

MAX_SHOWN_ERRORS = 5  # a person mends a few at a time
MAX_SHOWN_CHARACTERS = 80  # of an offending value: one line of a terminal

# Sizes are bounded to catch a slipped digit before anything is allocated. Each bound is far above what a CPU or one GPU can
# step in real time: a single LSTM layer of H = 16,384 has 8.6 GB of weights.
MAX_HIDDEN = 16_384
MAX_LAYERS = 64
MAX_WIDTH = 1 << 20  # features, tokens, outputs: the largest vocabularies have about 256,000
FLOAT32_MAX = 3.4028234e38

ModelName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
TensorName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")]
StateName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_.]{0,127}$")]
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}\.safetensors$")]  # no folders: stays in the bundle
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Number = Annotated[float, Field(ge=-FLOAT32_MAX, le=FLOAT32_MAX, allow_inf_nan=False)]
Width = Annotated[int, Field(ge=1, le=MAX_WIDTH)]
Hidden = Annotated[int, Field(ge=1, le=MAX_HIDDEN)]
Layers = Annotated[int, Field(ge=1, le=MAX_LAYERS)]
Numbers = Annotated[tuple[Number, ...], Field(min_length=1, max_length=MAX_WIDTH)]


class Entry(BaseModel):
    """A group of fields: exact types, and no key that is not known."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class InputEntry(Entry):
    """An input: what one step of one session brings."""

    name: TensorName
    dtype: Literal["float32", "int64"]
    shape: tuple[Width, ...] = Field(max_length=8, description="Of one step of one session: no batch axis, no time axis.")
    description: str = ""
    limit: int = Field(default=0, ge=0, le=MAX_WIDTH, description="int64 only: valid values are 0 <= value < limit.")


class OutputEntry(Entry):
    """An output: that of the head of the same name."""

    name: TensorName
    dtype: Literal["float32"]
    shape: tuple[Width, ...] = Field(max_length=8, description="Of one step of one session.")


class StateEntry(Entry):
    """A piece of a session's memory, float32, zero when the session begins."""

    name: StateName
    shape: tuple[Width, ...] = Field(max_length=8)


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
    kind: Literal["regression", "quantiles", "classes", "next_token"]
    width: Width
    scale: Number = 1.0
    offset: Number = 0.0
    residual_of: str = Field(default="", description="Name of the input whose first value is added: a change is predicted.")
    levels: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(
        default=(), max_length=MAX_WIDTH, description="quantiles only, one per output, ascending."
    )
    labels: tuple[str, ...] = Field(default=(), max_length=MAX_WIDTH, description="classes and next_token: names of the outputs.")
    predicts: str = Field(
        default="", description="Name of the float32 input whose next value this head predicts: what a rollout feeds back."
    )
    description: str = Field(default="", description="What the numbers are and in which unit.")


class WeightsEntry(Entry):
    """The file of the weights, beside the manifest."""

    file: FileName
    sha256: Digest


class Manifest(Entry):
    """What a bundle says about itself."""

    model_config = ConfigDict(title="StepStream bundle manifest (model.json)")

    format_version: Literal[1]
    name: ModelName
    version: int = Field(default=1, ge=1, le=2**31 - 1)
    description: str = ""
    licence: str = Field(default="", description="SPDX identifier of the weights' licence.")
    provenance: str = Field(default="", description="Where data and weights come from.")
    time_step_seconds: Annotated[float, Field(gt=0, le=FLOAT32_MAX)] | None = Field(
        default=None, description="Time between two steps as trained."
    )
    text: Literal["bytes", "words"] | None = Field(
        default=None, description="How text becomes tokens and back; words are the labels of the next_token head."
    )
    cell: CellEntry
    front: Annotated[FeaturesEntry | EmbeddingEntry, Field(discriminator="kind")] | None = None
    heads: tuple[HeadEntry, ...] = Field(min_length=1, max_length=256)
    inputs: tuple[InputEntry, ...] = Field(min_length=1, max_length=1)
    outputs: tuple[OutputEntry, ...] = Field(min_length=1, max_length=256)
    states: tuple[StateEntry, ...] = Field(min_length=1, max_length=512)
    weights: WeightsEntry
    extra: dict[str, Any] = Field(default={}, description="The author's own fields; never read by the server.")


def parse(text: str | bytes, file: str) -> Manifest:
    """Reads a manifest. Raises BundleError naming `file` and each field that is not what it must be."""
    try:
        tree = json.loads(text, object_pairs_hook=_once, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{file}: expected JSON, got {error}") from error
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        raise BundleError(f"{file}: " + "; ".join(_sentences(tree, error)[:MAX_SHOWN_ERRORS])) from None


def wrong(file: str, field: str, expected: str, actual: str) -> BundleError:
    """The one form of a complaint: file, field, expected, actual."""
    return BundleError(f"{file}: {field}: expected {expected}, got {actual}")


def shorten(value: object) -> str:
    """A value as JSON where it can be, cut to a line."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        text = repr(value)
    return text if len(text) <= MAX_SHOWN_CHARACTERS else text[: MAX_SHOWN_CHARACTERS - 3] + "..."


def schema_text() -> str:
    """The JSON Schema of the records above, as it is shipped in `manifest.schema.json`."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Manifest.model_json_schema()}
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def _once(pairs: Iterable[tuple[str, object]]) -> dict[str, object]:
    tree: dict[str, object] = {}
    for key, value in pairs:
        if key in tree:
            raise ValueError(f"the key {shorten(key)} twice in one object")
        tree[key] = value
    return tree


def _no_constant(name: str) -> object:
    raise ValueError(f"{name}, which is not a JSON number")


def _sentences(tree: object, refusal: ValidationError) -> list[str]:
    """One per wrong field. An array is not blamed for the length that is left when its wrong items are taken away."""
    errors = refusal.errors(include_url=False)
    parents = {error["loc"][:end] for error in errors for end in range(len(error["loc"]))}
    return [_sentence(tree, dict(error)) for error in errors if error["loc"] not in parents]


def _sentence(tree: object, error: dict[str, Any]) -> str:
    """`heads[0].levels: expected ..., got ...` from one of pydantic's error records."""
    field = _path(tree, error["loc"])
    match error["type"]:
        case "missing":
            return f"{field}: expected a value, got nothing"
        case "extra_forbidden":
            return f"{field}: expected no field of this name, got {shorten(error['input'])}"
        case "union_tag_not_found" | "union_tag_invalid":
            return f"{field}.kind: expected 'features' or 'embedding', got {shorten(error['input'].get('kind'))}"
    message = re.sub(r"^Input should be ", "", error["msg"])
    message = re.sub(r"^(\w+) should ", lambda match: f"{match[1].lower()} to ", message)
    message = re.sub(r" after validation, not \d+$", "", message).replace("tuple", "array")  # JSON's word
    return f"{field}: expected {message}, got {shorten(error['input'])}"


def _path(tree: object, location: Iterable[int | str]) -> str:
    """pydantic's location as a path in the file: its names of union members, which are no keys of the file, are left out."""
    keys = list(location)
    path = ""
    for index, key in enumerate(keys):
        if isinstance(tree, list) and isinstance(key, int) and key < len(tree):
            path, tree = f"{path}[{key}]", tree[key]
        elif isinstance(tree, dict) and (key in tree or index == len(keys) - 1):
            path, tree = f"{path}.{key}", tree.get(key)
    return path.lstrip(".") or "(root)"
