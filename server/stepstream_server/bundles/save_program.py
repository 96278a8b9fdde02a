"""Turns any torch module that is a step function into a bundle of kind program. Imports torch, and only when it is called."""

from __future__ import annotations

import dataclasses
import itertools
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack, cast, get_args

import numpy as np
from numpy.typing import NDArray

from stepstream_server.bundles.declare import Told, check_told
from stepstream_server.bundles.fields import shorten, wrong
from stepstream_server.bundles.heads import check_distinct
from stepstream_server.bundles.load import Bundle
from stepstream_server.bundles.plain import type_name
from stepstream_server.bundles.program.translate import spec_of
from stepstream_server.bundles.torch_step import (
    Arrays,
    Names,
    Step,
    at_rest,
    check_apart,
    check_function,
    find_step,
    in_python,
    quietly,
)
from stepstream_server.bundles.write import put_program, validate
from stepstream_server.spec import (
    DType,
    GraphState,
    GraphTensor,
    HeadKind,
    HeadSpec,
    ModelSpec,
    Program,
    StateSpec,
    TensorSpec,
    TextSpec,
)

if TYPE_CHECKING:
    import torch

_SEED = 0  # of the random inputs: saving a module twice gives one bundle


@dataclass(frozen=True, slots=True, eq=False)
class Input:
    """An input of a step function; fields as in `spec.TensorSpec`."""

    step: Any  # the shape of one step of one session, float32; or an array of one, of any dtype that is served
    range: float = 0.0  # float32 only; 0: the largest at which nothing within the module overflows
    limit: int = 0  # whole numbers only
    carry: int = 0  # the module gets the last so many values along axis 0 in front of the next ones; the shape is without them
    description: str = ""
    text: TextSpec | None = None  # of an input of tokens


@dataclass(frozen=True, slots=True)
class Output:
    """Meaning of an output's numbers; fields as in `spec.HeadSpec`."""

    kind: HeadKind = "regression"
    levels: tuple[float, ...] = ()
    labels: tuple[str, ...] = ()
    predicts: str = ""
    description: str = ""
    stop: tuple[tuple[int, ...], ...] = ()
    temperature: float | None = None


def save_program(
    directory: Path | str,
    module: torch.nn.Module,
    inputs: Mapping[str, Any],
    states: Mapping[str, Any],
    outputs: Sequence[str] | Mapping[str, Output],
    *,
    name: str = "",
    version: int = 1,
    **told: Unpack[Told],
) -> Bundle:
    """Exports a trained module that is a step function, and writes it as a bundle that `stepstream-server serve` serves.

        save_program("models/tide", module, inputs={"x": (3,)}, states={"h": (2, 8)}, outputs=["y"])

    module: its forward takes inputs, then states, and gives outputs, then states, in the order of the arguments below: in a row,
    or with the states as one tuple, as (x, (h, c)) -> (y, (h, c)). All have the batch in front; states may have it behind the
    layers, as those of torch.nn.LSTM. It is called in evaluation mode, and then put back as it was.
    inputs: by name, the shape of one step of one session, which is float32; an array of one step, for another dtype; or an
    `Input`, which also says a range, a limit, or what is carried.
    states: by name, the shape of one session's, float32 and zero at first; or an array, which is its value at first.
    outputs: the names, or by name an `Output` that says what its numbers are.
    name: the folder's name if empty. What is told besides, such as `licence`, is as in `spec.ModelSpec`.

    Returns what `load` would. Raises BundleError, and writes nothing, for a module that cannot be called so, that is not a
    function of its inputs and states, that torch cannot export, or whose graph differs from it by more than 1e-5 over random
    steps; and for all that `load` would refuse.
    """
    check_told(save_program, told)
    declared, module = _declared(inputs, states, outputs), in_python(module)
    with quietly(), at_rest(module):
        step, results = _stepped(module, declared)
        graph = _exported(step, declared)
    spec = _spec(declared, step, results, name=name or Path(directory).resolve().name, version=version, **told)
    return put_program(Path(directory), _tried(spec, graph), graph)


@dataclass(frozen=True, slots=True, eq=False)
class _Declared:
    """The arguments of `save_program`, by name."""

    inputs: dict[str, Input]
    windows: dict[str, NDArray[Any]]  # what the module gets of each input, an example: what is carried stands in front
    states: dict[str, NDArray[Any]]  # their values at first
    outputs: dict[str, Output]

    @property
    def names(self) -> Names:
        return Names(tuple(self.inputs), tuple(self.states), tuple(self.outputs))

    def draw(self, sessions: int, rng: np.random.Generator) -> Arrays:
        """Random inputs of so many sessions, which are in front."""
        return [_random(self.inputs[name], window, sessions, rng) for name, window in self.windows.items()]

    def begun(self, sessions: int) -> Arrays:
        """The states in which so many sessions begin; they are in front."""
        return [np.repeat(state[None], sessions, axis=0) for state in self.states.values()]

    def sizes(self) -> tuple[int, int]:
        """Two sizes of a batch: none that an axis has, so that none is taken for that of the sessions, nor 1, which torch makes a
        constant."""
        taken = {size for array in (*self.windows.values(), *self.states.values()) for size in array.shape}
        few, more = itertools.islice((size for size in itertools.count(2) if size not in taken), 2)
        return few, more


def _declared(inputs: Mapping[str, Any], states: Mapping[str, Any], outputs: Sequence[str] | Mapping[str, Output]) -> _Declared:
    given = {name: each if isinstance(each, Input) else Input(each) for name, each in inputs.items()}
    described = dict(outputs) if isinstance(outputs, Mapping) else dict.fromkeys(outputs, Output())
    for field, names in (("inputs", given), ("outputs", described)):
        if not names:
            raise wrong("save", field, "at least one, by name", "none")
    check_distinct([*given, *states, *described], "inputs, outputs and states", "save")
    windows = {name: _window(f"inputs.{name}", each) for name, each in given.items()}
    return _Declared(given, windows, {name: _array(f"states.{name}", each) for name, each in states.items()}, described)


def _stepped(module: torch.nn.Module, declared: _Declared) -> tuple[Step, Arrays]:
    """The module as a step, and results of one."""
    (few, _), rng = declared.sizes(), np.random.default_rng(_SEED)
    step = find_step(module, declared.names, declared.draw(few, rng), declared.begun(few))
    drawn = declared.draw(few, rng)
    arguments = step.arguments(drawn, declared.begun(few))
    check_function(step, arguments)
    results = step(arguments)
    alike = [np.repeat(each[:1], few, axis=0) for each in drawn]  # the first session's inputs for all of them
    axes = [*[0] * len(declared.outputs), *step.axes(declared.begun(few))]
    check_apart(step.names, results, step(step.arguments(alike, declared.begun(few))), axes)
    return step, results


def _exported(step: Step, declared: _Declared) -> bytes:
    """The step as a graph, which was compared with it on a batch of another size."""
    from stepstream_server.bundles.export import compare, export

    (few, more), rng = declared.sizes(), np.random.default_rng(_SEED)
    graph = export(step, step.arguments(declared.draw(few, rng), declared.begun(few)))
    arguments = step.arguments(declared.draw(more, rng), declared.begun(more))
    compare(graph, step, arguments, lambda: declared.draw(more, rng))
    return graph


def _array(field: str, given: Any) -> NDArray[Any]:
    """One step's values, or one session's: zeros of a shape, or the array itself. Floats of any width are taken as float32."""
    if isinstance(given, (tuple, list)):
        if not all(isinstance(size, int) and size > 0 for size in given):
            raise wrong("save", field, "a shape, whose sizes are whole numbers above 0, or an array", shorten(given))
        return np.zeros(given, np.float32)
    if not hasattr(given, "dtype"):
        raise wrong("save", field, "a shape, or an array of one step of one session", type_name(given))
    array = np.asarray(given.detach().cpu() if hasattr(given, "detach") else given)
    array = array.astype(np.float32) if array.dtype.kind == "f" else array
    if array.dtype.name not in get_args(DType):
        raise wrong("save", field, f"one of the dtypes {', '.join(get_args(DType))}", array.dtype.name)
    return array


def _window(field: str, given: Input) -> NDArray[Any]:
    """The values that the module gets of one session in one step."""
    step = _array(field, given.step)
    applies = {"range": step.dtype.kind == "f", "limit": step.dtype.kind == "i", "carry": step.ndim > 0}
    for name, may_be in applies.items():
        value = getattr(given, name)
        if not value >= 0 or (value and not may_be):
            expected = "0 or more" if may_be else f"0, since the input is {step.dtype.name} {list(step.shape)}"
            raise wrong("save", f"{field}.{name}", expected, f"{value}")
    if not given.carry:
        return step
    return np.concatenate([np.zeros((given.carry, *step.shape[1:]), step.dtype), step])


def _random(given: Input, example: NDArray[Any], sessions: int, rng: np.random.Generator) -> NDArray[Any]:
    """Inputs of so many sessions, as the example: floats up to its magnitude, 1 where it is 0; whole numbers below the limit."""
    shape = (sessions, *example.shape)
    if example.dtype == np.float32:
        most = np.minimum(np.where(example, np.abs(example), 1), given.range or np.inf)
        return (rng.uniform(-1, 1, shape) * most).astype(np.float32)
    if example.dtype == np.bool_:
        return rng.integers(0, 2, shape).astype(np.bool_)
    # Without a limit the example is all that is known to be valid.
    return rng.integers(0, given.limit, shape, example.dtype) if given.limit else np.repeat(example[None], sessions, axis=0)


def _spec(declared: _Declared, step: Step, results: Arrays, **told: Any) -> ModelSpec:
    outputs = list(zip(declared.outputs.items(), results, strict=False))  # states follow
    return spec_of(
        _program(declared, step),
        inputs=tuple(_input_spec(name, each, declared.windows[name]) for name, each in declared.inputs.items()),
        outputs=tuple(TensorSpec(name, _dtype(each), each.shape[1:], output.description) for (name, output), each in outputs),
        states=[_state_spec(name, initial) for name, initial in declared.states.items()],
        heads=[HeadSpec(name=name, width=each[0].size, **dataclasses.asdict(output)) for (name, output), each in outputs],
        **told,
    )


def _program(declared: _Declared, step: Step) -> Program:
    names = declared.names
    axes = step.axes(declared.begun(1))
    return Program(
        inputs=tuple(map(GraphTensor, names.inputs)),
        carry=tuple(each.carry for each in declared.inputs.values()),
        states=tuple(map(GraphState, names.states, names.written[len(names.outputs) :], axes)),
        outputs=tuple(map(GraphTensor, names.outputs)),
    )


def _input_spec(name: str, given: Input, window: NDArray[Any]) -> TensorSpec:
    shape = window[given.carry :].shape if given.carry else window.shape
    return TensorSpec(name, _dtype(window), shape, given.description, given.limit, given.range, given.text)


def _state_spec(name: str, initial: NDArray[Any]) -> StateSpec:
    values = tuple(initial.ravel().tolist()) if initial.any() else ()
    return StateSpec(name, initial.shape, _dtype(initial), values)


def _dtype(array: NDArray[Any]) -> DType:
    return cast(DType, array.dtype.name)  # which `_array` and the step have checked


def _tried(spec: ModelSpec, graph: bytes) -> ModelSpec:
    """The spec as it will be read back, with the widest range that the graph bears for float inputs that have none. Everything
    that `pack` tries of a graph has held; what it warns of, this does."""
    from stepstream_server.bundles.program import packing, trial
    from stepstream_server.programs.exposure import Exposed
    from stepstream_server.programs.normalise import normalise
    from stepstream_server.programs.read import decode

    model = decode(graph, "save")
    if not all(each.range for each in spec.inputs if each.dtype == "float32"):
        spec = _ranged(spec, Exposed(normalise(model, spec), spec).widest_range())
    spec = validate(spec, "save")
    for text in trial.warnings(packing.check(model, spec, "save")):
        warnings.warn(f"{spec.name}: {text}", stacklevel=3)
    return spec


def _ranged(spec: ModelSpec, widest: float) -> ModelSpec:
    inputs = (dataclasses.replace(each, range=each.range or widest) if each.dtype == "float32" else each for each in spec.inputs)
    return dataclasses.replace(spec, inputs=tuple(inputs))
