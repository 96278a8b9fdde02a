"""A torch module as a step, which is a function of arrays: finds out how the module is called, and whether it is a function.

Torch is imported only when something here is called.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import itertools
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
from numpy.typing import NDArray

from stepstream_server.bundles.fields import shorten, wrong
from stepstream_server.bundles.plain import type_name
from stepstream_server.errors import BundleError
from stepstream_server.spec import DType

if TYPE_CHECKING:
    import torch

Arrays = list[NDArray[Any]]
TOLERANCE = 1e-5  # of the largest number of a result or of 1: float32, summed in another order
REASON_CHARACTERS = 240  # of what torch tells: the reason, without its pages of advice
_ADVICE = re.compile(r'For more information, run with TORCH_LOGS="\S+"\.?\s*-?')


@dataclass(frozen=True, slots=True)
class Names:
    """Names of the arguments and results of a step, in order."""

    inputs: tuple[str, ...]
    states: tuple[str, ...]
    outputs: tuple[str, ...]

    @property
    def fields(self) -> list[str]:
        """Names of the results in errors."""
        return [*(f"outputs.{name}" for name in self.outputs), *(f"states.{name}" for name in self.states)]

    @property
    def read(self) -> list[str]:
        """The tensors that go into the graph of a step."""
        return [*self.inputs, *self.states]

    @property
    def written(self) -> list[str]:
        """The tensors that come out of it: a dot, which no input or output has in its name, keeps states apart."""
        return [*self.outputs, *(f"next.{state}" for state in self.states)]


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """A module as a function of arrays: inputs and states of a batch in, outputs and states out."""

    module: torch.nn.Module  # takes tensors in a row, and gives a tuple of them
    names: Names
    axis: int  # along which the sessions lie in states of layers, which have two axes of their own; it is 0 everywhere else

    def axes(self, states: Sequence[NDArray[Any]]) -> list[int]:
        """The axis of the sessions in each state of a batch."""
        return [self.axis if state.ndim > 2 else 0 for state in states]

    def arguments(self, inputs: Arrays, states: Arrays) -> Arrays:
        """The arguments of a batch. inputs, states: with the sessions in front."""
        return inputs + [np.moveaxis(state, 0, axis) for state, axis in zip(states, self.axes(states), strict=True)]

    def tensors(self, arguments: Arrays) -> tuple[torch.Tensor, ...]:
        """The arguments, copied, where the module is."""
        import torch

        device = next((each.device for each in self.module.parameters()), torch.device("cpu"))
        return tuple(torch.from_numpy(each.copy()).to(device) for each in arguments)

    def __call__(self, arguments: Arrays) -> Arrays:
        """One step. Raises BundleError unless the results are the outputs and the states of the batch."""
        import torch

        given = self.tensors(arguments)
        with torch.no_grad():
            results = self.module(*given)
        _check_results(results, given, self.names)
        return [each.cpu().numpy() for each in results]


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Nothing that torch tells its developers reaches the user: it prints, warns and logs."""
    before, nowhere = logging.root.manager.disable, io.StringIO()
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(action="ignore"), contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
            yield
    finally:
        logging.disable(before)


def in_python(module: torch.nn.Module) -> torch.nn.Module:
    """The module, or the one within that torch.compile was given. Raises BundleError for what Python does not compute."""
    import torch

    if not isinstance(module, torch.nn.Module) or isinstance(module, torch.jit.ScriptModule):
        raise wrong("save", "module", "a torch.nn.Module that was not scripted", type_name(module))
    within: torch.nn.Module = getattr(module, "_orig_mod", module)  # compiling takes longer than all else
    return within


@contextlib.contextmanager
def at_rest(module: torch.nn.Module) -> Iterator[None]:
    """The module in evaluation mode; afterwards every part of it is as it was."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


def find_step(module: torch.nn.Module, names: Names, inputs: Arrays, states: Arrays) -> Step:
    """How `module` is called, found by calling it on a few sessions, which are in front in `inputs` and `states`.

    It may take forward(inputs, states) or forward(inputs, (states)), and states with the sessions in front or, as torch.nn.LSTM
    has them, behind the layers. Raises BundleError that says what was expected and what came where nothing fits.
    """
    misfits: list[BundleError] = []
    failures: list[BundleError] = []
    for axis, nested in itertools.product((0, 1), (False, True)):
        step = Step(_in_a_row(module, len(inputs), nested=nested), names, axis)
        arguments = step.arguments(inputs, states)
        if not _takes(module, len(inputs) + (1 if nested else len(states))):
            continue
        try:
            step(arguments)
            return step
        except BundleError as error:
            misfits.append(error)
        except Exception as error:  # whatever the module raises
            failures.append(_refusal(names, arguments, f"{type(error).__name__}: {reason(error)}"))
    signature = f"forward{inspect.signature(module.forward)}"
    # That it could be called and what came says more than that it could not be called in another form.
    raise [*misfits, *failures, _refusal(names, inputs + states, signature)][0]


def check_function(step: Step, arguments: Arrays) -> None:
    """Raises BundleError, naming the part of the module, if equal arguments give other results the second time, and for results
    that are not finite."""
    first, second = _results_of_parts(step, arguments), _results_of_parts(step, arguments)
    for (part, results), (_, again) in zip(first, second, strict=False):
        if not all(np.array_equal(*pair, equal_nan=True) or is_close(*pair) for pair in zip(results, again, strict=True)):
            expected = "a part that gives equal results for equal inputs and states once it is in evaluation mode"
            raise wrong("save", part, expected, "one that draws at random, or keeps memory of its own instead of in states")
    check_finite(step.names, step(arguments))


def check_apart(names: Names, results: Arrays, alike: Arrays, axes: Sequence[int]) -> None:
    """Raises BundleError naming the first result of the first session that is another one beside other sessions.

    axes: along which sessions lie in each result.
    """
    for field, one, other, axis in zip(names.fields, results, alike, axes, strict=True):
        if not is_close(one.take([0], axis), other.take([0], axis)):
            raise wrong("save", field, "a session's results to be its own", "others beside sessions with other inputs")


def check_finite(names: Names, results: Arrays) -> None:
    """Raises BundleError naming the first result of a step that has NaN or infinity."""
    for field, result in zip(names.fields, results, strict=True):
        if not np.isfinite(result).all():
            raise wrong("save", field, "finite numbers from the module for random inputs", "some that are not")


def is_close(expected: NDArray[Any], actual: NDArray[Any]) -> bool:
    """Tells whether two results are equal, floats within `TOLERANCE`."""
    if expected.shape != actual.shape or expected.dtype != actual.dtype:
        return False
    if expected.dtype.kind != "f":
        return np.array_equal(expected, actual)
    return bool(np.abs(actual - expected).max(initial=0) <= TOLERANCE * np.abs(expected).max(initial=1))


def reason(error: BaseException) -> str:
    """The reason that torch gives, on one line: the first cause, its first paragraph, and the line of the module."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = _ADVICE.sub("", str(error)).strip() or type(error).__name__
    lines = list(dict.fromkeys(line.strip() for line in text.split("\n\n")[0].splitlines()))
    place = text.partition("The following call raised this error:")[2].strip().split("\n\n")[0]
    return " ".join(" ".join([place, *lines]).split())[:REASON_CHARACTERS]


def _in_a_row(module: torch.nn.Module, inputs: int, *, nested: bool) -> torch.nn.Module:
    """The module as one that takes tensors in a row and gives a tuple of all that it gives, however nested."""
    import torch

    class InARow(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = module

        def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
            states = tensors[inputs:]
            return tuple(_flat(self.module(*tensors[:inputs], *([states] if nested else states))))

    return InARow().eval()


def _flat(results: Any) -> Iterator[Any]:
    if isinstance(results, (tuple, list)):
        for each in results:
            yield from _flat(each)
    else:
        yield results


def _takes(module: torch.nn.Module, count: int) -> bool:
    """Tells whether the module may be called with so many arguments."""
    try:
        inspect.signature(module.forward).bind(*range(count))
    except TypeError:
        return False
    return True


def _refusal(names: Names, arguments: Arrays, actual: str) -> BundleError:
    given = [f"{name} {_described(each)}" for name, each in zip(names.read, arguments, strict=True)]
    nested = [*names.inputs, f"({', '.join(names.states)})"]
    forms = f"forward({', '.join(names.read)}) or forward({', '.join(nested)})"
    return wrong("save", "module", f"{forms}, of {len(arguments[0])} sessions {', '.join(given)}", actual)


def _check_results(results: Sequence[Any], arguments: Sequence[torch.Tensor], names: Names) -> None:
    import torch

    wanted = names.outputs + names.states
    if len(results) != len(wanted) or not all(isinstance(each, torch.Tensor) for each in results):
        got = f"{len(results)}, {', '.join(map(_described, results))}"
        raise wrong("save", "module", f"{len(wanted)} tensors as results, {', '.join(wanted)}", got)
    sessions = len(arguments[0])
    for name, result in zip(names.outputs, results, strict=False):
        if _dtype(result) not in get_args(DType) or result.shape[:1] != (sessions,):
            expected = f"{', '.join(get_args(DType))} [{sessions}, ...] of {sessions} sessions"
            raise wrong("save", f"outputs.{name}", expected, _described(result))
    before, after = arguments[len(names.inputs) :], results[len(names.outputs) :]
    for name, given, result in zip(names.states, before, after, strict=True):
        if _described(result) != _described(given):
            raise wrong("save", f"states.{name}", f"{_described(given)} after a step of {sessions} sessions", _described(result))


def _results_of_parts(step: Step, arguments: Arrays) -> list[tuple[str, Arrays]]:
    """Results of each part of the module in a step, by its name, in the order in which parts come to an end."""
    import torch

    found: list[tuple[str, Arrays]] = []

    def hook(name: str) -> Callable[..., None]:
        def note(_part: object, _given: object, results: object) -> None:
            found.append(
                (name, [each.detach().cpu().numpy().copy() for each in _flat(results) if isinstance(each, torch.Tensor)])
            )

        return note

    handles = [part.register_forward_hook(hook(name)) for name, part in step.module.named_modules()]
    try:
        step(arguments)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _described(value: Any) -> str:
    return f"{_dtype(value)} {shorten(list(value.shape))}" if hasattr(value, "shape") else type(value).__name__


def _dtype(value: Any) -> str:
    return str(value.dtype).removeprefix("torch.")
