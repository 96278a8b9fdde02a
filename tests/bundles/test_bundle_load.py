"""Weights and folders: what is read, and what is refused before anything serves."""

from __future__ import annotations

import hashlib
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save as encode

from stepstream_server.bundles import Bundle, init_model, load, load_all
from stepstream_server.errors import BundleError
from support.spoil import edit

Weights = dict[str, np.ndarray]


def put(bundle: Bundle, data: bytes) -> None:
    """Replaces the weights file and makes the checksum fit, so that only its content can be wrong."""
    (bundle.path / "model.safetensors").write_bytes(data)
    edit(bundle.path, "weights.sha256", hashlib.sha256(data).hexdigest())


def refusal_of(bundle: Bundle) -> str:
    """What loading it says."""
    with pytest.raises(BundleError) as refusal:
        load(bundle.path)
    return str(refusal.value)


def test_weights_are_read_as_written(heart: Bundle) -> None:
    """Every tensor comes back bit by bit, float32, in C order, writable and by its name."""
    read = load(heart.path)
    assert read.weights.keys() == heart.weights.keys()
    for name, tensor in read.weights.items():
        assert tensor.dtype == np.float32
        assert tensor.flags.c_contiguous
        assert tensor.flags.writeable  # torch warns about tensors over memory that is not
        np.testing.assert_array_equal(tensor, heart.weights[name])


def test_a_missing_folder_names_the_manifest(tmp_path: Path) -> None:
    """What is not there is named."""
    with pytest.raises(BundleError, match=r"^none/model.json: expected a readable file, got No such file"):
        load(tmp_path / "none")


def test_missing_weights_are_named(heart: Bundle) -> None:
    """A manifest without its weights is refused."""
    (heart.path / "model.safetensors").unlink()
    assert refusal_of(heart).startswith("heart/model.safetensors: expected a readable file")


def test_a_changed_byte_is_noticed(heart: Bundle) -> None:
    """The checksum covers every byte of the weights."""
    file = heart.path / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    assert refusal_of(heart).startswith("heart/model.json: weights.sha256: expected ")


@pytest.mark.parametrize("length", [0, 7, 8, 100, -1])
def test_truncated_weights_are_refused(heart: Bundle, length: int) -> None:
    """A file cut anywhere is no safetensors file, even where the checksum was made for it."""
    put(heart, (heart.path / "model.safetensors").read_bytes()[:length])
    assert refusal_of(heart).startswith("heart/model.safetensors: expected a safetensors file, got ")


def test_a_missing_tensor_is_named(heart: Bundle) -> None:
    """Each tensor that the manifest's sizes ask for must be there."""
    put(heart, encode({name: tensor for name, tensor in heart.weights.items() if name != "cell.bias_hh_l1"}))
    assert refusal_of(heart).startswith("heart/model.safetensors: cell.bias_hh_l1: expected a float32 tensor [16], got")


def test_an_extra_tensor_is_named(heart: Bundle) -> None:
    """A tensor that nothing reads hints at a model that is not the declared one."""
    put(heart, encode(heart.weights | {"cell.weight_hr_l0": np.zeros((2, 4), np.float32)}))
    assert refusal_of(heart).startswith("heart/model.safetensors: cell.weight_hr_l0: expected no tensor of this name, got [2, 4]")


@pytest.mark.parametrize("shape", [(16, 3), (4, 16), (64,), (16, 4, 1)])
def test_a_misshapen_tensor_is_named(heart: Bundle, shape: tuple[int, ...]) -> None:
    """Shapes count, not only sizes."""
    put(heart, encode(heart.weights | {"cell.weight_hh_l0": np.zeros(shape, np.float32)}))
    expected = f"heart/model.safetensors: cell.weight_hh_l0: expected the shape [16, 4], got {list(shape)}"
    assert refusal_of(heart) == expected


@pytest.mark.parametrize("dtype", [np.float64, np.int32, np.int8])
def test_other_dtypes_are_refused(heart: Bundle, dtype: type) -> None:
    """Weights are float32 or float16; nothing else is converted silently."""
    put(heart, encode(heart.weights | {"head.rate.bias": np.zeros(1, dtype)}))
    assert refusal_of(heart).startswith("heart/model.safetensors: head.rate.bias: expected one of the dtypes ['F16', 'F32'], got")


def test_halves_are_widened(heart: Bundle) -> None:
    """float16 on disk is float32 in memory, value by value."""
    halves = {name: tensor.astype(np.float16) for name, tensor in heart.weights.items()}
    put(heart, encode(halves))
    for name, tensor in load(heart.path).weights.items():
        assert tensor.dtype == np.float32
        np.testing.assert_array_equal(tensor, halves[name])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_must_be_finite(heart: Bundle, value: float) -> None:
    """One number that is not finite would poison every session; it is found before any is opened."""
    spoilt = heart.weights["head.next.weight"].copy()
    spoilt[1, 2] = value
    put(heart, encode(heart.weights | {"head.next.weight": spoilt}))
    assert refusal_of(heart).startswith("heart/model.safetensors: head.next.weight: expected finite numbers, got")


def test_a_file_larger_than_its_tensors_is_not_read(heart: Bundle) -> None:
    """A weights file far beyond what the manifest declares is refused by its size alone."""
    with (heart.path / "model.safetensors").open("r+b") as file:
        file.truncate(1 << 40)  # sparse: takes no disk, would take a terabyte of memory
    assert refusal_of(heart).startswith("heart/model.safetensors: expected at most ")


def test_a_folder_is_loaded_whole_and_in_order(tmp_path: Path) -> None:
    """Every sub-folder with a manifest is served, by name and version; hidden folders are left out, others are told of."""
    for name in ("b", "a", "..data"):
        init_model(tmp_path / name, "gru", 1, 2, 1, 1, seed=0) if name != "..data" else None
    (tmp_path / "notes").mkdir()
    (tmp_path / "readme.txt").write_text("models")
    (tmp_path / "..data").symlink_to(tmp_path / "b")  # as a Kubernetes volume has it
    (tmp_path / "lost+found").symlink_to("x" * 300)  # what is in it cannot be looked for, whoever looks
    folder = load_all(tmp_path, strict=True)
    assert [bundle.spec.name for bundle in folder.bundles] == ["a", "b"]
    none = "it has no model.json"
    assert folder.others == {"lost+found": "File name too long", "notes": none, "readme.txt": none}
    assert not folder.broken


def test_versions_of_one_model_live_side_by_side(tmp_path: Path) -> None:
    """The pair of name and version is what must be unique, and versions are ordered as numbers."""
    for folder, version in (("m", 10), ("m-old", 9)):
        init_model(tmp_path / folder, "gru", 1, 2, 1, 1, seed=0)
        edit(tmp_path / folder, "name", "m")
        edit(tmp_path / folder, "version", version)
    assert [(bundle.spec.name, bundle.spec.version) for bundle in load_all(tmp_path, strict=True).bundles] == [
        ("m", 9),
        ("m", 10),
    ]


def test_two_of_one_name_and_version_are_refused(tmp_path: Path) -> None:
    """Nobody could tell which of them answers; unless the server is to be strict, the first one does."""
    for name in ("one", "two"):
        init_model(tmp_path / name, "gru", 1, 2, 1, 1, seed=0)
    edit(tmp_path / "two", "name", "one")
    why = r'^two/model.json: name, version: expected a pair that one does not .*, got \["one", 1\]'
    with pytest.raises(BundleError, match=why):
        load_all(tmp_path, strict=True)
    folder = load_all(tmp_path, strict=False)
    assert [bundle.path.name for bundle in folder.bundles] == ["one"]
    assert re.match(why, str(folder.broken["two"]))


def test_one_broken_bundle_stops_the_whole_folder_only_where_that_is_wanted(tmp_path: Path) -> None:
    """Otherwise the others are served, if there are any, and file and field are told."""
    for name in ("good", "bad"):
        init_model(tmp_path / name, "gru", 1, 2, 1, 1, seed=0)
    edit(tmp_path / "bad", "cell.layers", 2)
    why = r"^bad/model.json: states\[0\]"
    with pytest.raises(BundleError, match=why):
        load_all(tmp_path, strict=True)
    folder = load_all(tmp_path, strict=False)
    assert [bundle.spec.name for bundle in folder.bundles] == ["good"]
    assert list(folder.broken) == ["bad"]
    assert re.match(why, str(folder.broken["bad"]))
    shutil.rmtree(tmp_path / "good")
    with pytest.raises(BundleError, match=why):
        load_all(tmp_path, strict=False)


def test_a_folder_without_bundles_is_refused(tmp_path: Path) -> None:
    """Serving nothing is a mistake; naming a bundle instead of its parent is told apart."""
    with pytest.raises(BundleError, match="expected a folder of bundles, got nothing"):
        load_all(tmp_path / "none", strict=False)
    with pytest.raises(BundleError, match=r"expected at least one folder with a model.json, got none$"):
        load_all(tmp_path, strict=False)
    bundle = init_model(tmp_path / "m", "rnn", 1, 2, 1, 1, seed=0)
    with pytest.raises(BundleError, match="it is itself a bundle: name the folder that contains it"):
        load_all(bundle.path, strict=False)
