"""A brought graph as the backend computes it: equal to the brought one run by hand, however its tensors lie."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from stepstream_server.programs import samples
from stepstream_server.programs.layout import results
from stepstream_server.programs.normalise import normalise
from stepstream_server.programs.samples import Arrays
from stepstream_server.spec import Constant, GraphState, GraphTensor, ModelSpec, Program, StateSpec, TensorSpec
from support.graphs import floats, graph, program, sessions


def step(model: onnx.ModelProto, spec: ModelSpec, fed: Arrays) -> Arrays:
    """One launch of the normalised graph."""
    names = results(spec)
    return dict(zip(names, sessions(model, spec).few.run(names, fed), strict=True))


def raw(model: onnx.ModelProto, **fed: samples.Array) -> Arrays:
    """One run of the brought graph as it is."""
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_outputs()]
    return dict(zip(names, session.run(names, fed), strict=True))


def test_batch_axes_and_dtypes_of_every_kind() -> None:
    """Batches along the first, a middle and the last axis; float, whole and true-or-false inputs, states and outputs."""
    model = graph(
        """all (float[B,3] x, int64[2,B] k, bool[B] on, float[2,B,3] h, int32[3,B] n, bool[B,2] seen)
        => (float[3,B] y, int64[B] z, float[2,B,3] hn, int32[3,B] nn, bool[B,2] seenn) {
        hn = Add(h, x)
        y = Transpose <perm = [1, 0]> (x)
        z = ReduceSum <keepdims = 0> (k, axis)
        nn = Add(n, one)
        flag = Unsqueeze(on, last)
        seenn = Or(seen, flag)
    }""",
        axis=np.array([0]),
        one=np.array([1], np.int32),
        last=np.array([1]),
    )
    spec = program(
        [floats("x", 3), TensorSpec("k", "int64", (2,), limit=9), TensorSpec("on", "bool", ())],
        [StateSpec("h", (2, 3)), StateSpec("n", (3,), "int32"), StateSpec("seen", (2,), "bool")],
        [TensorSpec("y", "float32", (3,)), TensorSpec("z", "int64", ())],
        axes={"k": 1, "h": 1, "n": 1, "y": 1},
    )
    rng = np.random.default_rng(0)
    x, k, on = rng.normal(size=(4, 3)).astype(np.float32), rng.integers(0, 9, (2, 4)), rng.integers(0, 2, 4).astype(bool)
    h, n = rng.normal(size=(2, 4, 3)).astype(np.float32), rng.integers(0, 9, (3, 4), np.int32)
    seen = rng.integers(0, 2, (4, 2)).astype(bool)
    expected = raw(model, x=x, k=k, on=on, h=h, n=n, seen=seen)
    found = step(model, spec, {
        "input.x": x[:, None], "input.k": k.T[:, None].copy(), "input.on": on[:, None],
        "state.float32": h.transpose(1, 0, 2).reshape(4, 6), "state.int32": n.T.copy(), "state.bool": seen,
    })  # fmt: skip
    np.testing.assert_array_equal(found["output.y"][:, 0], expected["y"].T)
    np.testing.assert_array_equal(found["output.z"][:, 0], expected["z"])
    np.testing.assert_array_equal(found["next_state.float32"], expected["hn"].transpose(1, 0, 2).reshape(4, 6))
    np.testing.assert_array_equal(found["next_state.int32"], expected["nn"].T)
    np.testing.assert_array_equal(found["next_state.bool"], expected["seenn"])


def test_constants_are_bound_also_inside_of_branches() -> None:
    """A constant is an initialiser, which a branch sees by its name."""
    inner = graph("g (float[1] x) => (float[B,1] w) { r = Cast <to = 1> (rate) w = Mul(x, r) }").graph
    other = graph("g (float[1] x) => (float[B,1] v) { v = Identity(x) }").graph
    for branch in (inner, other):
        del branch.input[:]
    model = graph("c (float[B,1] x, int64 rate, float[B,1] h) => (float[B,1] y, float[B,1] hn) { hn = Add(x, h) }")
    model.graph.node.append(onnx.helper.make_node("Greater", ["rate", "limit"], ["fast"]))
    model.graph.node.append(onnx.helper.make_node("If", ["fast"], ["y"], then_branch=inner, else_branch=other))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(8000), "limit"))
    for rate, factor in ((16000, 16000), (4000, 1)):
        constants = [Constant("rate", "int64", (), (rate,))]
        spec = program([floats("x", 1)], [StateSpec("h", (1,))], [floats("y", 1)], constants=constants)
        x = np.array([[[1.0]], [[2.0]]], np.float32)
        found = step(model, spec, {"input.x": x, "state.float32": np.zeros((2, 1), np.float32)})
        np.testing.assert_array_equal(found["output.y"], factor * x)


@pytest.mark.parametrize("carry", [1, 3, 7])
def test_the_last_values_of_an_input_stand_in_front_of_the_next(carry: int) -> None:
    """Zeros at first; where more are carried than a step brings, some have come before the last step."""
    length = carry + 3
    signature = f"sums (float[B,{length},2] x, float[B,1] h) => (float[B,2] y, float[B,1] hn)"
    text = f"{signature} {{ hn = Identity(h) y = ReduceSum<keepdims = 0>(x, axis) }}"
    spec = program([floats("x", 3, 2)], [StateSpec("h", (1,))], [floats("y", 2)], carry={"x": carry})
    model = graph(text, axis=np.array([1]))
    readings = np.random.default_rng(1).integers(0, 9, (2, 5 * 3, 2)).astype(np.float32)
    whole = np.concatenate([np.zeros((2, carry, 2), np.float32), readings], axis=1)
    states = samples.initial_states(spec, 2)
    assert states["state.float32"].shape == (2, 1 + carry * 2)
    for first in range(0, 15, 3):
        found = step(model, spec, {"input.x": readings[:, None, first : first + 3], **states})
        states = samples.carried_on(found)
        np.testing.assert_array_equal(found["output.y"][:, 0], whole[:, first : first + length].sum(axis=1))


def test_an_output_that_predicts_is_remembered() -> None:
    """It becomes a state of its own, which a rollout begins with."""
    model = graph("p (float[B,2] x, float[B,2] h) => (float[B,2] y, float[B,2] hn) { hn = Add(x, h) y = Neg(hn) }")
    spec = program([floats("x", 2)], [StateSpec("h", (2,))], [floats("y", 2)], predicts="x")
    found = step(model, spec, {"input.x": np.ones((1, 1, 2), np.float32), "state.float32": np.zeros((1, 4), np.float32)})
    assert found["next_state.float32"].tolist() == [[1, 1, -1, -1]]


def test_names_of_the_graph_may_be_ours() -> None:
    """A graph that names its tensors as the normalised one does, or as nodes around it are named, means its own."""
    model = graph("""own (float[B,1] a, float[B,1] b) => (float[B,1] c, float[B,1] d) { d = Add(a, b) c = Neg(d) }""")
    names = {"a": "state.float32", "b": "input.x", "c": "next_state.float32", "d": "constant.0"}
    for node in model.graph.node:
        node.input[:] = [names[name] for name in node.input]
        node.output[:] = [names[name] for name in node.output]
    for info in (*model.graph.input, *model.graph.output):
        info.name = names[info.name]
    spec = program([floats("x", 1)], [StateSpec("s", (1,))], [floats("y", 1)])
    assert isinstance(spec.computation, Program)
    computation = replace(
        spec.computation,
        inputs=(GraphTensor("state.float32"),),
        states=(GraphState("input.x", "constant.0"),),
        outputs=(GraphTensor("next_state.float32"),),
    )
    found = step(model, replace(spec, computation=computation), {
        "input.x": np.full((1, 1, 1), 3, np.float32), "state.float32": np.full((1, 1), 4, np.float32),
    })  # fmt: skip
    assert (found["output.y"].item(), found["next_state.float32"].item()) == (-7, 7)


def test_a_batch_that_was_fixed_at_one_session_is_freed() -> None:
    """Shapes that an exporter has noted inside are forgotten, where nothing was computed from them."""
    model = graph("f (float[1,2] x, float[1,2] h) => (float[1,2] y, float[1,2] hn) { hn = Add(x, h) y = Neg(hn) }")
    model.graph.value_info.append(onnx.helper.make_tensor_value_info("hn", 1, [1, 2]))
    spec = program([floats("x", 2)], [StateSpec("h", (2,))], [floats("y", 2)])
    found = step(model, spec, {"input.x": np.ones((3, 1, 2), np.float32), "state.float32": np.ones((3, 2), np.float32)})
    assert found["output.y"].shape == (3, 1, 2)


def test_the_brought_model_is_left_as_it_was() -> None:
    """Whoever holds it can go on with it."""
    model = graph("p (float[B,2] x, float[B,2] h) => (float[B,2] y, float[B,2] hn) { hn = Add(x, h) y = Neg(hn) }")
    before = model.SerializeToString(deterministic=True)
    normalise(model, program([floats("x", 2)], [StateSpec("h", (2,))], [floats("y", 2)]))
    assert model.SerializeToString(deterministic=True) == before
