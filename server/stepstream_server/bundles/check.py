"""Checks a manifest's fields against each other, and the weights of a cell against the manifest. Pure; no files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stepstream_server.bundles import declare
from stepstream_server.bundles.fields import shorten, wrong
from stepstream_server.bundles.heads import check_distinct, check_meaning, check_one_predicts, numeric_input
from stepstream_server.bundles.program.check import check_program
from stepstream_server.bundles.text import check_text
from stepstream_server.spec import EmbeddingFront, FeaturesFront, HeadSpec, ModelSpec, Program, cell_model

Weights = dict[str, NDArray[np.float32]]


def check_spec(spec: ModelSpec, file: str) -> None:
    """Raises BundleError naming `file` and the field where the declarations contradict each other."""
    if isinstance(spec.computation, Program):
        check_program(spec, spec.computation, file)
    else:
        _check_cell(spec, file)


def _check_cell(spec: ModelSpec, file: str) -> None:
    model = cell_model(spec)
    if isinstance(model.front, FeaturesFront):
        _check_features(model.front, file)
    _check_sizes(spec, file)
    _check_input(spec, file)
    for index, head in enumerate(spec.heads):
        _check_head(spec, head, f"heads[{index}]", file)
    check_one_predicts(spec, file)
    check_text(spec, file)
    outputs = declare.output_specs(spec.heads)
    _check_declared("outputs", [(o.name, o.shape) for o in spec.outputs], [(o.name, o.shape) for o in outputs], file)
    states = declare.state_specs(model.cell, model.front, spec.heads)
    _check_declared("states", [(s.name, s.shape) for s in spec.states], [(s.name, s.shape) for s in states], file)
    _check_names(spec, file)


def check_weights(spec: ModelSpec, weights: Mapping[str, NDArray[Any]], file: str) -> None:
    """Raises BundleError naming `file` and the tensor that is missing, not asked for, misshapen or not finite."""
    shapes = declare.weight_shapes(cell_model(spec), spec.heads)
    for name in sorted(weights.keys() - shapes.keys()):
        raise wrong(file, name, "no tensor of this name", shorten(list(weights[name].shape)))
    for name, shape in shapes.items():
        if name not in weights:
            raise wrong(file, name, f"a float32 tensor {list(shape)}", "nothing")
        tensor = weights[name]
        if tensor.dtype != np.float32:
            raise wrong(file, name, "float32", str(tensor.dtype))
        if tensor.shape != shape:
            raise wrong(file, name, f"the shape {list(shape)}", shorten(list(tensor.shape)))
        finite = np.isfinite(tensor)
        if not finite.all():
            raise wrong(file, name, "finite numbers", f"{tensor.size - int(finite.sum())} of {tensor.size} that are not")


def _check_features(front: FeaturesFront, file: str) -> None:
    if len(front.scale) != len(front.mean):
        raise wrong(file, "front.scale", f"{len(front.mean)} numbers, one per mean", f"{len(front.scale)}")
    if front.differences and len(front.mean) % 2:
        raise wrong(file, "front.mean", "an even number, since half of the features are differences", f"{len(front.mean)}")
    for index, scale in enumerate(front.scale):
        _check_divisor(scale, f"front.scale[{index}]", file)


def _check_divisor(value: float, field: str, file: str) -> None:
    if np.float32(value) == 0:
        raise wrong(file, field, "a number other than 0 in float32", shorten(value))


def _check_sizes(spec: ModelSpec, file: str) -> None:
    model = cell_model(spec)
    expected = declare.front_width(model.front, spec.inputs[0].elements)
    if model.cell.input_size != expected:
        source = "inputs[0].shape" if model.front is None else "front"
        raise wrong(file, "cell.input_size", f"{expected}, the width of {source}", shorten(model.cell.input_size))


def _check_input(spec: ModelSpec, file: str) -> None:
    given = spec.inputs[0]
    model = cell_model(spec)
    expected = declare.input_spec(given.name, model.cell, model.front)
    for field in ("dtype", "shape", "limit"):
        if getattr(given, field) != getattr(expected, field):
            raise wrong(file, f"inputs[0].{field}", shorten(getattr(expected, field)), shorten(getattr(given, field)))


def _check_head(spec: ModelSpec, head: HeadSpec, field: str, file: str) -> None:
    _check_divisor(head.scale, f"{field}.scale", file)
    if head.residual_of:
        numeric_input(spec, head, head.residual_of, f"{field}.residual_of", file)
    check_meaning(spec, head, field, file)
    if head.kind == "next_token":
        _check_tokens(spec, head, field, file)


def _check_tokens(spec: ModelSpec, head: HeadSpec, field: str, file: str) -> None:
    front = cell_model(spec).front
    if not isinstance(front, EmbeddingFront):
        raise wrong(file, f"{field}.kind", "a front of kind embedding, since the next token is stepped on", shorten(head.kind))
    if head.width != front.tokens:
        raise wrong(file, f"{field}.width", f"{front.tokens}, the tokens of the embedding", shorten(head.width))


def _check_declared(
    field: str,
    given: Sequence[tuple[str, tuple[int, ...]]],
    expected: Sequence[tuple[str, tuple[int, ...]]],
    file: str,
) -> None:
    """Names and shapes, in order, of what follows from cell, front and heads."""
    for index, (actual, wanted) in enumerate(zip(given, expected, strict=False)):
        if actual != wanted:
            raise wrong(file, f"{field}[{index}]", _tensor(*wanted), _tensor(*actual))
    if len(given) != len(expected):
        raise wrong(file, field, f"{len(expected)}: {', '.join(name for name, _ in expected)}", f"{len(given)}")


def _tensor(name: str, shape: tuple[int, ...]) -> str:
    return f"{name} {list(shape)}"


def _check_names(spec: ModelSpec, file: str) -> None:
    """Inputs, outputs and states share one set of names, as the tensors of one graph do."""
    check_distinct([head.name for head in spec.heads], "heads", file)
    names = [tensor.name for tensor in (*spec.inputs, *spec.outputs)] + [state.name for state in spec.states]
    check_distinct(names, "inputs, outputs and states", file)
