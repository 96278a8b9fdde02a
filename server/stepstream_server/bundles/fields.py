"""Parts that the manifests of both kinds of bundle are made of: names, sizes, strict JSON, and complaints that name the field."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from stepstream_server.errors import BundleError
from stepstream_server.spec import MAX_STOP_TOKENS, MAX_STOPS, TextSpec

MAX_SHOWN_ERRORS = 5  # a person mends a few at a time
MAX_SHOWN_CHARACTERS = 80  # of an offending value: one line of a terminal
LINE_CHARACTERS = 100  # a manifest is read and edited by people

# Sizes are bounded to catch a slipped digit before anything is allocated.
MAX_WIDTH = 1 << 20  # features, tokens, outputs: the largest vocabularies have about 256,000
MAX_TENSORS = 256  # inputs or outputs of one model
FLOAT32_MAX = 3.4028234e38

ModelName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
TensorName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")]
StateName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_.]{0,127}$")]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Number = Annotated[float, Field(ge=-FLOAT32_MAX, le=FLOAT32_MAX, allow_inf_nan=False)]
Width = Annotated[int, Field(ge=1, le=MAX_WIDTH)]
Shape = Annotated[tuple[Width, ...], Field(max_length=8)]  # of one step of one session, or of a state
HeadKind = Literal["regression", "quantiles", "classes", "next_token"]
Levels = Annotated[tuple[Annotated[float, Field(gt=0, lt=1)], ...], Field(max_length=MAX_WIDTH)]
Labels = Annotated[tuple[str, ...], Field(max_length=MAX_WIDTH)]
Stop = Annotated[
    tuple[Annotated[tuple[Annotated[int, Field(ge=0, lt=MAX_WIDTH)], ...], Field(min_length=1, max_length=MAX_STOP_TOKENS)], ...],
    Field(max_length=MAX_STOPS, description="next_token only: sequences of tokens each of which ends a rollout."),
]
Temperature = Annotated[float, Field(ge=0, le=FLOAT32_MAX, allow_inf_nan=False)]


Parsed = TypeVar("Parsed")


class Entry(BaseModel):
    """A group of fields: exact types, and no key that is not known."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class TextEntry(Entry):
    """How text becomes the tokens of an input, and back."""

    codec: Literal["bytes", "words", "pieces"] = Field(
        description="bytes: of UTF-8. words: words and punctuation marks. pieces: the longest entries that a word is made of."
    )
    vocabulary: Labels = Field(default=(), description="words and pieces: entry by token.")
    unknown: str = Field(default="", description="The entry for what the vocabulary lacks; without one, such text is refused.")
    lower: bool = Field(default=False, description="Text is put into lower case first.")
    space: str = Field(default="", description="pieces only: the sign in the vocabulary that stands in front of each word.")


def text_spec(entry: TextEntry | None) -> TextSpec | None:
    """The plain record of an entry."""
    return None if entry is None else TextSpec(**dict(entry))


class About(Entry):
    """Who a model is and what it is for; nothing that it computes."""

    name: ModelName
    version: int = Field(default=1, ge=1, le=2**31 - 1)
    description: str = ""
    licence: str = Field(default="", description="SPDX identifier of the weights' licence.")
    provenance: str = Field(default="", description="Where data and weights come from.")
    time_step_seconds: Annotated[float, Field(gt=0, le=FLOAT32_MAX)] | None = Field(
        default=None, description="Time between two steps as trained."
    )
    text: Literal["bytes", "words"] | None = Field(
        default=None,
        description="Of earlier bundles: text of the first input. words: its vocabulary are the next_token head's labels.",
        json_schema_extra={"deprecated": True},
    )
    extra: dict[str, Any] = Field(default={}, description="The author's own fields; never read by the server.")


def parse_as(kind: TypeAdapter[Parsed], text: str | bytes, file: str) -> Parsed:
    """Reads JSON as a record. Raises BundleError naming `file` and each field that is not what it must be."""
    try:
        tree = json.loads(text, object_pairs_hook=_once, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{file}: expected JSON, got {error}") from error
    try:
        return kind.validate_json(text)
    except ValidationError as error:
        raise BundleError(f"{file}: " + "; ".join(_sentences(tree, error)[:MAX_SHOWN_ERRORS])) from None


def to_json(record: Mapping[str, Any], file: str) -> str:
    """The JSON of what may not be JSON. Raises BundleError naming `file` for what is neither a plain number nor text."""
    try:
        return json.dumps(record)
    except (TypeError, ValueError) as error:
        raise BundleError(f"{file}: expected plain numbers and text, got: {error}") from error


def layout(value: object, indent: str = "") -> str:
    """JSON in which whatever fits a line is on one: shapes and heads stay readable."""
    line = json.dumps(value, ensure_ascii=False)
    if len(indent) + len(line) <= LINE_CHARACTERS or not isinstance(value, (dict, list)):
        return line
    inner = indent + "  "
    if isinstance(value, list):
        items, brackets = [layout(each, inner) for each in value], "[]"
    else:
        items, brackets = [f"{json.dumps(key)}: {layout(each, inner)}" for key, each in value.items()], "{}"
    return f"{brackets[0]}\n{inner}" + f",\n{inner}".join(items) + f"\n{indent}{brackets[1]}"


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


def printable(line: str) -> str:
    """Without line breaks and control characters: a file's author must not steer the reader's terminal."""
    return "".join(character if character.isprintable() else " " for character in line).rstrip()


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
        case "union_tag_not_found":
            return f"{_tag(field, error)}: expected a value, got nothing"
        case "union_tag_invalid":
            key, expected = _tag(field, error), error["ctx"]["expected_tags"].replace(", ", " or ")
            return f"{key}: expected {expected}, got {shorten(error['input'].get(key.rpartition('.')[2]))}"
    message = re.sub(r"^Input should be ", "", error["msg"])
    message = re.sub(r"^(\w+) should ", lambda match: f"{match[1].lower()} to ", message)
    message = re.sub(r" after validation, not \d+$", "", message).replace("tuple", "array")  # JSON's word
    return f"{field}: expected {message}, got {shorten(error['input'])}"


def _tag(field: str, error: dict[str, Any]) -> str:
    """The path of the key in an object at `field` by which pydantic tells which record the object is."""
    return f"{field}.{error['ctx']['discriminator'].strip(chr(39))}".removeprefix("(root).")


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
