"""Files of programs: what is read, what is refused before anything serves, and how they are written."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnx.external_data_helper
import pytest

from stepstream_server.bundles import Bundle, BundleError, describe, init_model, load, load_all, write_program
from stepstream_server.spec import ModelSpec
from support.graphs import graph
from support.spoil import REMOVED, edit

DIGEST = hashlib.sha256(b"").hexdigest()


def refusal_of(bundle: Bundle) -> str:
    """The error of loading it."""
    with pytest.raises(BundleError) as refusal:
        load(bundle.path)
    return str(refusal.value)


def put(bundle: Bundle, data: bytes) -> None:
    """Replaces the graph and makes the checksum fit, so that only its content can be wrong."""
    (bundle.path / "model.onnx").write_bytes(data)
    edit(bundle.path, "program.sha256", hashlib.sha256(data).hexdigest())


def keep_beside(bundle: Bundle, *names: str) -> None:
    """Has the graph keep its first initialisers in other files, as exporters do with large ones, and the manifest name them."""
    model = onnx.load(bundle.path / "model.onnx")
    for name, tensor in zip(names, model.graph.initializer, strict=False):
        (bundle.path / name).write_bytes(tensor.raw_data)
        onnx.external_data_helper.set_external_data(tensor, name)
        tensor.ClearField("raw_data")
    put(bundle, model.SerializeToString())
    data = [{"file": name, "sha256": hashlib.sha256((bundle.path / name).read_bytes()).hexdigest()} for name in names]
    edit(bundle.path, "program.data", data)


def test_a_program_is_read_as_written(voice: Bundle, voice_spec: ModelSpec) -> None:
    """The spec survives the disk, only the fingerprint is added; the file of the graph is the one that came."""
    read = load(voice.path)
    assert read.spec == voice.spec
    assert dataclasses.replace(read.spec, fingerprint="") == voice_spec
    assert read.graph == voice.graph == (voice.path / "model.onnx").read_bytes()
    assert read.weights == {}
    assert sorted(file.name for file in voice.path.iterdir()) == ["model.json", "model.onnx"]


def test_a_changed_byte_is_noticed(voice: Bundle) -> None:
    """The checksum covers every byte of the graph."""
    file = voice.path / "model.onnx"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    assert refusal_of(voice).startswith("voice/model.json: program.sha256: expected ")


def test_a_missing_graph_is_named(voice: Bundle) -> None:
    """A manifest without its graph is refused."""
    (voice.path / "model.onnx").unlink()
    assert refusal_of(voice).startswith("voice/model.onnx: expected a readable file")


def test_what_is_no_graph_is_refused(voice: Bundle) -> None:
    """Bytes that are not protobuf, and none at all."""
    for data in (b"", b"\xff" * 100):
        put(voice, data)
        assert refusal_of(voice).startswith("voice/model.onnx: expected a model in ONNX")


def test_a_graph_beyond_what_protobuf_takes_is_not_read(voice: Bundle) -> None:
    """Its size alone refuses it."""
    with (voice.path / "model.onnx").open("r+b") as file:
        file.truncate(1 << 31)  # sparse: takes no disk, would take gigabytes of memory
    assert refusal_of(voice) == "voice/model.onnx: expected at most 2147483647 bytes, got 2147483648"


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("inputs.0.tensor", "audio", "voice/model.onnx: 'audio': expected an input of the graph"),
        ("states.0.written", "stateM", "voice/model.onnx: 'stateM': expected an output of the graph"),
        ("constants.0.dtype", "int32", "voice/model.onnx: 'sr': expected int64, as the graph declares, got int32"),
        ("constants", REMOVED, "voice/model.onnx: input 'sr': expected it among the manifest's inputs, states or constants"),
        ("states.0.shape", [2, 4], "voice/model.onnx: 'state': expected the shape"),
    ],
)
def test_the_graph_has_what_the_manifest_says(voice: Bundle, field: str, value: object, message: str) -> None:
    """A name, dtype or shape that the graph does not have is refused with the file's name."""
    edit(voice.path, field, value)
    if field == "states.0.shape":
        edit(voice.path, "states.0.initial", 0)
    assert refusal_of(voice).startswith(message)


def test_values_may_lie_in_other_files(voice: Bundle) -> None:
    """They are brought in, so that the bundle holds everything, and they count for the fingerprint."""
    whole = voice.spec.fingerprint
    keep_beside(voice, "model.onnx.data")
    read = load(voice.path)
    tensor = onnx.load_model_from_string(read.graph).graph.initializer[0]
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(tensor), 1)
    assert read.spec.fingerprint not in ("", whole)


def test_a_changed_byte_of_another_file_is_noticed(voice: Bundle) -> None:
    """Each file has its checksum."""
    keep_beside(voice, "model.onnx.data")
    (voice.path / "model.onnx.data").write_bytes(np.array([0]).tobytes())
    assert refusal_of(voice).startswith("voice/model.json: program.data[0].sha256: expected ")


@pytest.mark.parametrize("declared", [[], [{"file": "other", "sha256": DIGEST}]])
def test_the_manifest_names_every_other_file(voice: Bundle, declared: list[dict[str, str]]) -> None:
    """A file that no checksum covers could be exchanged; one that the graph does not want is a mistake."""
    keep_beside(voice, "model.onnx.data")
    (voice.path / "other").touch()
    edit(voice.path, "program.data", declared)
    assert refusal_of(voice).startswith("voice/model.json: program.data: expected the files in which the graph keeps values")


@pytest.mark.parametrize("name", ["model.onnx", "model.onnx.data"])
def test_links_out_of_the_folder_are_refused(voice: Bundle, tmp_path: Path, name: str) -> None:
    """A bundle shows nothing but its own folder."""
    keep_beside(voice, "model.onnx.data")
    shutil.move(voice.path / name, tmp_path / name)
    (voice.path / name).symlink_to(tmp_path / name)
    assert refusal_of(voice) == f"voice/{name}: expected a file in the bundle's folder, got a link out of it"


def test_links_within_the_folder_are_followed(voice: Bundle) -> None:
    """A Kubernetes volume keeps its real files in a folder beside them."""
    (voice.path / "..data").mkdir()
    for name in ("model.json", "model.onnx"):
        shutil.move(voice.path / name, voice.path / "..data" / name)
        (voice.path / name).symlink_to(f"..data/{name}")
    assert load(voice.path).spec == voice.spec


def test_a_broken_program_is_passed_over(voice: Bundle, speaker: Bundle) -> None:
    """The others of the folder are served, cells among them."""
    init_model(voice.path.parent / "cell", "gru", 1, 2, 1, 1, seed=0)
    put(voice, b"\x08\x08")
    folder = load_all(voice.path.parent, strict=False)
    assert [bundle.spec.name for bundle in folder.bundles] == ["cell", "speaker"]
    assert list(folder.broken) == ["voice"]
    assert speaker.path.name == "speaker"


def test_what_could_not_be_loaded_is_not_written(tmp_path: Path, voice: Bundle, voice_spec: ModelSpec) -> None:
    """A spec, a graph, or both that do not fit are refused while the folder does not even exist."""
    renamed = dataclasses.replace(voice_spec, inputs=(dataclasses.replace(voice_spec.inputs[0], name="speech"),))
    beside = onnx.load_model_from_string(voice.graph)
    onnx.external_data_helper.set_external_data(beside.graph.initializer[0], "model.onnx.data")
    looping = graph("m (float[B,1] x) => (float[B,1] y) { y = RandomNormalLike(x) }")
    for spec, data, message in (
        (renamed, voice.graph, "^new/model.json: .*expected distinct names, got speech twice"),
        (voice_spec, b"", "^new/model.onnx: expected a model in ONNX"),
        (
            voice_spec,
            beside.SerializeToString(),
            r'^new/model.onnx: expected a graph that holds its values, got some in \["model',
        ),
        (voice_spec, looping.SerializeToString(), "^new/model.onnx: node 'RandomNormalLike': .*draws at random"),
    ):
        with pytest.raises(BundleError, match=message):
            write_program(tmp_path / "new", spec, data)
    assert not (tmp_path / "new").exists()


def test_a_bundle_is_replaced(voice: Bundle, voice_spec: ModelSpec) -> None:
    """The bundle that is written last is the one that is read."""
    written = write_program(voice.path, dataclasses.replace(voice_spec, version=3), voice.graph)
    assert load(voice.path).spec == written.spec
    assert written.spec.version == 3


@pytest.mark.parametrize(
    ("field", "value", "same"),
    [
        ("name", "other", True),
        ("outputs.0.labels", ["noise"], True),
        ("inputs.0.description", "stereo", True),
        ("states.0.initial", [0, 0.5, 1, 1.5, 2, 2.5], True),  # whole numbers and floats of one value
        ("states.0.initial", [0, 0.5, 1, 1.5, 2, 3], False),
        ("states.0.initial", 0, False),
        ("inputs.0.range", 2.0, False),
        ("inputs.0.carry", 3, False),
        ("constants.0.value", 8000, False),
    ],
)
def test_the_fingerprint_is_that_of_the_computation(voice: Bundle, field: str, value: object, same: bool) -> None:
    """A field counts that changes an output, what a session holds or what is refused; what people are told does not."""
    edit(voice.path, field, value)
    assert (load(voice.path).spec.fingerprint == voice.spec.fingerprint) == same


def test_a_program_is_described(voice: Bundle, speaker: Bundle) -> None:
    """Tensors with range, limit and what is carried, constants, states with dtype and beginning, and what it costs."""
    lines = [" ".join(line.split()) for line in describe(voice).splitlines()]
    for expected in (
        "model voice version 2",
        "input audio: float32 [4], -1 to 1, behind the last 2 of the step before mono",
        "output speech: float32 [1] probability",
        "state state: float32 [2, 3], begins as 0, 0.5, 1, 1.5, ...",
        "state carry.audio: float32 [2]",
        "program a step function that was brought as a graph in ONNX",
        "constant sr: int64 [], 16000",
        "head speech: classes of width 1",
        f"graph {len(voice.graph):,} bytes",
        f"state {4 * (6 + 2)} bytes per session",
        "licence MIT",
    ):
        assert expected in lines
    spoken = [" ".join(line.split()) for line in describe(speaker).splitlines()]
    assert "input token: int64 [], 0 to 4" in spoken
    assert "state before: int32 [], begins as 4" in spoken
