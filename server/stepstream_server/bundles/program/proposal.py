"""Drafts the manifest of a graph: what the file and some runs tell, and guesses for the rest, each with what to check."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import onnx

from stepstream_server.bundles.check import check_spec
from stepstream_server.bundles.fields import layout, printable
from stepstream_server.bundles.manifest import parse
from stepstream_server.bundles.program import axes, trial
from stepstream_server.bundles.program.axes import Place
from stepstream_server.bundles.program.pairs import Pair, Tensor, pair
from stepstream_server.bundles.program.translate import FORMAT
from stepstream_server.bundles.translate import to_spec
from stepstream_server.errors import BundleError
from stepstream_server.programs import read
from stepstream_server.programs.exposure import POWERS, Exposed
from stepstream_server.programs.normalise import normalise
from stepstream_server.programs.screen import dtype_of, fed, screen, screen_operators
from stepstream_server.spec import DType, ModelSpec

_RATES = re.compile(r"^(sr|fs|rate|sample_?rate|sampling_?rate)$")
_SAMPLES_PER_SECOND = 16_000  # of most models of speech
# Nodes that hand an index on as it is.
_HANDING_ON = {"Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Transpose"}


class Draft:
    """A manifest under construction, and what is to be told of it."""

    def __init__(self) -> None:
        self.tree: dict[str, Any] = {}
        self.notes: list[str] = []

    def note(self, field: str, guess: object, why: str) -> None:
        """A guess, and what to check."""
        shown = guess if isinstance(guess, str) else json.dumps(guess)
        self.notes.append(printable(f"{field}: {shown}: {why}"))


class Roles(NamedTuple):
    """Roles of the inputs of a graph."""

    steps: list[Tensor]  # what a step brings
    states: list[Pair]
    constants: list[Tensor]
    values: dict[str, axes.Array]  # guessed, of the constants by name


def propose(file: Path, given: Mapping[str, str]) -> Draft:
    """A draft for the graph in `file`. given: states that are known, input to output by the names of tensors.

    Raises BundleError for a graph that cannot be served, and where nothing is found that would make it a step function.
    """
    model = read.read(file)
    screen_operators(model, file.name)
    outputs = [_tensor(info) for info in model.graph.output]
    roles = _roles(_inputs(model, file.name), outputs, given, file.name)
    found = _found(model, roles, file.name)
    draft = Draft()
    draft.tree = {**FORMAT, "name": _name(file.stem, r"[^A-Za-z0-9._-]", "model")[:128]}
    draft.note("name", draft.tree["name"], "clients call the model by it")
    _describe_tensors(draft, model, roles, outputs, found)
    draft.tree["program"] = {"file": "model.onnx", "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
    _try_out(draft, model, file.name)
    return draft


def _roles(inputs: Sequence[Tensor], outputs: Sequence[Tensor], given: Mapping[str, str], file: str) -> Roles:
    """Tells the role of each input. Raises BundleError where no step would bring or remember anything."""
    constants = {each.name: _value(each) for each in inputs if _is_constant(each)}
    states = pair([each for each in inputs if each.name not in constants], outputs, given)
    known = {*constants, *(state.read.name for state in states)}
    steps = [each for each in inputs if each.name not in known]
    shown = f"inputs {', '.join(each.name for each in inputs)}, outputs {', '.join(each.name for each in outputs)}"
    if not steps:
        raise BundleError(f"{file}: expected an input that is no state; every one was paired with an output: {shown}")
    if not states:
        raise BundleError(f"{file}: expected states that are read and written; none was recognised among {shown}: --state IN=OUT")
    return Roles(steps, states, [each for each in inputs if each.name in constants], constants)


def _found(model: onnx.ModelProto, roles: Roles, file: str) -> axes.Found:
    """Axes and shapes, as runs of the graph tell them."""
    fed_tensors = [*roles.steps, *(state.read for state in roles.states)]
    graph = axes.RawGraph(model, roles.values, {each.name: each.dtype for each in fed_tensors})
    try:
        return axes.find(graph, roles.steps, roles.states)
    except BundleError as error:
        raise BundleError(f"{file}: {error}") from None


def _describe_tensors(draft: Draft, model: onnx.ModelProto, roles: Roles, outputs: Sequence[Tensor], found: axes.Found) -> None:
    """Inputs, constants, states and outputs, with what is to be told of them."""
    names = _names([*(each.name for each in roles.steps), *(state.read.name for state in roles.states)], outputs)
    draft.tree["inputs"] = [_input(draft, index, each, names, found, model) for index, each in enumerate(roles.steps)]
    if roles.constants:
        draft.tree["constants"] = [_constant(draft, index, each, roles.values) for index, each in enumerate(roles.constants)]
    draft.tree["states"] = [_state(draft, index, each, names, found) for index, each in enumerate(roles.states)]
    chosen = _chosen_outputs(draft, outputs, roles.states, found)
    draft.tree["outputs"] = [_output(draft, index, each, names, found) for index, each in enumerate(chosen)]


def text_of(draft: Draft) -> str:
    """The manifest, laid out for people."""
    return layout(draft.tree) + "\n"


def _inputs(model: onnx.ModelProto, file: str) -> list[Tensor]:
    """Tensors that the graph is fed. Raises BundleError for a dtype that no step can bring."""
    wanted = set(fed(model))
    tensors = [_tensor(info) for info in model.graph.input if info.name in wanted]
    for tensor in tensors:
        if tensor.dtype not in get_args(DType):
            choices = ", ".join(get_args(DType))
            raise BundleError(
                f"{file}: input {tensor.name!r}: expected one of {choices}, got {tensor.dtype}: put a Cast in front"
            )
    return tensors


def _tensor(info: onnx.ValueInfoProto) -> Tensor:
    kind = info.type.tensor_type
    if not kind.HasField("shape"):
        return Tensor(info.name, dtype_of(info), None)
    dims = tuple(dim.dim_value if dim.HasField("dim_value") else dim.dim_param for dim in kind.shape.dim)
    return Tensor(info.name, dtype_of(info), dims)


def _is_constant(tensor: Tensor) -> bool:
    """Tells whether an input has no axis for sessions to lie along, so that it can only be one value for all of them."""
    return tensor.dims == () or (tensor.dims == (1,) and bool(_RATES.match(tensor.name.lower())))


def _value(tensor: Tensor) -> axes.Array:
    guess = _SAMPLES_PER_SECOND if _RATES.match(tensor.name.lower()) else 1
    return np.full([size for size in tensor.dims or () if isinstance(size, int)], guess, tensor.dtype)


def _name(text: str, others: str, otherwise: str) -> str:
    """A name of a tensor or file as a manifest can hold it."""
    return re.sub(others, "_", text).lstrip("._-") or otherwise


def _names(read_names: Iterable[str], outputs: Sequence[Tensor]) -> dict[str, str]:
    """Names to callers, distinct, by those in the graph; an output that is called as an input is told apart."""
    names: dict[str, str] = {}
    for tensor in (*read_names, *(each.name for each in outputs)):
        plain = _name(tensor, r"[^A-Za-z0-9_]", "tensor")[:60]
        plain = f"_{plain}" if plain[0].isdigit() else plain
        taken = set(names.values())
        names[tensor] = next(each for each in (plain, *(f"{plain}_{n}" for n in range(2, 1000))) if each not in taken)
    return names


def _input(
    draft: Draft, index: int, tensor: Tensor, names: Mapping[str, str], found: axes.Found, model: onnx.ModelProto
) -> dict[str, Any]:
    field = f"inputs[{index}]"
    entry = {"name": names[tensor.name], "tensor": tensor.name, "dtype": tensor.dtype, **_where(draft, field, tensor, found)}
    if tensor.dtype == "float32":
        entry["range"] = POWERS[0]  # the widest, until the runs tell more
    elif tensor.dtype != "bool":
        limit = _rows_of_table(model, tensor.name)
        if limit:
            entry["limit"] = limit
        draft.note(
            f"{field}.limit",
            limit or "none",
            "as many rows as the table that it chooses from has"
            if limit
            else "it was not seen to choose from a table; name one if not every value is valid",
        )
    return entry


def _where(draft: Draft, field: str, tensor: Tensor, found: axes.Found) -> dict[str, Any]:
    """Shape and batch axis of what is read."""
    place = found.places[tensor.name]
    free = [size for size in tensor.dims or () if isinstance(size, str)]
    axis_said = len(free) == 1
    if found.width and found.width in place.shape:
        others = f"; it takes {', '.join(map(str, found.other_widths))} as well" if found.other_widths else ""
        draft.note(
            f"{field}.shape",
            list(place.shape),
            f"the file does not say {found.width}, and the graph takes it{others}. "
            "Check it, and whether a part of it is what the step before brought (carry)",
        )
    draft.note(
        f"{field}.batch_axis",
        place.batch_axis,
        "two and three sessions lie along it" + ("" if axis_said else "; check that it is not time"),
    )
    return {"shape": list(place.shape), "batch_axis": place.batch_axis}


def _constant(draft: Draft, index: int, tensor: Tensor, values: Mapping[str, axes.Array]) -> dict[str, Any]:
    value = values[tensor.name].ravel().tolist()[0]
    draft.note(
        f"constants[{index}].value",
        value,
        f"{tensor.name} has no axis for sessions, so it is one value for all of them; put the right one",
    )
    return {"tensor": tensor.name, "dtype": tensor.dtype, "shape": list(tensor.dims or ()), "value": value}


def _state(draft: Draft, index: int, state: Pair, names: Mapping[str, str], found: axes.Found) -> dict[str, Any]:
    field, tensor = f"states[{index}]", state.read
    draft.note(
        field, f"{tensor.name} is read, {state.written.name} is written", f"paired {state.why}; --state IN=OUT says others"
    )
    draft.note(f"{field}.initial", 0, "sessions begin with zeros; put the values if the model begins otherwise")
    pairing = {"name": names[tensor.name], "read": tensor.name, "written": state.written.name, "dtype": tensor.dtype}
    return pairing | _where(draft, field, tensor, found)


def _chosen_outputs(draft: Draft, outputs: Sequence[Tensor], states: Sequence[Pair], found: axes.Found) -> list[Tensor]:
    """Outputs that are no states; states, where there are no others."""
    written = {state.written.name for state in states}
    others = [each for each in outputs if each.name not in written]
    for each in others:
        if not _is_served(each, found):
            draft.note(each.name, "left out", f"{each.dtype}, or its shape does not grow with the batch")
    chosen = [each for each in others if _is_served(each, found)]
    if chosen:
        return chosen
    draft.note("outputs", "the states", "no other output was found; a state may be an output too")
    return [each for each in outputs if each.name in written]


def _is_served(tensor: Tensor, found: axes.Found) -> bool:
    return tensor.dtype in get_args(DType) and tensor.name in found.outputs


def _output(draft: Draft, index: int, tensor: Tensor, names: Mapping[str, str], found: axes.Found) -> dict[str, Any]:
    place: Place = found.outputs[tensor.name]
    field = f"outputs[{index}]"
    draft.note(
        f"{field}.kind",
        "regression",
        "put classes, quantiles or next_token if it is that, and what it predicts",
    )
    return {
        "name": names[tensor.name],
        "tensor": tensor.name,
        "dtype": tensor.dtype,
        "shape": list(place.shape),
        "batch_axis": place.batch_axis,
        "kind": "regression",
    }


def _rows_of_table(model: onnx.ModelProto, tensor: str) -> int:
    """Rows of the smallest table of weights from which a tensor's values choose; 0 if there is none."""
    tables = {each.name: each.dims for each in model.graph.initializer}
    values, rows = {tensor}, set()
    for node in model.graph.node:
        if node.op_type in _HANDING_ON and node.input[0] in values:
            values.add(node.output[0])
        elif node.op_type == "Gather" and node.input[0] in tables and node.input[1] in values:
            axis = next((each.i for each in node.attribute if each.name == "axis"), 0)
            rows.add(tables[node.input[0]][axis])
    return min(rows, default=0)


def _try_out(draft: Draft, model: onnx.ModelProto, file: str) -> None:
    """Range and batching, as runs of the drafted model tell them; a draft that cannot be run yet stays one."""
    spec = _spec(draft, file)
    screen(model, spec, file)
    graph = normalise(model, spec)  # which knows no ranges
    _widen(draft, graph, spec)
    try:
        for name, value in trial.told(trial.tried(graph, _spec(draft, file))):
            draft.note(name, value, "by the trial, which packing and loading repeat")
    except BundleError as error:
        draft.note("trial", "failed", str(error))


def _widen(draft: Draft, graph: bytes, spec: ModelSpec) -> None:
    """The range of every float input."""
    floats = [index for index, each in enumerate(spec.inputs) if each.dtype == "float32"]
    if not floats:
        return
    widest, why = 1.0, "the largest power of ten at which all values inside stayed finite; put the range that readings have"
    try:
        widest = Exposed(graph, spec).widest_range()
    except BundleError as error:
        why = f"no range was found to be safe: {error}"
    for index in floats:
        draft.tree["inputs"][index]["range"] = widest
        draft.note(f"inputs[{index}].range", widest, why)


def _spec(draft: Draft, file: str) -> ModelSpec:
    spec = to_spec(parse(text_of(draft), file), fingerprint="")
    check_spec(spec, file)
    return spec
