"""Graphs that cannot be served are refused with the reason, and manifests that do not fit their graph with both sides of it."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

from stepstream_server.errors import BundleError
from stepstream_server.programs.screen import screen, screen_operators
from stepstream_server.spec import Constant, ModelSpec, StateSpec, TensorSpec
from support.graphs import HEAD, floats, graph, program

TEXT = "plain (float[B,2] x, float[3,B,2] h) => (float[B,2] y, float[3,B,2] hn) { hn = Add(x, h) y = Identity(x) }"


def plain(**other: object) -> ModelSpec:
    """The spec that fits `TEXT`, or one that does not."""
    parts = {
        "inputs": [floats("x", 2)],
        "states": [StateSpec("h", (3, 2))],
        "outputs": [floats("y", 2)],
        "axes": {"h": 1},
        **other,
    }
    return program(**parts)  # type: ignore[arg-type]


def test_what_fits_passes() -> None:
    """Graph and manifest agree; a domain that is named and never used does no harm."""
    model = graph(TEXT)
    model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 3))
    screen(model, plain(), "m/model.onnx")


@pytest.mark.parametrize(
    ("node", "why"),
    [
        ("y = RandomNormalLike(x)", "RandomNormalLike is not served: it draws at random"),
        ("y = Bernoulli(x)", "Bernoulli is not served: it draws at random"),
        ("y = NonZero(x)", "NonZero is not served: its output has a shape that depends on values"),
        ("y = Unique(x)", "Unique is not served: its output has a shape"),
        ("y = SequenceEmpty()", "SequenceEmpty is not served: its values are no numbers"),
        ("y = Optional(x)", "Optional is not served: its values are no numbers"),
        ("y = StringNormalizer(x)", "StringNormalizer is not served: its values are no numbers"),
        ("y = own.Layer(x)", "expected an operator of ONNX or com.microsoft, got one of 'own'"),
        ("y = com.microsoft.BeamSearch(x)", "BeamSearch is not served: it may run for ever"),
        ("y = Dropout(x, ratio, training)", "expected a Dropout without training_mode"),
    ],
)
def test_operators_that_cannot_be_served(node: str, why: str) -> None:
    """Each is named with the reason, also inside of a branch."""
    outside = graph("g (float[B,1] x) => (float[B,1] y) { " + node + " }")
    branch = onnx.GraphProto()
    branch.CopyFrom(outside.graph)
    del branch.input[:]
    inside = graph("g (bool[1] c, float[B,1] x) => (float[B,1] z) { z = Identity(x) }")
    inside.graph.node.append(helper.make_node("If", ["c"], ["w"], then_branch=branch, else_branch=branch))
    for model in (outside, inside):
        with pytest.raises(BundleError, match=f"^f: node '.*': {why}"):
            screen_operators(model, "f")


def test_loops_are_refused() -> None:
    """Nobody could tell how long a step takes."""
    body = graph("b (int64 i, bool c, float[1] a) => (bool d, float[1] e) { d = Identity(c) e = Identity(a) }").graph
    model = graph("g (int64 n, bool c, float[1] x) => (float[1] y) { y = Identity(x) }")
    model.graph.node.append(helper.make_node("Loop", ["n", "c", "x"], ["z"], body=body))
    with pytest.raises(BundleError, match="Loop is not served: it may run for ever"):
        screen_operators(model, "f")


def test_old_operators_are_refused_with_the_remedy() -> None:
    """Before opset 13 the operators that are put around the graph had another form."""
    with pytest.raises(BundleError, match=r"opset: expected 13 or later, got 12; onnx.version_converter"):
        screen_operators(onnx.parser.parse_model(HEAD.replace("20", "12") + TEXT), "f")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (plain(inputs=[floats("z", 2)]), "'z': expected an input of the graph, which are 'x', 'h'"),
        (plain(outputs=[floats("z", 2)]), "'z': expected an output of the graph, which are 'y', 'hn'"),
        (
            plain(inputs=[TensorSpec("x", "int64", (2,))]),
            "'x': expected float32, as the graph declares, got int64 in the manifest",
        ),
        (plain(outputs=[TensorSpec("y", "bool", (2,))]), "'y': expected float32, as the graph declares, got bool"),
        (plain(inputs=[floats("x", 3)]), r"'x': expected the shape \['\?', 2\], as the graph declares, got \['B', 3\]"),
        (plain(inputs=[floats("x", 2, 1)]), r"'x': expected the shape \['\?', 2\], as the graph declares, got \['B', 2, 1\]"),
        (plain(axes={}), r"'h': expected the shape \[3, '\?', 2\], as the graph declares, got \['B', 3, 2\]"),
        (plain(carry={"x": 1}), r"'x': expected the shape \['\?', 2\], as the graph declares, got \['B', 3\]"),
        (plain(states=[]), "input 'h': expected it among the manifest's inputs, states or constants, got none"),
        (
            plain(constants=[Constant("rate", "int64", (), (16000,))]),
            "'rate': expected an input of the graph, which are 'x', 'h'",
        ),
    ],
)
def test_manifests_that_do_not_fit(spec: ModelSpec, message: str) -> None:
    """Tensors that are not there, other dtypes, shapes and axes, and inputs that nobody feeds."""
    with pytest.raises(BundleError, match=f"^m/model.onnx: {message}"):
        screen(graph(TEXT), spec, "m/model.onnx")


def test_an_element_type_that_steps_do_not_have_comes_with_a_remedy() -> None:
    """Halves and doubles are cast in the graph."""
    half = graph(TEXT.replace("float[B,2] x", "float16[B,2] x"))
    with pytest.raises(BundleError, match="'x': expected float16, .* got float32 in the manifest; steps take and give .* a Cast"):
        screen(half, plain(), "f")


def test_an_axis_of_one_may_be_the_batch() -> None:
    """An exporter may have fixed the batch at one session; whether it can be more is tried later."""
    screen(graph(TEXT.replace("B", "1")), plain(), "f")


@pytest.mark.parametrize(
    "nodes",
    [
        "w = Range(zero, n, one) y = ReduceSum <keepdims = 0> (w)",
        "w = ConstantOfShape(n) y = ReduceSum <keepdims = 0> (w)",
        "m = Add(n, one) w = Expand(one, m) y = ReduceSum <keepdims = 0> (w)",
    ],
)
def test_sizes_that_a_caller_would_say_are_refused(nodes: str) -> None:
    """He could claim any memory; sizes that follow from shapes are those of every step."""
    text = f"g (int64[B] n, int64[B] h) => (int64[B] y, int64[B] hn) {{ {nodes} hn = Add(n, h) }}"
    spec = program([TensorSpec("n", "int64", ())], [StateSpec("h", (), "int64")], [TensorSpec("y", "int64", ())])
    with pytest.raises(BundleError, match="expected sizes that do not depend on inputs or states, got "):
        screen(graph(text, zero=np.array(0), one=np.array(1)), spec, "model.onnx")
    by_shape = "s = Shape(n) w = ConstantOfShape(s) c = Cast <to = 7> (w) y = Add(n, c)"
    screen(graph(text.replace(nodes, by_shape), zero=np.array(0), one=np.array(1)), spec, "model.onnx")
