"""Checks of what a head says of its numbers: the same for a cell's heads and a program's outputs. Pure; no files."""

from __future__ import annotations

from collections.abc import Iterable

from stepstream_server.bundles.fields import shorten, wrong
from stepstream_server.spec import HeadSpec, ModelSpec, Program, TensorSpec


def heads_field(spec: ModelSpec) -> str:
    """The place in a manifest that says what its outputs' numbers mean."""
    return "outputs" if isinstance(spec.computation, Program) else "heads"


def check_meaning(spec: ModelSpec, head: HeadSpec, field: str, file: str) -> None:
    """Raises BundleError naming `file` and the field where what the head says does not fit its kind or the inputs."""
    _check_levels(head, field, file)
    _check_labels(head, field, file)
    _check_drawing(head, field, file)
    if head.predicts:
        _check_predicts(spec, head, field, file)


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
    check_distinct(head.labels, f"{field}.labels", file)


def _check_drawing(head: HeadSpec, field: str, file: str) -> None:
    """How rollouts of tokens are drawn and ended."""
    for name, value in (("stop", head.stop or None), ("temperature", head.temperature)):
        if value is not None and head.kind != "next_token":
            raise wrong(file, f"{field}.{name}", f"nothing, since the head's kind is {head.kind}", shorten(value))
    for position, token in ((index, each) for index, sequence in enumerate(head.stop) for each in sequence):
        if token >= head.width:
            raise wrong(file, f"{field}.stop[{position}]", f"tokens below {head.width}", f"{token}")


def _check_predicts(spec: ModelSpec, head: HeadSpec, field: str, file: str) -> None:
    """A step on a prediction takes as many numbers as the head has outputs, or one drawn from its quantiles."""
    tensor = numeric_input(spec, head, head.predicts, f"{field}.predicts", file)
    if head.kind == "quantiles" and tensor.elements != 1:
        raise wrong(file, f"{field}.predicts", "an input of 1 number, since quantiles are of one", f"{tensor.elements}")
    if head.kind == "regression" and tensor.elements != head.width:
        width = f"{field}.shape" if isinstance(spec.computation, Program) else f"{field}.width"
        raise wrong(file, width, f"{tensor.elements}, the numbers of {tensor.name}, which it predicts", f"{head.width}")


def numeric_input(spec: ModelSpec, head: HeadSpec, name: str, field: str, file: str) -> TensorSpec:
    """The float32 input `name`, to which a head of numbers refers in `field`. Raises BundleError if there is none."""
    inputs = {tensor.name: tensor for tensor in spec.inputs if tensor.dtype == "float32"}
    if head.kind not in ("regression", "quantiles"):
        raise wrong(file, field, f"nothing, since the head's kind is {head.kind}", shorten(name))
    if name not in inputs:
        raise wrong(file, field, f"the name of a float32 input, of which there are {list(inputs)}", shorten(name))
    return inputs[name]


def check_one_predicts(spec: ModelSpec, file: str) -> None:
    """Raises BundleError if two heads predict: a rollout is stepped on one."""
    predicting = [index for index, head in enumerate(spec.heads) if head.predicts]
    if len(predicting) > 1:
        first, second = predicting[:2]
        heads, name = heads_field(spec), spec.heads[second].predicts
        raise wrong(file, f"{heads}[{second}].predicts", f"nothing, since {heads}[{first}] has it", shorten(name))


def check_distinct(names: Iterable[str], field: str, file: str) -> None:
    """Raises BundleError naming what stands twice."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise wrong(file, field, "distinct names", f"{name} twice")
        seen.add(name)
