"""The trial finds how many rows a launch must have: known faults are planted into graphs, and it finds each."""

from __future__ import annotations

import re
import tracemalloc
from collections.abc import Callable

import numpy as np
import onnx
import pytest

from stepstream_server.errors import BundleError
from stepstream_server.programs import trial
from stepstream_server.programs.buffer_end import dependent_operator
from stepstream_server.programs.normalise import normalise
from stepstream_server.programs.trial import Trial, try_batches
from stepstream_server.spec import StateSpec
from support.graphs import floats, graph, mixing, program, sessions

SPEC = program([floats("x", 3)], [StateSpec("h", (3,))], [floats("y", 3)])
# Where `wrong` is not 0, results are not what they should be.
FAULTY = """
faulty (float[B,3] x, float[B,3] h) => (float[B,3] y, float[B,3] hn) {{
    shape = Shape(x)
    rows = Gather(shape, zero)
    {wrong}
    off = Cast <to = 1> (wrong)
    sum = Add(x, h)
    kept = Tanh(sum)
    hn = Add(kept, off)
    y = Identity(hn)
}}
"""
CONSTANTS = {f"n{number}": np.array(number) for number in (0, 1, 2, 4, 8, 64, 256)}


def faulty(wrong: str) -> onnx.ModelProto:
    """A graph that gives other numbers where the number of rows is such that `wrong` is true."""
    return graph(FAULTY.format(wrong=wrong), zero=np.array(0), **CONSTANTS)


def ticking(seconds: float) -> Callable[[], float]:
    """A clock that has moved on whenever somebody looks at it."""
    now = 0.0

    def clock() -> float:
        nonlocal now
        now += seconds
        return now

    return clock


def tried(model: onnx.ModelProto, *, operator: str = "", most: int = 64, seconds: float = 60.0, tick: float = 0.0) -> Trial:
    """The trial of a graph of three numbers; the clock moves on by `tick` seconds whenever it is looked at."""
    return try_batches(sessions(model, SPEC), SPEC, operator=operator, most=most, seconds=seconds, clock=ticking(tick))


def test_rows_that_do_not_know_of_each_other_may_be_any_number() -> None:
    """The usual case; and no launch is larger than what was tried."""
    model = faulty("wrong = Less(rows, n0)")
    assert tried(model)[:2] == (1, 64)
    assert tried(model, most=100)[:2] == (1, 64)
    assert tried(model, most=5)[:2] == (1, 5)


@pytest.mark.parametrize(
    ("wrong", "multiple"),
    [
        ("wrong = Equal(rows, n1)", 2),  # as kernels that have a path of its own for one row
        ("rest = Mod(rows, n2) wrong = Greater(rest, n0)", 2),
        ("rest = Mod(rows, n4) wrong = Greater(rest, n0)", 4),
        ("rest = Mod(rows, n8) wrong = Greater(rest, n0)", 8),
        ("wrong = Less(rows, n4)", 4),
    ],
)
def test_launches_of_a_multiple_of_rows(wrong: str, multiple: int) -> None:
    """Numbers of rows that give other bits are left out by padding."""
    assert tried(faulty(wrong))[:2] == (multiple, 64)


def test_many_rows_that_take_another_path_are_not_launched() -> None:
    """Launches stay below the size from which results differ."""
    assert tried(faulty("wrong = GreaterOrEqual(rows, n64)"), most=1024)[:2] == (1, 32)


@pytest.mark.parametrize(
    ("nodes", "why"),
    [
        # One scale over the whole batch, as dynamic quantisation takes it.
        ("largest = ReduceMax <keepdims = 0> (x) y = Div(x, largest) hn = Add(x, h)", "a session's results"),
        # The axis is time: each row depends on those before.
        ("y = CumSum(x, zero) hn = Add(x, h)", "its place among 2 rows: the axis may be time, not the batch"),
        # A batch that an exporter has fixed within.
        ("flat = Reshape(x, three) y = Reshape(flat, row) hn = Add(x, h)", "cannot be reshaped to the requested shape"),
    ],
)
def test_one_row_per_launch_where_no_number_will_do(nodes: str, why: str) -> None:
    """And the reason is told."""
    text = f"g (float[B,3] x, float[B,3] h) => (float[B,3] y, float[B,3] hn) {{ {nodes} }}"
    model = graph(text, zero=np.array(0), three=np.array([3]), row=np.array([1, 3]))
    found = tried(model)
    assert found[:2] == (0, 1)
    assert re.search(why, found.reason)


def test_a_step_that_fails_by_itself_is_refused() -> None:
    """With the runtime's own words."""
    model = graph(
        "g (float[B,3] x, float[B,3] h) => (float[B,3] y, float[B,3] hn) { y = Gather <axis = 1> (x, nine) hn = Add(x, h) }",
        nine=np.array([9, 9, 9]),
    )
    with pytest.raises(BundleError, match="model program: 40 steps of one session fail: .*indices element out of data bounds"):
        tried(model)


def test_outputs_of_another_shape_are_refused() -> None:
    """The manifest says 3 numbers, the graph gives 4."""
    model = graph(
        "g (float[B,3] x, float[B,3] h) => (float[B,4] y, float[B,3] hn) { y = Gather <axis = 1> (x, four) hn = Add(x, h) }",
        four=np.array([0, 1, 2, 2]),
    )
    with pytest.raises(BundleError, match="model program: 40 steps of one session fail: "):
        tried(model)


def test_time_ends_the_trial_once_the_least_has_been_tried() -> None:
    """A model that is slow on this machine has small batches."""
    model = faulty("wrong = Less(rows, n0)")
    assert tried(model, seconds=0.0)[:2] == (1, 1)
    assert tried(model, operator="Log", seconds=0.0)[:2] == (8, 8)
    few = tried(model, most=1024, seconds=30.0, tick=1.0)
    assert few.multiple == 1
    assert 1 < few.max_batch < 1024
    assert few.limit == "larger ones take longer to try than backend.trial_seconds, 30"


@pytest.mark.parametrize("most", [1, 4, 7])
def test_the_multiple_does_not_depend_on_the_largest_batch_that_is_wanted(most: int) -> None:
    """Launches below the multiple are padded to it; the axis that is time shows even where one row is launched."""
    assert tried(faulty("wrong = Less(rows, n0)"), operator="Log", most=most)[:2] == (8, most)
    assert tried(faulty("wrong = Less(rows, n4)"), most=most)[:2] == (4, most)
    text = "g (float[B,3] x, float[B,3] h) => (float[B,3] y, float[B,3] hn) { y = CumSum(x, zero) hn = Add(x, h) }"
    assert tried(graph(text, zero=np.array(0)), most=most)[:2] == (0, 1)


def test_large_inputs_and_states_are_tried_within_memory() -> None:
    """Samples are bounded, and launches are as large as is worth it: 8 MB of a row are far more than is held for each."""
    text = "g (float[B,N] x, float[B,N] h) => (float[B,1] y, float[B,N] hn) { hn = Add(x, h) y = ReduceMax (x, one) }"
    size = 1 << 20
    model = graph(text.replace("N", str(size)), one=np.array([1]))
    spec = program([floats("x", size)], [StateSpec("h", (size,))], [floats("y", 1)])
    made = sessions(model, spec)
    tracemalloc.start()
    try:
        found = try_batches(made, spec, operator="", most=1024, seconds=0.0)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found[:2] == (1, 1)
    assert peak < 512 << 20


def test_larger_launches_than_are_worth_it_are_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here 48 bytes of a row, of which 1,000 may be moved; the reason is told, since there are few."""
    monkeypatch.setattr(trial, "_LAUNCH_BYTES", 1000)
    found = tried(faulty("wrong = Less(rows, n0)"), most=1024)
    assert found[:2] == (1, 16)
    assert found.is_small
    assert found.limit == "larger ones would move more than 0 MiB"


def test_operators_whose_bits_depend_on_the_end_of_a_buffer() -> None:
    """They ask for a multiple of 8 rows, unless every row is whole vectors."""
    for width, operator in ((3, "Softplus"), (16, ""), (33, "Softplus"), (64, "")):
        spec = program([floats("x", width)], [StateSpec("h", (width,))], [floats("y", width)])
        text = "g (float[B,W] x, float[B,W] h) => (float[B,W] y, float[B,W] hn) { y = Softplus(x) hn = Add(x, h) }"
        normalised = normalise(graph(text.replace("W", f"{width}")), spec)
        assert dependent_operator(normalised) == operator
    spec, plain = mixing()
    assert dependent_operator(normalise(onnx.ModelProto.FromString(plain), spec)) == ""


def test_such_operators_inside_of_a_branch_count() -> None:
    """No shape is known there."""
    branch = graph("g (float[1] x) => (float[B,16] w) { w = Log(x) }").graph
    del branch.input[:]
    signature = "c (float[B,16] x, float[B,1] h) => (float[B,16] y, float[B,1] hn)"
    nodes = "hn = Identity(h) s = Shape(h) z = Gather(s, zero) big = Greater(z, zero)"
    model = graph(f"{signature} {{ {nodes} }}", zero=np.array(0))
    model.graph.node.append(onnx.helper.make_node("If", ["big"], ["y"], then_branch=branch, else_branch=branch))
    spec = program([floats("x", 16)], [StateSpec("h", (1,))], [floats("y", 16)])
    assert dependent_operator(normalise(model, spec)) == "Log"
