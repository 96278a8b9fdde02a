"""What follows from a model's cell, front and heads: its input, outputs, states and weights. Pure; no files."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import TypedDict, Unpack

from stepstream_server.bundles.fields import wrong
from stepstream_server.spec import (
    CellKind,
    CellModel,
    CellSpec,
    EmbeddingFront,
    FeaturesFront,
    HeadSpec,
    ModelSpec,
    StateSpec,
    TensorSpec,
    TextSpec,
)

Front = FeaturesFront | EmbeddingFront | None


class Told(TypedDict, total=False):
    """What a manifest tells people; no output depends on it. Fields as in `spec.ModelSpec`."""

    description: str
    licence: str
    provenance: str
    time_step_seconds: float | None
    extra: dict[str, object]


def check_told(save: Callable[..., object], told: Mapping[str, object]) -> None:
    """Raises BundleError for a keyword that neither `save`, a function that takes all of `Told`, nor `Told` knows."""
    parameters = inspect.signature(save).parameters.values()
    known = [*(each.name for each in parameters if each.kind is each.KEYWORD_ONLY), *Told.__annotations__]
    for name in told:
        if name not in known:
            nearest = "".join(f"{each}, or another " for each in difflib.get_close_matches(name, known, 1))
            raise wrong("save", name, f"{nearest or 'one '}of the keywords {', '.join(known)}", "an unknown one")


GATES: dict[CellKind, int] = {"lstm": 4, "gru": 3, "rnn": 1}  # blocks of H rows in each weight, torch's layout


def front_width(front: Front, width: int) -> int:
    """Features per step that leave the front: the cell's input size. `width` is the input's, for a model without a front."""
    if isinstance(front, FeaturesFront):
        return len(front.mean)
    return front.width if isinstance(front, EmbeddingFront) else width


def input_spec(name: str, cell: CellSpec, front: Front, description: str = "", text: TextSpec | None = None) -> TensorSpec:
    """The one input: int64 [] before an embedding, float32 [F] otherwise."""
    if isinstance(front, EmbeddingFront):
        return TensorSpec(name, "int64", (), description, limit=front.tokens, text=text)
    if isinstance(front, FeaturesFront):
        return TensorSpec(name, "float32", (len(front.mean) // (2 if front.differences else 1),), description, text=text)
    return TensorSpec(name, "float32", (cell.input_size,), description, text=text)


def output_specs(heads: Sequence[HeadSpec]) -> tuple[TensorSpec, ...]:
    """One float32 output [width] per head, in their order."""
    return tuple(TensorSpec(head.name, "float32", (head.width,), head.description) for head in heads)


def state_specs(cell: CellSpec, front: Front, heads: Sequence[HeadSpec]) -> tuple[StateSpec, ...]:
    """The cell's memory, the front's, then the last outputs, so that a session can be stepped on them later."""
    shape = (cell.layers, cell.hidden_size)
    states = [StateSpec("h", shape)]
    if cell.kind == "lstm":
        states.append(StateSpec("c", shape))
    if isinstance(front, FeaturesFront) and front.differences:
        states.append(StateSpec("previous", (len(front.mean) // 2,)))
    states.extend(StateSpec(f"last.{head.name}", (head.width,)) for head in heads)
    return tuple(states)


def weight_shapes(model: CellModel, heads: Sequence[HeadSpec]) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every weight, as `torch.nn` has them."""
    cell, front = model.cell, model.front
    shapes: dict[str, tuple[int, ...]] = {}
    if isinstance(front, EmbeddingFront):
        shapes["embedding.weight"] = (front.tokens, front.width)
    rows = GATES[cell.kind] * cell.hidden_size
    for layer in range(cell.layers):
        shapes[f"cell.weight_ih_l{layer}"] = (rows, cell.hidden_size if layer else cell.input_size)
        shapes[f"cell.weight_hh_l{layer}"] = (rows, cell.hidden_size)
        shapes[f"cell.bias_ih_l{layer}"] = (rows,)
        shapes[f"cell.bias_hh_l{layer}"] = (rows,)
    for head in heads:
        shapes[f"head.{head.name}.weight"] = (head.width, cell.hidden_size)
        shapes[f"head.{head.name}.bias"] = (head.width,)
    return shapes


def declare(
    name: str,
    cell: CellSpec,
    heads: Sequence[HeadSpec],
    *,
    front: Front = None,
    input_name: str = "input",
    input_description: str = "",
    text: TextSpec | None = None,
    version: int = 1,
    **told: Unpack[Told],
) -> ModelSpec:
    """A whole spec from the parts that an author chooses. It has no fingerprint before it has weights."""
    return ModelSpec(
        name=name,
        version=version,
        inputs=(input_spec(input_name, cell, front, input_description, text),),
        outputs=output_specs(heads),
        states=state_specs(cell, front, heads),
        computation=CellModel(cell, front),
        heads=tuple(heads),
        fingerprint="",
        **told,
    )
