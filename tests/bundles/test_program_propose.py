"""Drafts of manifests: what a file and some runs tell, what is guessed, and what cannot be a step function."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from stepstream_server.bundles import BundleError, Proposal, load, pack, propose
from stepstream_server.bundles.program.confinement import Confinement
from support.graphs import counting, graph, mixing

Drafted = tuple[dict[str, Any], Proposal]


def drafted(folder: Path, model: onnx.ModelProto | bytes, confinement: Confinement, **states: str) -> Drafted:
    """The manifest that is proposed for a graph, as a tree, and the proposal."""
    file = folder / "some model.onnx"
    file.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    proposal = propose(file, states, within=confinement)
    return json.loads(proposal.text), proposal


def packed_again(folder: Path, tree: dict[str, Any], confinement: Confinement) -> None:
    """A draft is a valid manifest of its file."""
    pack(folder / "some model.onnx", json.dumps(tree), folder / "packed", within=confinement)
    assert load(folder / "packed").spec.name == tree["name"]


def note_of(proposal: Proposal, field: str) -> str:
    """The line that is told of a field."""
    (note,) = [note for note in proposal.notes if note.startswith(f"{field}: ")]
    return note


def test_a_plain_file_needs_no_edit(tmp_path: Path, confinement: Confinement) -> None:
    """Names, shapes, states, batch axes, range and batching are found; the draft can be packed as it is."""
    tree, proposal = drafted(tmp_path, mixing()[1], confinement)
    assert tree["name"] == "some_model"
    (x,) = tree["inputs"]
    assert {key: x[key] for key in ("name", "tensor", "dtype", "shape", "batch_axis")} == {
        "name": "x",
        "tensor": "x",
        "dtype": "float32",
        "shape": [2],
        "batch_axis": 0,
    }
    assert x["range"] == 1e6  # nothing overflows
    assert tree["states"] == [{"name": "h", "read": "h", "written": "hn", "dtype": "float32", "shape": [8], "batch_axis": 0}]
    assert [(each["name"], each["shape"]) for each in tree["outputs"]] == [("y", [1])]
    assert note_of(proposal, "batching")
    assert note_of(proposal, "inputs[0].range").startswith("inputs[0].range: 1000000.0: the largest power of ten")
    packed_again(tmp_path, tree, confinement)


VAGUE = """
vague (float[p,q] input, float[2,r,3] state, int64 sr) => (float[s,t] output, float[u,v,w_] stateN) {
    sum = MatMul(input, w)
    rate = Cast<to=1>(sr)
    share = Div(sum, rate)
    stateN = Add(state, share)
    last = Gather<axis=0>(stateN, zero)
    output = ReduceMean<keepdims=1>(last, one)
}
"""


def test_what_a_file_does_not_say_is_found_by_runs(tmp_path: Path, confinement: Confinement) -> None:
    """Shapes without numbers, the middle axis as the batch's, a number for all sessions: as published detectors of voices are."""
    weights = {"w": np.ones((6, 3), np.float32), "zero": np.array(0), "one": np.array([1])}
    tree, proposal = drafted(tmp_path, graph(VAGUE, **weights), confinement)
    assert (tree["inputs"][0]["shape"], tree["inputs"][0]["batch_axis"]) == ([6], 0)
    assert (tree["states"][0]["shape"], tree["states"][0]["batch_axis"]) == ([2, 3], 1)
    assert (tree["outputs"][0]["shape"], tree["outputs"][0]["batch_axis"]) == ([1], 0)
    assert tree["constants"] == [{"tensor": "sr", "dtype": "int64", "shape": [], "value": 16000}]
    assert "the file does not say 6" in note_of(proposal, "inputs[0].shape")
    assert "check that it is not time" in note_of(proposal, "inputs[0].batch_axis")
    assert "put the right one" in note_of(proposal, "constants[0].value")
    packed_again(tmp_path, tree, confinement)


def test_other_sizes_that_a_graph_takes_are_told(tmp_path: Path, confinement: Confinement) -> None:
    """A person has to choose where several axes work."""
    text = """
    any (float[B,T] x, float[B,1] h) => (float[B,1] y, float[B,1] hn) {
        y = ReduceMean<keepdims=1>(x, one)
        hn = Add(h, y)
    }
    """
    tree, proposal = drafted(tmp_path, graph(text, one=np.array([1])), confinement)
    assert tree["inputs"][0]["shape"] == [1]
    assert "it takes 2, 4, 8, " in note_of(proposal, "inputs[0].shape")


def test_a_batch_fixed_at_one_is_set_free(tmp_path: Path, confinement: Confinement) -> None:
    """A file exported for one session that can compute several."""
    fixed = onnx.load_model_from_string(mixing()[1])
    for info in (*fixed.graph.input, *fixed.graph.output):
        info.type.tensor_type.shape.dim[0].dim_value = 1
    tree, _ = drafted(tmp_path, fixed, confinement)
    assert (tree["inputs"][0]["shape"], tree["states"][0]["shape"]) == ([2], [8])
    packed_again(tmp_path, tree, confinement)


def test_an_index_is_limited_by_its_table(tmp_path: Path, confinement: Confinement) -> None:
    """Rows of the weights that it chooses from; whole numbers that choose nothing have no limit."""
    text = """
    tokens (int64[B] token, float[B,3] h) => (float[B,3] y, float[B,3] hn) {
        column = Unsqueeze(token, one)
        flat = Squeeze(column, one)
        row = Gather(table, flat)
        hn = Add(row, h)
        y = Identity(hn)
    }
    """
    tree, proposal = drafted(tmp_path, graph(text, table=np.ones((7, 3), np.float32), one=np.array([1])), confinement)
    assert tree["inputs"][0]["limit"] == 7
    assert "the table" in note_of(proposal, "inputs[0].limit")
    tree, proposal = drafted(tmp_path, counting()[1], confinement)
    assert "limit" not in tree["inputs"][0]
    assert note_of(proposal, "inputs[0].limit").startswith("inputs[0].limit: none: ")


def test_a_state_that_is_the_only_output_is_told_as_one(tmp_path: Path, confinement: Confinement) -> None:
    """A bare cell."""
    text = "bare (float[B,2] x, float[B,2] h) => (float[B,2] hn) { sum = Add(x, h)\n hn = Tanh(sum) }"
    tree, _ = drafted(tmp_path, graph(text), confinement)
    assert [each["tensor"] for each in tree["outputs"]] == ["hn"]
    packed_again(tmp_path, tree, confinement)


def test_outputs_that_are_no_steps_are_left_out(tmp_path: Path, confinement: Confinement) -> None:
    """Outputs that do not grow with the batch are left out, and so are dtypes that no step answers."""
    text = """
    odd (float[B,2] x, float[B,2] h) => (float[B,2] y, float[B,2] hn, float[2] total, double[B,2] wide) {
        hn = Add(x, h)
        y = Tanh(hn)
        total = ReduceSum<keepdims=0>(hn, zero)
        wide = Cast<to=11>(hn)
    }
    """
    tree, proposal = drafted(tmp_path, graph(text, zero=np.array([0])), confinement)
    assert [each["tensor"] for each in tree["outputs"]] == ["y"]
    assert note_of(proposal, "total").startswith("total: left out")
    assert note_of(proposal, "wide").startswith("wide: left out")


def test_names_become_names_to_callers(tmp_path: Path, confinement: Confinement) -> None:
    """Such as a manifest can hold, each once."""
    text = """
    named (float[B,2] x, float[B,2] h) => (float[B,2] y, float[B,2] hn) { hn = Add(x, h)
        y = Tanh(hn) }
    """
    model = graph(text)
    for tensors, names in ((model.graph.input, ("1/audio:0", "h")), (model.graph.output, ("1/audio.0", "hn"))):
        for tensor, name in zip(tensors, names, strict=True):
            for node in model.graph.node:
                for values in (node.input, node.output):
                    values[:] = [name if value == tensor.name else value for value in values]
            tensor.name = name
    tree, _ = drafted(tmp_path, model, confinement)
    assert [tree[group][0]["name"] for group in ("inputs", "outputs")] == ["_1_audio_0", "_1_audio_0_2"]
    packed_again(tmp_path, tree, confinement)


def test_the_range_is_the_largest_at_which_nothing_overflows_inside(tmp_path: Path, confinement: Confinement) -> None:
    """Also where outputs would not show it: an exponential before a division by it."""
    text = """
    steep (float[B,1] x, float[B,1] h) => (float[B,1] y, float[B,1] hn) {
        e = Exp(x)
        both = Add(e, h)
        y = Sigmoid(both)
        hn = Mul(h, half)
    }
    """
    tree, _ = drafted(tmp_path, graph(text, half=np.array([0.5], np.float32)), confinement)
    assert tree["inputs"][0]["range"] == 10.0  # e^88 is the largest that float32 holds


def test_what_makes_results_depend_on_the_batch_is_told(tmp_path: Path, confinement: Confinement) -> None:
    """A sum over the sessions before: such a model is computed row by row."""
    text = """
    summed (float[B,2] x, float[B,2] h) => (float[B,2] y, float[B,2] hn) {
        y = CumSum(x, zero)
        sum = Add(h, y)
        hn = Tanh(sum)
    }
    """
    tree, proposal = drafted(tmp_path, graph(text, zero=np.array(0)), confinement)
    assert note_of(proposal, "batching").startswith("batching: one row per launch, since ")
    assert tree["outputs"][0]["shape"] == [2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("m (float[B,2] x) => (float[B,3] y) { y = MatMul(x, w) }", "expected states that are read and written; none was"),
        ("m (float[B,2] h) => (float[B,2] hn) { hn = Tanh(h) }", "expected an input that is no state"),
        ("m (double[B,2] x, float[B,2] h) => (float[B,2] hn) { hn = Tanh(h) }", "input 'x': expected one of float32, "),
        ("m (float[4,2] x, float[4,2] h) => (float[4,2] hn) { hn = Add(x, h) }", "no axis of x"),
        ("m (float[B,2] x, float[B,2] h) => (float[B,2] hn) { hn = RandomNormalLike(x) }", "it draws at random"),
    ],
)
def test_what_is_no_step_function_is_refused(tmp_path: Path, confinement: Confinement, text: str, message: str) -> None:
    """With the file's name and what was looked for."""
    with pytest.raises(BundleError, match=f"^some model.onnx: .*{message}"):
        drafted(tmp_path, graph(text, w=np.ones((2, 3), np.float32)), confinement)


def test_an_axis_of_time_is_not_taken_for_the_batch(tmp_path: Path, confinement: Confinement) -> None:
    """A graph that takes many steps of one session at once does not take the states of two."""
    text = """
    sequence (float[T,2] x, float[1,1,3] h) => (float[T,1,3] y, float[1,1,3] hn) {
        steps = Unsqueeze(x, one)
        every, hn = GRU<hidden_size=3>(steps, w, r, , , h)
        y = Squeeze(every, one)
    }
    """
    weights = {"w": np.ones((1, 9, 2), np.float32), "r": np.ones((1, 9, 3), np.float32), "one": np.array([1])}
    with pytest.raises(BundleError, match="no axis of x .* was found along which 2 and 3 sessions can lie"):
        drafted(tmp_path, graph(text, **weights), confinement)
