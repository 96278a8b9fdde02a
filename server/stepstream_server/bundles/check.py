"""What a manifest's fields must be to each other, and the weights to the manifest. Pure; no files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stepstream_server.bundles import declare
from stepstream_server.bundles.manifest import shorten, wrong
from stepstream_server.spec import EmbeddingFront, FeaturesFront, HeadSpec, ModelSpec, TensorSpec, cell_model

Weights = dict[str, NDArray[np.float32]]
BYTES = 256  # values of one


def check_spec(spec: ModelSpec, file: str) -> None:
    """Raises BundleError naming `file` and the field where the declarations contradict each other."""
    model = cell_model(spec)
    if isinstance(model.front, FeaturesFront):
        _check_features(model.front, file)
    _check_sizes(spec, file)
    _check_input(spec, file)
    for index, head in enumerate(spec.heads):
        _check_head(spec, head, f"heads[{index}]", file)
    _check_one_predicts(spec, file)
    if spec.text is not None:
        _check_text(spec, file)
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
    _check_levels(head, field, file)
    _check_labels(head, field, file)
    if head.residual_of:
        _check_residual(spec, head, field, file)
    if head.predicts:
        _check_predicts(spec, head, field, file)
    if head.kind == "next_token":
        _check_tokens(spec, head, field, file)


def _check_levels(head: HeadSpec, field: str, file: str) -> None:
    if head.kind != "quantiles":
        if head.levels:
            raise wrong(file, f"{field}.levels", f"nothing, since the head's kind is {head.kind}", shorten(head.levels))
        return
    if len(head.levels) != head.width:
        raise wrong(file, f"{field}.levels", f"{head.width} numbers, one per output", shorten(head.levels))
    if any(low >= high for low, high in zip(head.levels, head.levels[1:], strict=False)):
        raise wrong(file, f"{field}.levels", "ascending numbers in (0, 1)", shorten(head.levels))


def _check_labels(head: HeadSpec, field: str, file: str) -> None:
    if not head.labels:
        return
    if head.kind not in ("classes", "next_token"):
        raise wrong(file, f"{field}.labels", f"nothing, since the head's kind is {head.kind}", shorten(head.labels))
    if len(head.labels) != head.width:
        raise wrong(file, f"{field}.labels", f"{head.width} names, one per output", f"{len(head.labels)}")
    _check_distinct(head.labels, f"{field}.labels", file)


def _check_residual(spec: ModelSpec, head: HeadSpec, field: str, file: str) -> None:
    _numeric_input(spec, head, head.residual_of, f"{field}.residual_of", file)


def _check_predicts(spec: ModelSpec, head: HeadSpec, field: str, file: str) -> None:
    """A step on a prediction takes as many numbers as the head has outputs, or one drawn from its quantiles."""
    tensor = _numeric_input(spec, head, head.predicts, f"{field}.predicts", file)
    if head.kind == "quantiles" and tensor.elements != 1:
        raise wrong(file, f"{field}.predicts", "an input of 1 number, since quantiles are of one", f"{tensor.elements}")
    if head.kind == "regression" and tensor.elements != head.width:
        raise wrong(
            file, f"{field}.width", f"{tensor.elements}, the numbers of {tensor.name}, which it predicts", f"{head.width}"
        )


def _numeric_input(spec: ModelSpec, head: HeadSpec, name: str, field: str, file: str) -> TensorSpec:
    """The float32 input `name`, to which a head of numbers refers in `field`."""
    inputs = {tensor.name: tensor for tensor in spec.inputs if tensor.dtype == "float32"}
    if head.kind not in ("regression", "quantiles"):
        raise wrong(file, field, f"nothing, since the head's kind is {head.kind}", shorten(name))
    if name not in inputs:
        raise wrong(file, field, f"the name of a float32 input, of which there are {list(inputs)}", shorten(name))
    return inputs[name]


def _check_one_predicts(spec: ModelSpec, file: str) -> None:
    predicting = [index for index, head in enumerate(spec.heads) if head.predicts]
    if len(predicting) > 1:
        first, second = predicting[:2]
        raise wrong(
            file, f"heads[{second}].predicts", f"nothing, since heads[{first}] has it", shorten(spec.heads[second].predicts)
        )


def _check_text(spec: ModelSpec, file: str) -> None:
    """Text is read and written through the tokens of the one next_token head."""
    heads = [(index, head) for index, head in enumerate(spec.heads) if head.kind == "next_token"]
    if len(heads) != 1:
        raise wrong(file, "text", f"nothing, since {len(heads)} heads, not one, are of kind next_token", shorten(spec.text))
    index, head = heads[0]
    if spec.text == "bytes" and head.width != BYTES:
        raise wrong(file, "front.tokens", f"{BYTES}, one per byte, since text is bytes", f"{head.width}")
    if spec.text == "words":
        _check_words(head, f"heads[{index}].labels", file)


def _check_words(head: HeadSpec, field: str, file: str) -> None:
    if not head.labels:
        raise wrong(file, field, f"{head.width} words, since text is words", "nothing")
    for position, word in enumerate(head.labels):
        if word.split() != [word]:
            raise wrong(file, f"{field}[{position}]", "a word without whitespace, since text is words", shorten(word))


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
    _check_distinct([head.name for head in spec.heads], "heads", file)
    names = [tensor.name for tensor in (*spec.inputs, *spec.outputs)] + [state.name for state in spec.states]
    _check_distinct(names, "inputs, outputs and states", file)


def _check_distinct(names: Iterable[str], field: str, file: str) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise wrong(file, field, "distinct names", f"{name} twice")
        seen.add(name)
