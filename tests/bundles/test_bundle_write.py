"""Writing bundles: whole or not at all, without torch."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors

from stepstream_server.bundles import Bundle, init_model, load, write
from stepstream_server.bundles.declare import declare
from stepstream_server.errors import BundleError
from stepstream_server.spec import CellModel, CellSpec, FeaturesFront, HeadSpec, ModelSpec, cell_model
from support.spoil import random_weights


class PowerCut(Exception):
    """Stands for a crash."""


def cut_before(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The next time a file is about to get `name`, the power fails."""
    replace = Path.replace

    def failing(self: Path, target: Path) -> Path:
        if target.name == name:
            raise PowerCut
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", failing)


def test_what_is_written_is_what_is_read(heart: Bundle, heart_spec: ModelSpec) -> None:
    """The spec survives the disk; only the fingerprint is added."""
    read = load(heart.path)
    assert read.spec == heart.spec
    assert dataclasses.replace(read.spec, fingerprint="") == heart_spec


def test_two_files_and_nothing_else_are_left(heart: Bundle) -> None:
    """A bundle is a manifest and its weights; temporary files are gone, and anyone may read it as files usually are."""
    assert sorted(file.name for file in heart.path.iterdir()) == ["model.json", "model.safetensors"]
    plain = heart.path.parent / "plain"
    plain.touch()
    assert {file.stat().st_mode for file in heart.path.iterdir()} == {plain.stat().st_mode}


@pytest.mark.parametrize("name", ["model.safetensors", "model.json"])
def test_a_crash_leaves_no_new_bundle(tmp_path: Path, heart_spec: ModelSpec, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Without its last rename a new bundle does not exist."""
    cut_before(monkeypatch, name)
    with pytest.raises(PowerCut):
        write(tmp_path / "new", heart_spec, random_weights(heart_spec))
    with pytest.raises(BundleError, match=r"new/model.json: expected a readable file"):
        load(tmp_path / "new")
    assert not list((tmp_path / "new").glob(".*"))  # what was written in vain is taken away


def test_a_crash_before_the_weights_leaves_the_old_bundle(
    heart: Bundle, heart_spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Replacing begins with the weights; until then nothing has changed."""
    cut_before(monkeypatch, "model.safetensors")
    with pytest.raises(PowerCut):
        write(heart.path, heart_spec, random_weights(heart_spec, seed=1))
    assert load(heart.path).spec == heart.spec


def test_a_crash_between_the_files_is_noticed(heart: Bundle, heart_spec: ModelSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    """New weights beside an old manifest never load."""
    cut_before(monkeypatch, "model.json")
    with pytest.raises(PowerCut):
        write(heart.path, heart_spec, random_weights(heart_spec, seed=1))
    with pytest.raises(BundleError, match=r"weights.sha256"):
        load(heart.path)


def test_a_bundle_is_replaced(heart: Bundle, heart_spec: ModelSpec) -> None:
    """Training again writes over what was there."""
    again = write(heart.path, heart_spec, random_weights(heart_spec, seed=1))
    assert again.spec.fingerprint != heart.spec.fingerprint
    assert load(heart.path).spec == again.spec


def test_what_could_not_be_loaded_is_not_written(tmp_path: Path, heart_spec: ModelSpec) -> None:
    """A wrong spec or wrong weights are refused while the folder does not even exist."""
    weights = random_weights(heart_spec)
    wrong_spec = dataclasses.replace(heart_spec, version=0)
    cell = cell_model(heart_spec).cell
    fronts = FeaturesFront(np.zeros(2), np.ones(2), True), FeaturesFront((0.0, float("nan")), (1.0, 1.0), True)  # type: ignore[arg-type]
    array, nan = (dataclasses.replace(heart_spec, computation=CellModel(cell, front)) for front in fronts)
    for spec, given, message in (
        (wrong_spec, weights, "^new/model.json: version: expected greater than or equal to 1, got 0"),
        (array, weights, "^new/model.json: expected plain numbers and text, got: Object of type ndarray"),
        (nan, weights, "^new/model.json: expected JSON, got NaN"),
        (heart_spec, weights | {"head.rate.bias": np.zeros(1)}, "^new/model.safetensors: head.rate.bias: expected float32"),
        (heart_spec, weights | {"head.rate.bias": np.zeros(2, np.float32)}, r"head.rate.bias: expected the shape \[1\]"),
    ):
        with pytest.raises(BundleError, match=message):
            write(tmp_path / "new", spec, given)
    assert not (tmp_path / "new").exists()


def test_whole_numbers_and_lists_are_taken_as_meant(tmp_path: Path) -> None:
    """An author's 0 for 0.0 or list for tuple gives the spec and the fingerprint that `load` gives."""
    front = FeaturesFront([0, 0], [1, 2])  # type: ignore[arg-type]
    spec = declare("m", CellSpec("gru", 2, 2, 1), [HeadSpec("y", "quantiles", 1, levels=[0.5])], front=front)  # type: ignore[arg-type]
    written = write(tmp_path / "m", spec, random_weights(spec))
    assert written.spec == load(tmp_path / "m").spec
    assert cell_model(written.spec).front == FeaturesFront((0.0, 0.0), (1.0, 2.0))


def test_a_folder_that_is_a_file_is_refused(tmp_path: Path, heart_spec: ModelSpec) -> None:
    """What the disk says arrives as the same kind of error."""
    (tmp_path / "file").write_text("")
    with pytest.raises(BundleError, match=r"expected a folder that can be written, got: .*File exists"):
        write(tmp_path / "file", heart_spec, random_weights(heart_spec))


def test_halves_are_returned_as_they_are_read(tmp_path: Path, heart: Bundle, heart_spec: ModelSpec) -> None:
    """Rounded to float16 and widened again: half the bytes on disk, and another model by its fingerprint."""
    halved = write(tmp_path / "half", heart_spec, heart.weights, half=True)
    read = load(halved.path)
    assert halved.spec == read.spec
    assert read.spec.fingerprint != heart.spec.fingerprint
    for name, tensor in heart.weights.items():
        assert halved.weights[name].dtype == np.float32
        np.testing.assert_array_equal(halved.weights[name], read.weights[name])
        np.testing.assert_array_equal(read.weights[name], tensor.astype(np.float16))
    sizes = [safetensors.deserialize((each.path / "model.safetensors").read_bytes()) for each in (halved, heart)]  # type: ignore[no-untyped-call]
    assert [{tensor["dtype"] for _, tensor in tensors} for tensors in sizes] == [{"F16"}, {"F32"}]


@pytest.mark.parametrize("value", [65520.0, -1e9])
def test_what_float16_cannot_hold_is_refused(tmp_path: Path, heart_spec: ModelSpec, value: float) -> None:
    """A weight that rounding would make infinite is named, and nothing is written."""
    weights = random_weights(heart_spec)
    weights["head.next.weight"][1, 2] = value
    message = rf"^m/model.safetensors: head.next.weight: expected numbers within ±65504, as float16 holds, got {value}$"
    with pytest.raises(BundleError, match=message):
        write(tmp_path / "m", heart_spec, weights, half=True)
    assert not (tmp_path / "m").exists()
    weights["head.next.weight"][1, 2] = 65519.0  # rounds down
    assert write(tmp_path / "m", heart_spec, weights, half=True).weights["head.next.weight"][1, 2] == 65504


@pytest.mark.parametrize(("kind", "gates"), [("lstm", 4), ("gru", 3), ("rnn", 1)])
@pytest.mark.parametrize("layers", [1, 2])
def test_initial_weights_are_distributed_as_torch_does(tmp_path: Path, kind: str, gates: int, layers: int) -> None:
    """U(-1/sqrt(H), 1/sqrt(H)) for every tensor, of the shapes that torch gives them."""
    bundle = init_model(tmp_path / "m", kind, inputs=3, hidden=64, layers=layers, outputs=2, seed=5)  # type: ignore[arg-type]
    assert len(bundle.weights) == 4 * layers + 2
    assert bundle.weights["cell.weight_ih_l0"].shape == (gates * 64, 3)
    for tensor in bundle.weights.values():
        assert np.abs(tensor).max() <= 1 / 8
    recurrent = bundle.weights["cell.weight_hh_l0"]
    assert np.abs(recurrent).max() > 0.99 / 8
    assert abs(recurrent.mean()) < 0.005
    assert abs(recurrent.std() - 1 / 8 / np.sqrt(3)) < 0.002


def test_an_initial_model_takes_its_folder_s_name(tmp_path: Path) -> None:
    """Tensors are named `input` and `output`, one regression head, version 1."""
    spec = load(init_model(tmp_path / "deep" / "big-1.0", "lstm", 16, 8, 2, 3, seed=0).path).spec
    assert (spec.name, spec.version) == ("big-1.0", 1)
    assert [(tensor.name, tensor.shape) for tensor in (*spec.inputs, *spec.outputs)] == [("input", (16,)), ("output", (3,))]
    assert [state.name for state in spec.states] == ["h", "c", "last.output"]


def test_the_seed_decides_every_byte(tmp_path: Path) -> None:
    """Equal seeds give equal fingerprints, other seeds other ones."""
    seeds = {"a": 1, "b": 1, "c": 2}
    fingerprints = [init_model(tmp_path / name, "rnn", 2, 4, 1, 1, seed).spec.fingerprint for name, seed in seeds.items()]
    assert fingerprints[0] == fingerprints[1] != fingerprints[2]


def test_sizes_are_refused_before_memory_is_taken(tmp_path: Path) -> None:
    """A slipped digit is an error, not a crash for want of memory."""
    with pytest.raises(BundleError, match=r"^m/model.json: cell.hidden_size: expected .* 16384, got 1000000000"):
        init_model(tmp_path / "m", "lstm", 1, 10**9, 1, 1, seed=0)
    with pytest.raises(BundleError, match=r"cell.kind: expected 'lstm', 'gru' or 'rnn', got \"lsmt\""):
        init_model(tmp_path / "m", "lsmt", 1, 1, 1, 1, seed=0)  # type: ignore[arg-type]
    with pytest.raises(BundleError, match=r"seed: expected 0 or more, got -1"):
        init_model(tmp_path / "m", "lstm", 1, 1, 1, 1, seed=-1)
    assert not (tmp_path / "m").exists()


def test_a_trained_bundle_is_not_overwritten_by_random_weights(heart: Bundle) -> None:
    """Making an initial model never costs an existing one."""
    with pytest.raises(BundleError, match=r"expected a folder without a bundle"):
        init_model(heart.path, "lstm", 1, 1, 1, 1, seed=0)
    assert load(heart.path).spec == heart.spec


def test_nothing_here_imports_torch(tmp_path: Path) -> None:
    """A CPU server makes, loads and describes bundles without torch."""
    program = (
        "import sys, pathlib; from stepstream_server.bundles import describe, init_model, load\n"
        f"describe(load(init_model(pathlib.Path({str(tmp_path / 'm')!r}), 'lstm', 1, 2, 1, 1, 0).path))\n"
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
