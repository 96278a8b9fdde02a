"""Manifest to spec and back where the model is a program, side by side."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import TypeAdapter

from stepstream_server.bundles.fields import layout, parse_as, text_spec, to_json
from stepstream_server.bundles.program.manifest import ProgramManifest
from stepstream_server.spec import (
    Constant,
    DType,
    GraphState,
    GraphTensor,
    HeadSpec,
    ModelSpec,
    Program,
    StateSpec,
    TensorSpec,
)

FORMAT = {"format_version": 2, "kind": "program"}
_MEANING = "kind levels labels predicts stop temperature"  # fields of an output that its head has
_MANIFEST: TypeAdapter[ProgramManifest] = TypeAdapter(ProgramManifest)


def program_spec(manifest: ProgramManifest, fingerprint: str) -> ModelSpec:
    """The plain record that everyone else sees."""
    outputs = tuple(TensorSpec(each.name, each.dtype, each.shape, each.description) for each in manifest.outputs)
    return spec_of(
        _program(manifest),
        inputs=tuple(map(_input_spec, manifest.inputs)),
        outputs=outputs,
        states=[StateSpec(each.name, each.shape, each.dtype, _initial(each)) for each in manifest.states],
        heads=[
            HeadSpec(width=output.elements, **_some(each, f"name {_MEANING} description"))
            for each, output in zip(manifest.outputs, outputs, strict=True)
        ],
        fingerprint=fingerprint,
        **_some(manifest, "name version description licence provenance time_step_seconds extra"),
    )


def spec_of(
    program: Program,
    *,
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
    states: Sequence[StateSpec],
    heads: Sequence[HeadSpec],
    fingerprint: str = "",
    **told: Any,
) -> ModelSpec:
    """A whole spec from what an author declares; `states` are those of the graph, and the derived ones follow them.

    told: further fields of `spec.ModelSpec`, name and version among them.
    """
    derived = (*_carried(program, inputs), *_last(outputs, heads))
    every = (*states, *derived)
    return ModelSpec(
        inputs=inputs, outputs=outputs, states=every, computation=program, heads=tuple(heads), fingerprint=fingerprint, **told
    )


def program_text(spec: ModelSpec, program: Program, graph_file: str, sha256: str, file: str) -> str:
    """The manifest of a program's spec, as JSON; fields that have their default are left out. The reverse of `parse` and
    `program_spec`. Raises BundleError naming `file` for a field that the format cannot hold."""
    tree = {
        **FORMAT,
        **_some(spec, "name version description licence provenance time_step_seconds extra"),
        "inputs": [_input(*each) for each in zip(spec.inputs, program.inputs, program.carry, strict=True)],
        "constants": [_some(each, "tensor dtype shape") | {"value": _short(each.value)} for each in program.constants],
        "states": [_state(*each) for each in zip(spec.states, program.states, strict=False)],
        "outputs": [_output(*each) for each in zip(spec.outputs, program.outputs, spec.heads, strict=True)],
        "program": {"file": graph_file, "sha256": sha256},
    }
    fields = parse_as(_MANIFEST, to_json(tree, file), file).model_dump(mode="json", exclude_defaults=True)
    return layout(FORMAT | {"name": spec.name, "version": spec.version} | fields) + "\n"


def _program(manifest: ProgramManifest) -> Program:
    return Program(
        inputs=tuple(GraphTensor(each.tensor, each.batch_axis) for each in manifest.inputs),
        carry=tuple(each.carry for each in manifest.inputs),
        states=tuple(GraphState(each.read, each.written, each.batch_axis) for each in manifest.states),
        outputs=tuple(GraphTensor(each.tensor, each.batch_axis) for each in manifest.outputs),
        constants=tuple(
            Constant(each.tensor, each.dtype, each.shape, _values(each.value, each.dtype, each.shape))
            for each in manifest.constants
        ),
    )


def _carried(program: Program, inputs: Sequence[TensorSpec]) -> Iterator[StateSpec]:
    for each, carry in zip(inputs, program.carry, strict=True):
        if carry:
            yield StateSpec(f"carry.{each.name}", (carry, *each.shape[1:]), each.dtype)


def _last(outputs: Sequence[TensorSpec], heads: Sequence[HeadSpec]) -> Iterator[StateSpec]:
    for output, head in zip(outputs, heads, strict=True):
        if head.predicts or head.kind == "next_token":
            yield StateSpec(f"last.{output.name}", output.shape, output.dtype)


def _initial(state: Any) -> tuple[float, ...]:
    values = _values(state.initial, state.dtype, state.shape)
    return values if any(values) else ()  # zeros in one way only, and with them one fingerprint


def _values(value: Any, dtype: DType, shape: tuple[int, ...]) -> tuple[float, ...]:
    """One number for all places, or all of them, as numbers of the dtype where they are such."""
    given = value if isinstance(value, tuple) else (value,) * math.prod(shape)
    if dtype == "float32":
        return tuple(map(float, given))
    return tuple(int(each) if each == int(each) else each for each in given)


def _input_spec(entry: Any) -> TensorSpec:
    text = text_spec(getattr(entry, "text", None))
    return TensorSpec(**_some(entry, "name dtype shape description limit range"), text=text)


def _short(values: Sequence[float]) -> float | list[float]:
    return values[0] if len(set(values)) == 1 else list(values)


def _input(tensor: TensorSpec, graph: GraphTensor, carry: int) -> dict[str, Any]:
    own = {"float32": "range", "int32": "limit", "int64": "limit"}.get(tensor.dtype, "")
    text = {"text": dataclasses.asdict(tensor.text)} if tensor.text else {}
    return _some(tensor, f"name dtype shape description {own}") | _some(graph, "tensor batch_axis") | {"carry": carry} | text


def _state(state: StateSpec, graph: GraphState) -> dict[str, Any]:
    initial = {"initial": _short(state.initial)} if state.initial else {}
    return _some(state, "name dtype shape") | _some(graph, "read written batch_axis") | initial


def _output(tensor: TensorSpec, graph: GraphTensor, head: HeadSpec) -> dict[str, Any]:
    return _some(tensor, "name dtype shape description") | _some(graph, "tensor batch_axis") | _some(head, _MEANING)


def _some(record: object, names: str) -> dict[str, Any]:
    """The fields of a record that it has, of those named."""
    return {name: getattr(record, name) for name in names.split() if hasattr(record, name)}
