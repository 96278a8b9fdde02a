"""Torch modules that are step functions become bundles of programs, or are refused with the reason."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stepstream_server.bundles import BundleError, Input, Output, load, save_program
from stepstream_server.bundles.load import Bundle
from stepstream_server.bundles.torch_step import in_python
from stepstream_server.programs import runtime
from stepstream_server.programs.layout import feeds, results
from stepstream_server.programs.normalise import normalise
from stepstream_server.programs.read import decode
from stepstream_server.programs.samples import at_step, carried_on, initial_states, random_inputs
from stepstream_server.spec import GraphState, Program, StateSpec, TensorSpec
from support.programs import BUNDLES
from support.programs.modules import KINDS

torch = pytest.importorskip("torch")
nn = torch.nn
Module: Any = nn.Module
Tensor = Any

# Of one step: what the modules below take unless their test says otherwise.
DECLARED: dict[str, Any] = {"inputs": {"x": (3,)}, "states": {"h": (4,)}, "outputs": ["y"]}


def run(bundle: Bundle, inputs: dict[str, Any]) -> dict[str, Any]:
    """New sessions on the graph as the backend runs it: inputs and outputs [B, T, *shape]."""
    graph, spec = decode(bundle.graph, "graph"), bundle.spec
    session, names = runtime.session(normalise(graph, spec), feeds(spec)), results(spec)
    given = {f"input.{name}": value for name, value in inputs.items()}
    rows, steps = next(iter(inputs.values())).shape[:2]
    states, found = initial_states(spec, rows), []
    for step in range(steps):
        found.append(dict(zip(names, session.run(names, {**at_step(given, step), **states}), strict=True)))
        states = carried_on(found[-1])
    return {each.name: np.concatenate([one[f"output.{each.name}"] for one in found], 1) for each in spec.outputs}


@pytest.mark.parametrize("name", ["mlp_head", "state_space"])
def test_a_module_exported_anew_is_the_bundle_that_is_kept(tmp_path: Path, name: str) -> None:
    """The declarations are equal, and the numbers those of the bundle in the repository, and of torch, within 1e-5. So the
    bundles that other tests serve are what is written today."""
    kept, made = load(BUNDLES / name), KINDS[name].save(tmp_path / name)
    assert made.spec == load(tmp_path / name).spec
    assert [getattr(made.spec, each) for each in ("inputs", "outputs", "states", "heads", "computation")] == [
        getattr(kept.spec, each) for each in ("inputs", "outputs", "states", "heads", "computation")
    ]
    inputs = {key.removeprefix("input."): value for key, value in random_inputs(kept.spec, rows=3, steps=8, seed=2).items()}
    expected = KINDS[name].run(inputs)
    for bundle in (kept, made):
        for output, values in run(bundle, inputs).items():
            np.testing.assert_allclose(values, expected[output], atol=1e-5)


class Everything(Module):  # type: ignore[misc]
    """A window with two values from before, a switch, a count from a stored value, a relu RNN with its batch on axis 1."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.drop = nn.RNN(5, 4, nonlinearity="relu", batch_first=True), nn.Dropout(0.5)
        self.rnn.register_forward_hook(lambda _rnn, _given, found: (found[0] * 2, found[1]))

    def forward(self, x: Tensor, on: Tensor, states: tuple[Tensor, Tensor]) -> Any:
        """x [B, 5], on [B], count [B] int32, h [1, B, 4] -> y [B, 4], seen [B] int32, (count, h)."""
        print("called")
        y, h = self.rnn(x[:, None], states[1])
        count = states[0] + on.to(torch.int32)
        return torch.where(on[:, None], self.drop(y[:, 0]), 0.0), count, (count.clone(), h)


def test_everything_that_is_told_arrives(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Dtypes, carried values, stored beginnings, batch axes and meanings. The module is left as it was, in training, and nothing
    that it or torch prints, logs or warns of is heard."""
    module = Everything()
    module.drop.eval()
    bundle = save_program(
        tmp_path / "m",
        module,
        {"x": Input((3,), range=5.0, carry=2, description="m"), "on": np.bool_(True)},
        {"count": np.int32(7), "h": (1, 4)},
        {"y": Output("classes", labels=("a", "b", "c", "d"), description="weather"), "seen": Output()},
        name="all",
        version=3,
        time_step_seconds=0.5,
    )
    assert capfd.readouterr() == ("", "")
    spec, program = bundle.spec, bundle.spec.computation
    assert (spec.name, spec.version, spec.time_step_seconds) == ("all", 3, 0.5)
    assert spec.inputs == (TensorSpec("x", "float32", (3,), "m", range=5.0), TensorSpec("on", "bool", ()))
    assert [(each.name, each.dtype, each.shape) for each in spec.outputs] == [("y", "float32", (4,)), ("seen", "int32", ())]
    assert spec.states == (StateSpec("count", (), "int32", (7,)), StateSpec("h", (1, 4)), StateSpec("carry.x", (2,)))
    assert isinstance(program, Program)
    assert program.states == (GraphState("count", "next.count"), GraphState("h", "next.h", batch_axis=1))
    assert spec.heads[0].labels == ("a", "b", "c", "d")
    assert (module.training, module.rnn.training, module.drop.training) == (True, True, False)
    found = run(bundle, {"x": np.ones((2, 3, 3), np.float32), "on": np.array([[True, False, True]] * 2)})
    assert found["seen"].tolist() == [[8, 8, 9]] * 2


def test_a_range_that_nobody_said_is_the_widest_that_the_graph_bears(tmp_path: Path) -> None:
    """Beyond it something within the module would overflow."""
    module = Small(lambda x, h: (torch.log1p(torch.exp(x)), h))
    assert save_program(tmp_path / "m", module, **DECLARED).spec.inputs[0].range == 10.0


class Small(Module):  # type: ignore[misc]
    """A module of one function."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.part = Part(function)

    def forward(self, x: Tensor, h: Tensor) -> Any:
        """x [B, 3], h [B, 4] -> whatever the function gives."""
        return self.part(x, h)


class Part(Module):  # type: ignore[misc]
    """A part of a module."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor, h: Tensor) -> Any:
        """Gives what the function gives."""
        return self.function(x, h)


class Remembering(Module):  # type: ignore[misc]
    """Keeps its state where nobody sees it."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = torch.zeros(1)

    def forward(self, x: Tensor, h: Tensor) -> Any:
        """x [B, 3], h [B, 4] -> x and all that was seen before, and h."""
        self.seen = self.seen + x[:1, :1]
        return x + self.seen, h


def branching(x: Tensor, h: Tensor) -> Any:
    """Its way depends on what it reads."""
    return (x, h) if x.sum() > 0 else (-x, h)


TAKES = r"expected forward\(x, h\) or forward\(x, \(h\)\), of 2 sessions x float32 \[2, 3\], h float32 \[2, 4\], got "
RESULTS = "module: expected 2 tensors as results, y, h, got "
STATE = r"states.h: expected float32 \[2, 4\] after a step of 2 sessions, got "
EQUAL = "expected a part that gives equal results for equal inputs and states once it is in evaluation mode, got one that draws"
EXPORTS = (
    "module: expected a module that torch.export takes: no `if` or `while` on values of tensors, any number of sessions, got "
)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        pytest.param(nn.LSTM(3, 4), f"module: {TAKES}RuntimeError: ", id="an LSTM alone"),
        pytest.param(Small(lambda x, h: (x @ torch.ones(5, 2), h)), f"module: {TAKES}RuntimeError: mat1 and mat2", id="sizes"),
        pytest.param(nn.Linear(3, 4), f"module: {TAKES}forward\\(input: ", id="arguments"),
        pytest.param(nn.Bilinear(3, 4, 1), rf"{RESULTS}1, float32 \[2, 1\]", id="no state"),
        pytest.param(Small(lambda x, h: (x, h, h)), rf"{RESULTS}3, float32 \[2, 3\], float32 \[2, 4\], ", id="too many"),
        pytest.param(Small(lambda x, h: ({"y": x}, h)), rf"{RESULTS}2, dict, float32 \[2, 4\]", id="a dict"),
        pytest.param(Small(lambda x, h: (x.sum(), h)), r"outputs.y: .* \[2, ...\] of 2 sessions, got float32 ", id="no batch"),
        pytest.param(Small(lambda x, h: (x.double(), h)), r"outputs.y: expected float32, .*, got float64 \[2, 3\]", id="dtype"),
        pytest.param(Small(lambda x, h: (x, h[:, :2])), rf"{STATE}float32 \[2, 2\]", id="a state's shape"),
        pytest.param(Small(lambda x, h: (x, h.int())), rf"{STATE}int32 \[2, 4\]", id="a state's dtype"),
        pytest.param(Small(lambda x, h: (torch.log(x), h)), "outputs.y: expected finite numbers from", id="not finite"),
        pytest.param(Small(lambda x, h: (x - x.mean(0), h)), "outputs.y: expected a session's results", id="mixing"),
        pytest.param(Small(lambda x, h: (nn.functional.dropout(x), h)), f"module.part: {EQUAL} at random", id="random"),
        pytest.param(Remembering(), f"module: {EQUAL} at random, or keeps memory of its own instead of in states", id="memory"),
        pytest.param(Small(branching), f"{EXPORTS}File .*, in branching .* data-dependent", id="branches"),
        pytest.param(Small(lambda x, h: (x.reshape(2, 3), h)), f"{EXPORTS}Constraints violated .* constant", id="fixed batch"),
    ],
)
def test_what_is_no_step_function_is_refused(tmp_path: Path, module: Any, message: str) -> None:
    """One line says what was expected and what came, and nothing is written."""
    with pytest.raises(BundleError, match=f"^save: {message}") as refusal:
        save_program(tmp_path / "m", module, **DECLARED)
    assert "\n" not in str(refusal.value)
    assert module.training
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"inputs": {}}, "inputs: expected at least one, by name, got none"),
        ({"outputs": []}, "outputs: expected at least one, by name, got none"),
        ({"outputs": ["x"]}, "inputs, outputs and states: expected distinct names, got x twice"),
        ({"inputs": {"x": 3}}, "inputs.x: expected a shape, or an array of one step of one session, got int"),
        ({"inputs": {"x": (0,)}}, r"inputs.x: expected a shape, whose sizes are whole numbers above 0, or an array, got \[0\]"),
        (
            {"states": {"h": [0.5]}},
            r"states.h: expected a shape, whose sizes are whole numbers above 0, or an array, got \[0.5\]",
        ),
        ({"inputs": {"x": np.zeros(3, np.uint8)}}, "inputs.x: expected one of the dtypes float32, int32, int64, bool, got uint8"),
        ({"inputs": {"x": Input(np.float32(0), carry=2)}}, r"inputs.x.carry: expected 0, since the input is float32 \[\], got 2"),
        ({"inputs": {"x": Input((3,), limit=7)}}, r"inputs.x.limit: expected 0, since the input is float32 \[3\], got 7"),
        ({"inputs": {"x": Input(np.int64(0), range=7)}}, r"inputs.x.range: expected 0, since the input is int64 \[\], got 7"),
        ({"inputs": {"x": Input((3,), range=np.nan)}}, "inputs.x.range: expected 0 or more, got nan"),
        ({"license": "MIT"}, "license: expected licence, or another of the keywords name, version, description, "),
    ],
    ids=lambda value: "" if isinstance(value, str) else "-".join(value),
)
def test_declarations_that_cannot_be_are_refused(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    """The argument is named before the module is called."""
    with pytest.raises(BundleError, match=f"^save: {message}"):
        save_program(tmp_path / "m", Small(lambda x, h: (x, h)), **DECLARED | changed)
    assert not (tmp_path / "m").exists()


def test_the_module_is_the_one_in_python(tmp_path: Path) -> None:
    """That within a compiled one, which need not be compiled for it; what is none is refused."""
    module = Small(lambda x, h: (x, h))
    with warnings.catch_warnings(action="ignore"):  # of torch's own parts
        compiled = torch.compile(module)
    assert in_python(compiled) is module
    with pytest.raises(BundleError, match="^save: module: expected a torch.nn.Module that was not scripted, got int"):
        save_program(tmp_path / "m", 3, **DECLARED)  # type: ignore[arg-type]
