"""A bundle in words, for `stepstream-server inspect`."""

from __future__ import annotations

from collections.abc import Iterator

from stepstream_server.bundles.load import Bundle
from stepstream_server.spec import EmbeddingFront, FeaturesFront, HeadSpec, ModelSpec, cell_model


def describe(bundle: Bundle) -> str:
    """Several lines, the names of the facts in one column: what goes in, what comes out, what a session costs, whose it is."""
    facts = list(_facts(bundle))
    width = max(len(name) for name, _ in facts)
    return "\n".join(_printable(f"{name:<{width}}  {value}") for name, value in facts)


def _printable(line: str) -> str:
    """Without line breaks and control characters: a bundle's author must not steer the reader's terminal."""
    return "".join(character if character.isprintable() else " " for character in line).rstrip()


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
    if spec.text is not None:
        yield "text", f"tokens are {spec.text}"
    yield "fingerprint", spec.fingerprint
    yield "licence", spec.licence or "not stated"
    yield "provenance", spec.provenance or "not stated"
    for name, value in spec.extra.items():
        yield f"extra.{name}", str(value)


def _tensors(spec: ModelSpec) -> Iterator[tuple[str, str]]:
    for kind, tensors in (("input", spec.inputs), ("output", spec.outputs)):
        for tensor in tensors:
            limit = f", 0 to {tensor.limit - 1}" if tensor.limit else ""
            note = f"  {tensor.description}" if tensor.description else ""
            yield kind, f"{tensor.name}: {tensor.dtype} {list(tensor.shape)}{limit}{note}"
    for state in spec.states:
        yield "state", f"{state.name}: float32 {list(state.shape)}"


def _parts(spec: ModelSpec) -> Iterator[tuple[str, str]]:
    cell, front = cell_model(spec).cell, cell_model(spec).front
    if isinstance(front, FeaturesFront):
        differences = ", half of them differences from the step before" if front.differences else ""
        yield "front", f"{len(front.mean)} normalised features{differences}"
    elif isinstance(front, EmbeddingFront):
        yield "front", f"embedding of {front.tokens} tokens, width {front.width}"
    layers = "1 layer" if cell.layers == 1 else f"{cell.layers} layers"
    yield "cell", f"{cell.kind}, input {cell.input_size}, hidden {cell.hidden_size}, {layers}"
    for head in spec.heads:
        yield "head", _head(head)


def _head(head: HeadSpec) -> str:
    levels = " at " + ", ".join(f"{level:g}" for level in head.levels) if head.levels else ""
    change = f", as a change of {head.residual_of}" if head.residual_of else ""
    fed_back = f", fed back as {head.predicts} by a rollout" if head.predicts else ""
    return f"{head.name}: {head.kind} of width {head.width}{levels}{change}{fed_back}"


def _sizes(bundle: Bundle) -> Iterator[tuple[str, str]]:
    yield "parameters", f"{sum(tensor.size for tensor in bundle.weights.values()):,}"
    yield "state", f"{bundle.spec.state_bytes:,} bytes per session"
    yield "outputs", f"{bundle.spec.output_step_bytes:,} bytes per step"
