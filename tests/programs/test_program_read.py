"""Reading a file in ONNX: all that it needs is brought in, from its own folder alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from stepstream_server.errors import BundleError
from stepstream_server.programs.read import external_files, read
from support.graphs import graph

ADDING = "adding (float[B,4] x, float[B,4] h) => (float[B,4] y, float[B,4] hn) { hn = Add(x, h) y = Mul(hn, w) }"
WEIGHT = np.arange(4, dtype=np.float32)


def outside(folder: Path, location: str, **entries: str) -> Path:
    """A file whose weight is said to lie in another one."""
    model = graph(ADDING, w=WEIGHT)
    (weight,) = model.graph.initializer
    weight.ClearField("raw_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    for key, value in {"location": location, **entries}.items():
        weight.external_data.add(key=key, value=value)
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def test_values_beside_the_file_are_brought_in(tmp_path: Path) -> None:
    """The model that is read needs no other file, and has the numbers that lay there."""
    (tmp_path / "values.bin").write_bytes(b"before" + WEIGHT.tobytes() + b"behind")
    model = read(outside(tmp_path, "values.bin", offset="6", length="16"))
    assert external_files(model) == []
    np.testing.assert_array_equal(numpy_helper.to_array(model.graph.initializer[0]), WEIGHT)


@pytest.mark.parametrize(
    "location", ["../values.bin", "/etc/passwd", "folder/values.bin", "", "..", ".", "link", "a\0b", "long" * 100]
)
def test_other_places_are_not_read(tmp_path: Path, location: str) -> None:
    """A path out of the folder, into a folder of it, or a link."""
    inner = tmp_path / "inner"
    (inner / "folder").mkdir(parents=True)
    for path in (tmp_path / "values.bin", inner / "folder" / "values.bin"):
        path.write_bytes(WEIGHT.tobytes())
    (inner / "link").symlink_to(tmp_path / "values.bin")
    with pytest.raises(BundleError, match="model.onnx: expected values in a file of its own folder, got"):
        read(outside(inner, location))


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"offset": "8", "length": "16"}, "expected bytes within the 16 of its file, got 16 bytes from 8 on"),
        ({"offset": "-4"}, "expected bytes within the 16 of its file"),
        ({"length": str(1 << 62)}, "expected bytes within the 16 of its file"),
        ({"offset": "many"}, "expected bytes within the 16 of its file, got .* from many on"),
    ],
)
def test_bytes_beyond_the_other_file_are_refused(tmp_path: Path, entries: dict[str, str], message: str) -> None:
    """A claim of more than there is takes no memory."""
    (tmp_path / "values.bin").write_bytes(WEIGHT.tobytes())
    with pytest.raises(BundleError, match=message):
        read(outside(tmp_path, "values.bin", **entries))


def test_what_is_no_model_is_named(tmp_path: Path) -> None:
    """Other bytes, an empty file, a folder, and nothing at all."""
    path = tmp_path / "model.onnx"
    for content in (b"\xff\xff\xff\xff", b""):
        path.write_bytes(content)
        with pytest.raises(BundleError, match="^model.onnx: expected a model in ONNX"):
            read(path)
    with pytest.raises(BundleError, match="expected a readable file, got something else"):
        read(tmp_path)
    with pytest.raises(BundleError, match="^none.onnx: expected a readable file, got No such file"):
        read(tmp_path / "none.onnx")
    with pytest.raises(BundleError, match="^values.bin: expected a readable file, got No such file"):
        read(outside(tmp_path, "values.bin"))


def test_functions_are_written_out(tmp_path: Path) -> None:
    """A model may have operators of its own, made of others, as torch's exporter does."""
    text = """<ir_version: 10, opset_import: ["" : 20, "own" : 1]>
    twice (float[B,1] x, float[B,1] h) => (float[B,1] y, float[B,1] hn) { hn = Add(x, h) y = own.Double(hn) }
    <domain: "own", opset_import: ["" : 20]>
    Double (a) => (b) { b = Add(a, a) }
    """
    (tmp_path / "model.onnx").write_bytes(onnx.parser.parse_model(text).SerializeToString())
    model = read(tmp_path / "model.onnx")
    assert not model.functions
    assert [node.op_type for node in model.graph.node] == ["Add", "Add"]
