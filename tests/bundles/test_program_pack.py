"""Packing a graph and its manifest: all is tried first, in a process that a bad file may crash."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

from stepstream_server.bundles import Bundle, BundleError, init_model, load, pack, propose
from stepstream_server.bundles.program.confinement import Confinement
from stepstream_server.cli import app
from support.graphs import graph, mixing
from support.spoil import edit

STEEP = """
steep (float[B,1] x, float[B,1] h) => (float[B,1] y, float[B,1] hn) {
    e = Exp(x)
    both = Add(e, h)
    y = Sigmoid(both)
    hn = Mul(h, half)
}
"""
# Its first step divides by the state; a batch of no rows, which the runtime does not survive; gigabytes out of nothing.
DIVIDING = "m (float[B,1] x, float[B,1] h) => (float[B,1] y, float[B,1] hn) { y = Div(x, h)\n hn = Identity(h) }"
CRASHING = """
m (float[B,2] x, float[B,1] h) => (float[B,1] y, float[B,1] hn) {
    nobody = Slice(x, zero, zero)
    steps = Unsqueeze(nobody, zero)
    every = GRU<hidden_size=3>(steps, w, r)
    total = ReduceSum<keepdims=0>(every)
    hn = Add(h, total)
    y = Identity(hn)
}
"""
GREEDY = """
m (float[B,1] x, float[B,1] h) => (float[B,1] y, float[B,1] hn) {
    large = ConstantOfShape(size)
    total = ReduceSum<keepdims=0>(large)
    hn = Add(h, total)
    y = Add(x, hn)
}
"""
GRU = {"w": np.ones((1, 9, 2), np.float32), "r": np.ones((1, 9, 3), np.float32), "zero": np.array([0])}


def manifest(width: int = 1, **fields: Any) -> str:
    """That of the graphs above, whose tensors are x, h, y and hn."""
    tree = {
        "format_version": 2,
        "kind": "program",
        "name": "m",
        "inputs": [{"name": "x", "tensor": "x", "dtype": "float32", "shape": [width], "range": 1.0}],
        "states": [{"name": "h", "read": "h", "written": "hn", "shape": [1]}],
        "outputs": [{"name": "y", "tensor": "y", "shape": [1]}],
        "program": {"file": "model.onnx", "sha256": "0" * 64},
    }
    return json.dumps(tree | fields)


def saved(folder: Path, model: onnx.ModelProto | bytes) -> Path:
    """A graph on disk."""
    file = folder / "brought.onnx"
    file.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    return file


def refusal_of(folder: Path, model: onnx.ModelProto, text: str, confinement: Confinement) -> str:
    """The error of packing it; nothing is written."""
    with pytest.raises(BundleError) as refusal:
        pack(saved(folder, model), text, folder / "m", within=confinement)
    assert not (folder / "m").exists()
    return str(refusal.value)


def test_what_is_packed_is_what_is_read(tmp_path: Path, voice: Bundle, confinement: Confinement) -> None:
    """The file as it came, to the byte, and a manifest that says its checksum, whatever the draft said."""
    file = saved(tmp_path, voice.graph)
    edit(voice.path, "program", {"file": "elsewhere.onnx", "sha256": "0" * 64})
    packed = pack(file, (voice.path / "model.json").read_text(), tmp_path / "again", within=confinement)
    assert packed.warnings == []
    assert (tmp_path / "again" / "model.onnx").read_bytes() == voice.graph
    assert load(tmp_path / "again").spec == packed.bundle.spec == voice.spec


def test_values_in_other_files_are_brought_in(tmp_path: Path, confinement: Confinement) -> None:
    """A bundle of two files, however many the graph came in."""
    model = onnx.load_model_from_string(mixing()[1])
    onnx.save(model, tmp_path / "brought.onnx", save_as_external_data=True, location="brought.data", size_threshold=0)
    text = propose(tmp_path / "brought.onnx", within=confinement).text
    bundle = pack(tmp_path / "brought.onnx", text, tmp_path / "m", within=confinement).bundle
    assert sorted(file.name for file in bundle.path.iterdir()) == ["model.json", "model.onnx"]
    assert load(bundle.path).graph == bundle.graph
    values = [onnx.numpy_helper.to_array(each) for each in onnx.load_model_from_string(bundle.graph).graph.initializer]
    for value, expected in zip(values, onnx.load_model_from_string(mixing()[1]).graph.initializer, strict=True):
        np.testing.assert_array_equal(value, onnx.numpy_helper.to_array(expected))


def test_a_range_at_which_something_overflows_is_refused(tmp_path: Path, confinement: Confinement) -> None:
    """With the largest that holds: e^1000 is not finite, though the output, a sigmoid of it, would not show it."""
    model = graph(STEEP, half=np.array([0.5], np.float32))
    wide = manifest(inputs=[{"name": "x", "tensor": "x", "dtype": "float32", "shape": [1], "range": 1000.0}])
    assert refusal_of(tmp_path, model, wide, confinement).startswith(
        "model m: inputs: expected a range of at most 10, at which all values inside stay finite, got x 1000, at which"
    )
    pack(saved(tmp_path, model), manifest(), tmp_path / "m", within=confinement)


def test_a_first_step_that_is_not_finite_is_refused(tmp_path: Path, confinement: Confinement) -> None:
    """Zeros divided by a state of zeros; one that begins with ones is taken."""
    message = "model m: output.y: expected finite numbers in a session's first step, got others"
    assert refusal_of(tmp_path, graph(DIVIDING), manifest(), confinement) == message
    begun = manifest(states=[{"name": "h", "read": "h", "written": "hn", "shape": [1], "initial": 1}])
    pack(saved(tmp_path, graph(DIVIDING)), begun, tmp_path / "m", within=confinement)


def test_what_contradicts_the_graph_is_refused(tmp_path: Path, confinement: Confinement) -> None:
    """By the manifest's field or the file's tensor."""
    model = graph(STEEP, half=np.array([0.5], np.float32))
    for text, message in (
        (manifest(name=""), "model.json: name: expected string to match pattern"),
        (manifest(states=[]), "model.json: states: expected at least one"),
        (manifest(outputs=[{"name": "y", "tensor": "z", "shape": [1]}]), "brought.onnx: 'z': expected an output of the graph"),
        (manifest(width=2), "brought.onnx: 'x': expected the shape"),
        (manifest(outputs=[{"name": "y", "tensor": "y", "shape": [2]}]), "model m: "),
        ('{"format_version": 1}', "model.json: name: expected a value"),
    ):
        assert refusal_of(tmp_path, model, text, confinement).startswith(message)


def test_the_manifest_of_a_cell_is_refused(tmp_path: Path, confinement: Confinement) -> None:
    """Packing is for programs."""
    text = (init_model(tmp_path / "cell", "gru", 1, 2, 1, 1, seed=0).path / "model.json").read_text()
    message = "model.json: format_version: expected 2, a program's, got 1"
    assert refusal_of(tmp_path, graph(DIVIDING), text, confinement) == message


def test_one_row_per_launch_is_warned_of(tmp_path: Path, confinement: Confinement) -> None:
    """Results that depend on the batch are served all the same, at a price that its owner should know."""
    model = graph(DIVIDING.replace("Div(x, h)", "CumSum(x, zero)"), zero=np.array(0))
    (warning,) = pack(saved(tmp_path, model), manifest(), tmp_path / "m", within=confinement).warnings
    assert warning.startswith("it is computed one row per launch, since ")


def test_a_crash_of_the_runtime_ends_nobody_else(tmp_path: Path, confinement: Confinement) -> None:
    """It is told by its signal, and the next file is looked at."""
    text = manifest(width=2)
    crashed = "expected a graph that can be tried within 2048 MiB of memory, got one that crashed the runtime (SIGABRT)"
    assert refusal_of(tmp_path, graph(CRASHING, **GRU), text, confinement) == f"brought.onnx: {crashed}"
    assert propose(saved(tmp_path, mixing()[1]), within=confinement).text


def test_memory_is_bounded(tmp_path: Path, confinement: Confinement) -> None:
    """A graph that makes 16 GiB out of a few bytes does not get them."""
    model = graph(GREEDY, size=np.array([1 << 32]))
    said = refusal_of(tmp_path, model, manifest(), confinement)
    assert "alloc" in said or "MiB of memory" in said
    assert confinement.peak_bytes < 2 << 30


def test_time_is_bounded(tmp_path: Path) -> None:
    """Here to less than any file takes."""
    with Confinement(seconds=1e-6) as hasty:
        said = refusal_of(tmp_path, graph(DIVIDING), manifest(), hasty)
    assert said == "brought.onnx: expected a graph that can be tried within 1e-06 s, got one that takes longer"


def test_the_end_of_the_process_that_looks_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be killed, or never begin."""
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    with Confinement() as gone, pytest.raises(BundleError, match="the process that looks at graphs ended"):
        propose(saved(tmp_path, mixing()[1]), within=gone)


def test_a_file_cannot_steer_the_terminal(tmp_path: Path, confinement: Confinement) -> None:
    """Control characters in names of tensors are not told, neither in notes nor in errors."""
    file = saved(tmp_path, mixing()[1].replace(b"\x01h", b"\x01\x1b"))
    notes = propose(file, {"\x1b": "hn"}, within=confinement).notes
    assert any("is read, hn is written" in note for note in notes)
    assert all(note.isprintable() for note in notes)
    with pytest.raises(BundleError, match="expected an input of the graph, x,  , got z"):
        propose(file, {"z": "hn"}, within=confinement)


def test_a_file_that_is_not_there_is_named(tmp_path: Path, confinement: Confinement) -> None:
    """A broken program is passed over like any other bundle that cannot be read."""
    with pytest.raises(BundleError, match=r"^none.onnx: expected a readable file, got No such file"):
        propose(tmp_path / "none.onnx", within=confinement)


def test_the_commands_take_a_file_to_a_bundle(tmp_path: Path) -> None:
    """`propose` writes a manifest to stdout and what to check to stderr, `pack` takes it, `inspect` shows the trial."""
    file, draft, folder = saved(tmp_path, mixing()[1]), tmp_path / "model.json", tmp_path / "m"
    proposed = CliRunner().invoke(app, ["propose", str(file), "--state", "h=hn"])
    assert proposed.exit_code == 0
    assert json.loads(proposed.stdout)["states"][0]["written"] == "hn"
    assert "states[0]: h is read, hn is written: paired as you said; --state IN=OUT says others" in proposed.stderr.splitlines()
    draft.write_text(proposed.stdout)
    packed = CliRunner().invoke(app, ["pack", str(file), str(draft), str(folder)])
    assert (packed.exit_code, packed.stdout, packed.stderr) == (0, f"wrote {folder}\n", "")
    inspected = CliRunner().invoke(app, ["inspect", str(folder)])
    assert inspected.exit_code == 0
    facts = [" ".join(line.split()) for line in inspected.stdout.splitlines()]
    assert "program a step function that was brought as a graph in ONNX" in facts
    assert any(fact.startswith("batching ") for fact in facts)
    assert any(fact.startswith("largest batch ") for fact in facts)


def test_what_goes_wrong_is_one_line(tmp_path: Path) -> None:
    """Exit code 1 for a file that is refused, 2 for wrong usage."""
    file = saved(tmp_path, b"none")
    (tmp_path / "model.json").write_text(manifest())
    for arguments, code in (
        (["propose", str(file)], 1),
        (["pack", str(file), str(tmp_path / "model.json"), str(tmp_path / "m")], 1),
        (["pack", str(file), str(tmp_path / "none.json"), str(tmp_path / "m")], 1),
        (["propose", str(file), "--state", "h"], 2),
        (["propose"], 2),
    ):
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == code
        assert result.stdout == ""
        if arguments != ["propose"]:
            assert len(result.stderr.splitlines()) == 1
