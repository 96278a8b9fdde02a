"""A bundle in words, for `stepstream-server inspect`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from stepstream_server.bundles.fields import printable
from stepstream_server.bundles.load import Bundle
from stepstream_server.spec import (
    CellModel,
    EmbeddingFront,
    FeaturesFront,
    HeadSpec,
    ModelSpec,
    Program,
    StateSpec,
    TensorSpec,
    TextSpec,
)

SHOWN_VALUES = 4  # of a state or constant: a line of a terminal


def describe(bundle: Bundle, tried: Iterable[tuple[str, str]] = ()) -> str:
    """Several lines, the names of the facts in one column: what goes in, what comes out, what a session costs, whose it is.

    tried: what a program's trial came to, as further facts.
    """
    facts = [*_facts(bundle), *tried]
    width = max(len(name) for name, _ in facts)
    return "\n".join(printable(f"{name:<{width}}  {value}") for name, value in facts)


def _facts(bundle: Bundle) -> Iterator[tuple[str, str]]:
    spec = bundle.spec
    yield "model", f"{spec.name} version {spec.version}"
    if spec.description:
        yield "description", spec.description
    yield from _tensors(spec)
    yield from _parts(spec)
    yield from _sizes(bundle)
    if spec.time_step_seconds is not None:
        yield "time step", f"{spec.time_step_seconds:g} s ({1 / spec.time_step_seconds:g} per second)"
    yield "fingerprint", spec.fingerprint
    yield "licence", spec.licence or "not stated"
    yield "provenance", spec.provenance or "not stated"
    for name, value in spec.extra.items():
        yield f"extra.{name}", str(value)


def _tensors(spec: ModelSpec) -> Iterator[tuple[str, str]]:
    carry = spec.computation.carry if isinstance(spec.computation, Program) else (0,) * len(spec.inputs)
    for tensor, carried in zip(spec.inputs, carry, strict=True):
        limit = f", 0 to {tensor.limit - 1}" if tensor.limit else ""
        limit += f", -{tensor.range:g} to {tensor.range:g}" if tensor.range else ""
        limit += f", behind the last {carried} of the step before" if carried else ""
        yield "input", _tensor(tensor, limit)
        if tensor.text:
            yield "text", _text(tensor.text)
    for tensor in spec.outputs:
        yield "output", _tensor(tensor)
    for state in spec.states:
        yield "state", f"{state.name}: {state.dtype} {list(state.shape)}{_initial(state)}"


def _tensor(tensor: TensorSpec, limit: str = "") -> str:
    note = f"  {tensor.description}" if tensor.description else ""
    return f"{tensor.name}: {tensor.dtype} {list(tensor.shape)}{limit}{note}"


def _text(text: TextSpec) -> str:
    lower = ", in lower case" if text.lower else ""
    unknown = f", {text.unknown} for others" if text.unknown else ""
    return f"tokens are {text.codec}{lower}{unknown}"


def _initial(state: StateSpec) -> str:
    if not state.initial:
        return ""
    return f", begins as {_values(state.initial)}"


def _values(values: Sequence[float]) -> str:
    shown = ", ".join(f"{value:g}" for value in values[:SHOWN_VALUES])
    return f"{shown}, ..." if len(values) > SHOWN_VALUES else shown


def _parts(spec: ModelSpec) -> Iterator[tuple[str, str]]:
    if isinstance(spec.computation, Program):
        yield from _program(spec.computation)
    else:
        yield from _cell(spec.computation)
    for head in spec.heads:
        yield "head", _head(head)


def _program(program: Program) -> Iterator[tuple[str, str]]:
    yield "program", "a step function that was brought as a graph in ONNX"
    for constant in program.constants:
        yield "constant", f"{constant.tensor}: {constant.dtype} {list(constant.shape)}, {_values(constant.value)}"


def _cell(model: CellModel) -> Iterator[tuple[str, str]]:
    cell, front = model.cell, model.front
    if isinstance(front, FeaturesFront):
        differences = ", half of them differences from the step before" if front.differences else ""
        yield "front", f"{len(front.mean)} normalised features{differences}"
    elif isinstance(front, EmbeddingFront):
        yield "front", f"embedding of {front.tokens} tokens, width {front.width}"
    layers = "1 layer" if cell.layers == 1 else f"{cell.layers} layers"
    yield "cell", f"{cell.kind}, input {cell.input_size}, hidden {cell.hidden_size}, {layers}"


def _head(head: HeadSpec) -> str:
    levels = " at " + ", ".join(f"{level:g}" for level in head.levels) if head.levels else ""
    change = f", as a change of {head.residual_of}" if head.residual_of else ""
    fed_back = f", fed back as {head.predicts} by a rollout" if head.predicts else ""
    ends = f", ended by {', '.join(str(list(each)) for each in head.stop)}" if head.stop else ""
    return f"{head.name}: {head.kind} of width {head.width}{levels}{change}{fed_back}{ends}"


def _sizes(bundle: Bundle) -> Iterator[tuple[str, str]]:
    if bundle.graph:
        yield "graph", f"{len(bundle.graph):,} bytes"
    else:
        yield "parameters", f"{sum(tensor.size for tensor in bundle.weights.values()):,}"
    yield "state", f"{bundle.spec.state_bytes:,} bytes per session"
    yield "outputs", f"{bundle.spec.output_step_bytes:,} bytes per step"
