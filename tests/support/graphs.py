"""Step functions in ONNX written as text, and the specs of programs that they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from stepstream_server.programs import layout, normalise, runtime
from stepstream_server.programs.runtime import Sessions
from stepstream_server.spec import (
    Constant,
    GraphState,
    GraphTensor,
    HeadSpec,
    ModelSpec,
    Program,
    StateSpec,
    TensorSpec,
)

HEAD = '<ir_version: 10, opset_import: ["" : 20, "com.microsoft" : 1]>\n'


def graph(text: str, **initialisers: NDArray[Any]) -> onnx.ModelProto:
    """A model out of `name (inputs) => (outputs) { nodes }` as onnx.parser reads it, with further initialisers by name."""
    model = onnx.parser.parse_model(HEAD + text)
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in initialisers.items())
    return model


def program(
    inputs: Sequence[TensorSpec],
    states: Sequence[StateSpec],
    outputs: Sequence[TensorSpec],
    *,
    axes: Mapping[str, int] | None = None,
    carry: Mapping[str, int] | None = None,
    constants: Sequence[Constant] = (),
    predicts: str = "",
    kind: str = "regression",
    name: str = "program",
) -> ModelSpec:
    """The spec of a program whose tensors are named as in its graph, a state's new value with an `n` behind it.

    axes: batch axes that are not 0, by name of tensor or state. carry: by input. predicts, kind: of the first output.
    """
    axes, carry = axes or {}, carry or {}
    derived = [StateSpec(f"carry.{x.name}", (carry[x.name], *x.shape[1:]), x.dtype) for x in inputs if x.name in carry]
    if predicts or kind == "next_token":
        derived.append(StateSpec(f"last.{outputs[0].name}", outputs[0].shape))
    heads = [HeadSpec(y.name, "regression", y.elements) for y in outputs]
    heads[0] = HeadSpec(outputs[0].name, kind, outputs[0].elements, predicts=predicts)  # type: ignore[arg-type]
    return ModelSpec(
        name=name,
        version=1,
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        states=(*states, *derived),
        computation=Program(
            inputs=tuple(GraphTensor(x.name, axes.get(x.name, 0)) for x in inputs),
            carry=tuple(carry.get(x.name, 0) for x in inputs),
            states=tuple(GraphState(s.name, f"{s.name}n", axes.get(s.name, 0)) for s in states),
            outputs=tuple(GraphTensor(y.name, axes.get(y.name, 0)) for y in outputs),
            constants=tuple(constants),
        ),
        heads=tuple(heads),
        fingerprint=f"{name:0<64}"[:64],
    )


def floats(name: str, *shape: int, range: float = 1e6) -> TensorSpec:
    """A float32 input or output."""
    return TensorSpec(name, "float32", shape, range=range)


def sessions(model: onnx.ModelProto, spec: ModelSpec) -> Sessions:
    """The normalised graph on one thread."""
    made = runtime.session(normalise.normalise(model, spec), layout.feeds(spec))
    return Sessions(made, made)


# A model that counts in whole numbers: adds its input to a sum that begins at 100, and fails at the input 13.
COUNTING = """
counting (int32[B,1] x, int32[B,1] sum) => (int32[B,1] y, int32[B,1] sumn) {
    sumn = Add(x, sum)
    bad = Equal(x, thirteen)
    places = Where(bad, beyond, zero)
    nothing = Gather(zeros, places)
    y = Add(sumn, nothing)
}
"""


def counting(name: str = "counting") -> tuple[ModelSpec, bytes]:
    """The model of `COUNTING`: int32 [1] in and out, an int32 state that begins at 100."""
    x = TensorSpec("x", "int32", (1,))
    spec = program([x], [StateSpec("sum", (1,), "int32", (100,))], [TensorSpec("y", "int32", (1,))], name=name)
    whole = {
        "thirteen": np.array([13], np.int32),
        "beyond": np.array([9], np.int32),
        "zero": np.array([0], np.int32),
        "zeros": np.zeros(1, np.int32),
    }
    return spec, graph(COUNTING, **whole).SerializeToString()


# A recurrent layer without a kernel of its own: H numbers, one of which is told.
MIXING = """
mixing (float[B,2] x, float[B,H] h) => (float[B,1] y, float[B,H] hn) {
    fed = MatMul(x, w)
    kept = MatMul(h, r)
    both = Add(fed, kept)
    hn = Tanh(both)
    y = MatMul(hn, out)
}
"""


def mixing(hidden: int = 8, *, predicts: bool = False, name: str = "mixing") -> tuple[ModelSpec, bytes]:
    """The model of `MIXING`: float32 [2] in, [1] out, a float32 state; with predicts, of one number in."""
    rng = np.random.default_rng(hidden)
    inputs = 1 if predicts else 2
    text = MIXING.replace("float[B,2]", f"float[B,{inputs}]").replace("float[B,H]", f"float[B,{hidden}]")
    weights = {
        "w": rng.normal(size=(inputs, hidden)).astype(np.float32),
        "r": (rng.normal(size=(hidden, hidden)) / np.sqrt(hidden)).astype(np.float32),
        "out": rng.normal(size=(hidden, 1)).astype(np.float32),
    }
    reading = [floats("x", inputs, range=1e3)]
    spec = program(reading, [StateSpec("h", (hidden,))], [floats("y", 1)], predicts="x" if predicts else "", name=name)
    return spec, graph(text, **weights).SerializeToString()
