"""Checks the fields of a program's manifest against each other. Pure: no files, and nothing of the graph."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from stepstream_server.bundles.fields import FLOAT32_MAX, shorten, wrong
from stepstream_server.bundles.heads import check_distinct, check_meaning, check_one_predicts
from stepstream_server.bundles.text import check_text
from stepstream_server.spec import DType, HeadSpec, ModelSpec, Program, TensorSpec


def check_program(spec: ModelSpec, program: Program, file: str) -> None:
    """Raises BundleError naming `file` and the field where the declarations contradict each other."""
    _check_memory(spec, file)
    for index, (tensor, graph, carry) in enumerate(zip(spec.inputs, program.inputs, program.carry, strict=True)):
        _check_axis(tensor.shape, graph.batch_axis, f"inputs[{index}]", file)
        _check_carry(tensor, carry, f"inputs[{index}]", file)
    for index, (state, where) in enumerate(zip(spec.states, program.states, strict=False)):
        _check_axis(state.shape, where.batch_axis, f"states[{index}]", file)
        if state.initial:
            _check_values(state.initial, state.dtype, state.elements, f"states[{index}].initial", file)
    for index, constant in enumerate(program.constants):
        _check_values(constant.value, constant.dtype, int(np.prod(constant.shape)), f"constants[{index}].value", file)
    for index, (output, where_to, head) in enumerate(zip(spec.outputs, program.outputs, spec.heads, strict=True)):
        _check_axis(output.shape, where_to.batch_axis, f"outputs[{index}]", file)
        _check_output(spec, output, head, f"outputs[{index}]", file)
    check_one_predicts(spec, file)
    _check_one_rollout(spec, file)
    check_text(spec, file)
    check_distinct(_names(spec), "inputs, outputs and states", file)
    check_distinct(_fed(program), "tensors of inputs, constants and states", file)


def _check_memory(spec: ModelSpec, file: str) -> None:
    if not spec.states:
        raise wrong(file, "states", "at least one, or an input that carries: without a memory there are no sessions", "none")


def _check_axis(shape: tuple[int, ...], axis: int, field: str, file: str) -> None:
    if axis > len(shape):
        raise wrong(file, f"{field}.batch_axis", f"at most {len(shape)}, as the shape has so many axes beside it", f"{axis}")


def _check_carry(tensor: TensorSpec, carry: int, field: str, file: str) -> None:
    if carry and not tensor.shape:
        raise wrong(file, f"{field}.carry", "0, since the shape has no axis along which to carry", f"{carry}")


def _check_values(values: Sequence[float], dtype: DType, elements: int, field: str, file: str) -> None:
    if len(values) != elements:
        raise wrong(file, field, f"one number, or {elements} as the shape says", f"{len(values)}")
    least, most = _bounds(dtype)
    for value in values:
        if not least <= value <= most or (dtype != "float32" and value != int(value)):
            raise wrong(file, field, f"numbers of dtype {dtype}", shorten(value))


def _bounds(dtype: DType) -> tuple[float, float]:
    if dtype == "float32":
        return -FLOAT32_MAX, FLOAT32_MAX
    if dtype == "bool":
        return 0, 1
    return int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)


def _check_output(spec: ModelSpec, output: TensorSpec, head: HeadSpec, field: str, file: str) -> None:
    if output.dtype != "float32" and (head.kind != "regression" or head.predicts):
        raise wrong(file, f"{field}.dtype", f"float32, since the output is {_role(head)}", output.dtype)
    check_meaning(spec, head, field, file)
    if head.kind == "next_token":
        _check_tokens(spec.inputs[0], head, field, file)


def _role(head: HeadSpec) -> str:
    return f"of kind {head.kind}" if head.kind != "regression" else f"what predicts {head.predicts}"


def _check_tokens(tensor: TensorSpec, head: HeadSpec, field: str, file: str) -> None:
    """The next token is stepped on: the input takes one of as many tokens as the output has numbers."""
    if tensor.dtype not in ("int32", "int64") or tensor.shape:
        expected = "an input of dtype int32 or int64 and of shape [], since the next token is stepped on"
        raise wrong(file, f"{field}.kind", expected, f"{tensor.name}, {tensor.dtype} {list(tensor.shape)}")
    if tensor.limit != head.width:
        raise wrong(file, "inputs[0].limit", f"{head.width}, the numbers of {head.name}", f"{tensor.limit}")


def _check_one_rollout(spec: ModelSpec, file: str) -> None:
    """A rollout is stepped on one output, and has nothing else to give to a second input."""
    stepped = [index for index, head in enumerate(spec.heads) if head.predicts or head.kind == "next_token"]
    if not stepped:
        return
    field = "predicts" if spec.heads[stepped[-1]].predicts else "kind"
    if len(spec.inputs) > 1:
        raise wrong(
            file, f"outputs[{stepped[-1]}].{field}", "a model of one input, since it is stepped on", f"{len(spec.inputs)}"
        )
    if len(stepped) > 1:
        raise wrong(file, f"outputs[{stepped[1]}].kind", f"regression, since outputs[{stepped[0]}] is stepped on", "another")


def _names(spec: ModelSpec) -> Iterator[str]:
    """Inputs, outputs and states share one set of names, derived states among them."""
    yield from (tensor.name for tensor in (*spec.inputs, *spec.outputs))
    yield from (state.name for state in spec.states)


def _fed(program: Program) -> Iterator[str]:
    """The inputs of the graph, each of which gets its value from one place."""
    yield from (each.tensor for each in program.inputs)
    yield from (constant.tensor for constant in program.constants)
    yield from (state.read for state in program.states)
