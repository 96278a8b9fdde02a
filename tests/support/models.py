"""Random models: a spec and weights that fit it, straight from the records, without a bundle on disk."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

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

GATES: dict[CellKind, int] = {"lstm": 4, "gru": 3, "rnn": 1}


def random_model(
    cell: CellKind = "lstm",
    inputs: int = 2,
    hidden: int = 16,
    layers: int = 1,
    outputs: int = 1,
    seed: int = 0,
    *,
    tokens: int = 0,
    normaliser: bool = False,
    differences: bool = False,
    residual: bool = False,
    heads: Sequence[HeadSpec] | None = None,
    name: str = "model",
    version: int = 1,
) -> tuple[ModelSpec, dict[str, NDArray[np.float32]]]:
    """A model that reads input `x` and gives output `y` [outputs], with weights drawn as torch draws them.

    `x` is float32 [inputs]; with `tokens` it is an int64 scalar below that number, embedded in `inputs` features.
    `differences` implies `normaliser`. `residual` adds the first value of `x` to `y`. `heads` replaces the one head.
    """
    features = 2 * inputs if differences else inputs
    if heads is None:
        heads = [HeadSpec("y", "next_token" if tokens else "regression", outputs, residual_of="x" if residual else "")]
    rng = np.random.default_rng(seed)
    front: FeaturesFront | EmbeddingFront | None = None
    if tokens:
        front = EmbeddingFront(tokens, inputs)
    elif normaliser or differences:
        mean, scale = rng.normal(size=features), rng.uniform(0.5, 2.0, size=features)
        front = FeaturesFront(tuple(mean.tolist()), tuple(scale.tolist()), differences)
    reading = TensorSpec("x", "int64", (), limit=tokens) if tokens else TensorSpec("x", "float32", (inputs,))
    cell_spec = CellSpec(cell, features, hidden, layers)
    weights = random_weights(cell_spec, front, heads, rng)
    spec = ModelSpec(
        name=name,
        version=version,
        inputs=(reading,),
        outputs=tuple(TensorSpec(head.name, "float32", (head.width,)) for head in heads),
        states=state_specs(cell_spec, front, inputs, heads),
        computation=CellModel(cell_spec, front),
        heads=tuple(heads),
        fingerprint=hashlib.sha256(b"".join(weights[key].tobytes() for key in sorted(weights))).hexdigest(),
    )
    return spec, weights


def with_text(spec: ModelSpec, text: TextSpec) -> ModelSpec:
    """The model with text on its one input."""
    return dataclasses.replace(spec, inputs=(dataclasses.replace(spec.inputs[0], text=text),))


def state_specs(
    cell: CellSpec, front: FeaturesFront | EmbeddingFront | None, inputs: int, heads: Sequence[HeadSpec]
) -> tuple[StateSpec, ...]:
    """The states that a model of these parts declares, in the order of a state row."""
    states = [StateSpec(name, (cell.layers, cell.hidden_size)) for name in (("h", "c") if cell.kind == "lstm" else ("h",))]
    if isinstance(front, FeaturesFront) and front.differences:
        states.append(StateSpec("previous", (inputs,)))
    return (*states, *(StateSpec(f"last.{head.name}", (head.width,)) for head in heads))


def random_weights(
    cell: CellSpec, front: FeaturesFront | EmbeddingFront | None, heads: Sequence[HeadSpec], rng: np.random.Generator
) -> dict[str, NDArray[np.float32]]:
    """Weights by name, uniform in +-1/sqrt(hidden) as torch initialises them; rows of an embedding are normal."""
    bound, rows = cell.hidden_size**-0.5, GATES[cell.kind] * cell.hidden_size
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in range(cell.layers):
        width = cell.hidden_size if layer else cell.input_size
        shapes[f"cell.weight_ih_l{layer}"] = (rows, width)
        shapes[f"cell.weight_hh_l{layer}"] = (rows, cell.hidden_size)
        shapes[f"cell.bias_ih_l{layer}"] = shapes[f"cell.bias_hh_l{layer}"] = (rows,)
    for head in heads:
        shapes[f"head.{head.name}.weight"] = (head.width, cell.hidden_size)
        shapes[f"head.{head.name}.bias"] = (head.width,)
    weights = {name: rng.uniform(-bound, bound, shape).astype(np.float32) for name, shape in shapes.items()}
    if isinstance(front, EmbeddingFront):
        weights["embedding.weight"] = rng.normal(size=(front.tokens, front.width)).astype(np.float32)
    return weights


def random_inputs(spec: ModelSpec, batch: int, length: int, seed: int = 0) -> tuple[NDArray[np.float32] | NDArray[np.int64], ...]:
    """One tensor per declared input, [batch, length, *shape]: normal readings, or ids below the input's limit."""
    rng = np.random.default_rng(seed)
    shapes = [(batch, length, *x.shape) for x in spec.inputs]
    return tuple(
        rng.normal(size=shape).astype(np.float32) if x.dtype == "float32" else rng.integers(0, x.limit, shape)
        for x, shape in zip(spec.inputs, shapes, strict=True)
    )
