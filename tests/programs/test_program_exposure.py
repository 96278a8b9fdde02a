"""The range that is proposed is one in which nothing inside of a graph overflows, whatever the results look like."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest

from stepstream_server.errors import BundleError
from stepstream_server.programs.exposure import Exposed
from stepstream_server.programs.normalise import normalise
from stepstream_server.spec import StateSpec
from support.graphs import floats, graph, program

SPEC = program([floats("x", 1)], [StateSpec("h", (1,))], [floats("y", 1)])
TEXT = "g (float[B,1] x, float[B,1] h) => (float[B,1] y, float[B,1] hn) {{ {nodes} hn = Tanh(h) }}"


def exposed(nodes: str, range: float = 1e6) -> Exposed:
    """A graph of one input, whose output is y."""
    spec = replace(SPEC, inputs=(replace(SPEC.inputs[0], range=range),))
    constants = {"big": np.array(1e30, np.float32), "two": np.array(2, np.float32), "half": np.array(0.5, np.float32)}
    return Exposed(normalise(graph(TEXT.format(nodes=nodes), **constants), spec), spec)


@pytest.mark.parametrize(
    ("nodes", "widest"),
    [
        ("y = Tanh(x)", 1e6),
        ("e = Exp(x) y = Sigmoid(e)", 10.0),  # e^100 is infinite, and its sigmoid 1
        ("m = Mul(x, big) s = Mul(m, m) y = Sigmoid(s)", None),
        ("m = Mul(x, big) t = Mul(m, x) y = Sigmoid(t)", 1e4),
        ("n = Sub(half, x) l = Log(n) y = Sigmoid(l)", 0.1),  # a logarithm of what is negative
    ],
)
def test_the_widest_range(nodes: str, widest: float | None) -> None:
    """A value that is infinite or no number before a sigmoid is seen, though the result is plausible."""
    if widest is None:
        with pytest.raises(
            BundleError, match="expected finite values for inputs up to 0.001, got '.*', which is not finite in step 0"
        ):
            exposed(nodes).widest_range()
    else:
        assert exposed(nodes).widest_range() == widest


def test_the_first_value_that_is_not_finite_is_named() -> None:
    """At the range that the manifest says."""
    nodes = "e = Exp(x) y = Sigmoid(e)"
    assert exposed(nodes, range=10.0).fault() == ""
    assert "'brought/e', which is not finite in step 0" in exposed(nodes, range=1000.0).fault()


def test_branches_that_are_always_taken_are_seen_from_inside() -> None:
    """A branch that a constant decides is folded before the values are looked at."""
    branch = graph("g (float[1] x) => (float[B,1] w) { e = Exp(x) w = Sigmoid(e) }").graph
    del branch.input[:]
    model = graph("c (float[B,1] x, float[B,1] h) => (float[B,1] y, float[B,1] hn) { hn = Tanh(h) }", always=np.array(True))
    model.graph.node.append(onnx.helper.make_node("If", ["always"], ["y"], then_branch=branch, else_branch=branch))
    assert Exposed(normalise(model, SPEC), SPEC).widest_range() == 10.0
