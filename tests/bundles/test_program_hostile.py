"""Files and manifests that somebody spoilt: each is refused or served, and whoever asks keeps running within bounds."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnx.external_data_helper
import pytest
from onnx import TensorProto, helper

from stepstream_server.bundles import BundleError, load, pack, propose
from stepstream_server.bundles.program.confinement import COPIES, Confinement
from support.graphs import counting, mixing

Random = np.random.Generator
SEEDS, ALL_SEEDS, PARTS = 150, 2000, 50
MOST_BYTES = 1 << 30  # of what a job may address, half of what it may otherwise: other tests run beside it
MOST_FILE_BYTES = 4 << 20  # of the files here: names of a megabyte are in one


class Spoilt(NamedTuple):
    """A file and a manifest of it."""

    folder: Path
    model: onnx.ModelProto
    tree: dict[str, Any]

    @property
    def file(self) -> Path:
        """The path of the graph."""
        return self.folder / "model.onnx"


def manifest_of(dtype: str, width: int, hidden: int) -> dict[str, Any]:
    """That of the small graphs of `support.graphs`."""
    own: dict[str, Any] = {"range": 10.0} if dtype == "float32" else {"limit": 12}
    state = "h" if dtype == "float32" else "sum"
    return {
        "format_version": 2,
        "kind": "program",
        "name": "m",
        "inputs": [{"name": "x", "tensor": "x", "dtype": dtype, "shape": [width], "batch_axis": 0, "carry": 0} | own],
        "constants": [],
        "states": [{"name": state, "read": state, "written": f"{state}n", "dtype": dtype, "shape": [hidden], "initial": 0}],
        "outputs": [{"name": "y", "tensor": "y", "dtype": dtype, "shape": [1], "kind": "regression", "predicts": ""}],
        "program": {"file": "model.onnx", "sha256": "0" * 64, "data": []},
    }


def flip_bits(random: Random, spoilt: Spoilt) -> bytes:
    """Some bits of the file."""
    data = bytearray(spoilt.model.SerializeToString())
    for place in random.integers(0, 8 * len(data), random.integers(1, 9)):
        data[place // 8] ^= 1 << (place % 8)
    return bytes(data)


def cut(random: Random, spoilt: Spoilt) -> bytes:
    """A file that ends early, or goes on with noise."""
    data = spoilt.model.SerializeToString()
    return data[: random.integers(len(data))] + random.bytes(int(random.integers(40)))


def claim_gigabytes(random: Random, spoilt: Spoilt) -> None:
    """Weights said to be larger than any memory, or of sizes that are none."""
    tensor = random.choice(np.array(spoilt.model.graph.initializer, object))
    tensor.dims[:] = random.choice(np.array([-1, 0, 1 << 20, 1 << 40, (1 << 63) - 1]), random.integers(1, 5)).tolist()


def make_gigabytes(random: Random, spoilt: Spoilt) -> None:
    """A node that makes much out of nothing."""
    size = 1 << int(random.integers(28, 45))
    spoilt.model.graph.initializer.append(helper.make_tensor("much", TensorProto.INT64, [1], [size]))
    operator = random.choice(["ConstantOfShape", "Expand", "Tile"])
    inputs = ["much"] if operator == "ConstantOfShape" else ["one_more", "much"]
    spoilt.model.graph.initializer.append(helper.make_tensor("one_more", TensorProto.FLOAT, [1], [1.0]))
    spoilt.model.graph.node.append(helper.make_node(operator, inputs, ["large"]))
    spoilt.model.graph.node.append(helper.make_node("ReduceSum", ["large"], ["largest"], keepdims=0))
    spoilt.model.graph.output.append(helper.make_empty_tensor_value_info("largest"))


def loop(random: Random, spoilt: Spoilt) -> None:
    """A node that may run for ever."""
    body = helper.make_graph([], "body", [], [])
    node = helper.make_node(str(random.choice(["Loop", "Scan"])), ["", ""], ["spun"], body=body)
    spoilt.model.graph.node.insert(0, node)


def customise(random: Random, spoilt: Spoilt) -> None:
    """An operator of somebody's own, or of a domain that has no such."""
    domain = str(random.choice(["ai.somebody", "com.microsoft", "", "ai.onnx.ml", "x" * 5000]))
    node = random.choice(np.array(spoilt.model.graph.node, object))
    node.domain, node.op_type = domain, str(random.choice(["Backdoor", "Tanh", "PyOp", ""]))
    spoilt.model.opset_import.append(helper.make_opsetid(domain, int(random.integers(-1, 40))))


def look_elsewhere(random: Random, spoilt: Spoilt) -> None:
    """Weights in a file that is not the folder's own, is none, or does not hold them."""
    (spoilt.folder / "link").unlink(missing_ok=True)
    (spoilt.folder / "link").symlink_to(random.choice(["/etc/passwd", "/dev/zero", "..", "model.onnx", "nowhere"]))
    if not (spoilt.folder / "pipe").exists():
        os.mkfifo(spoilt.folder / "pipe")
    places = ["/etc/passwd", "/dev/zero", "../secret", "a/../../b", "link", "pipe", ".", "", "..", "x" * 5000, "model.onnx", "\0"]
    tensor = random.choice(np.array(spoilt.model.graph.initializer, object))
    offset, length = random.choice(np.array([0, -1, 1, 1 << 62, 4096]), 2).tolist()
    location = places[random.integers(len(places))]
    tensor.raw_data = b""
    onnx.external_data_helper.set_external_data(tensor, location, offset=offset, length=length)


def nest(random: Random, spoilt: Spoilt) -> None:
    """Branches within branches, or functions that call each other."""
    if random.random() < 0.5:
        names = ["f", "g"]
        for name, other in zip(names, reversed(names), strict=True):
            call = helper.make_node(other, ["a"], ["b"], domain="own")
            spoilt.model.functions.append(helper.make_function("own", name, ["a"], ["b"], [call], spoilt.model.opset_import))
        spoilt.model.opset_import.append(helper.make_opsetid("own", 1))
        spoilt.model.graph.node.append(helper.make_node("f", ["x"], ["called"], domain="own"))
        return
    inner = helper.make_graph([helper.make_node("Identity", ["x"], ["z"])], "g", [], [helper.make_empty_tensor_value_info("z")])
    spoilt.model.graph.initializer.append(helper.make_tensor("always", TensorProto.BOOL, [], [True]))
    for _ in range(int(random.integers(1, 60))):
        branch = helper.make_node("If", ["always"], ["z"], then_branch=inner, else_branch=inner)
        inner = helper.make_graph([branch], "g", [], [helper.make_empty_tensor_value_info("z")])
        if inner.ByteSize() > 1 << 14:  # both branches double it
            break
    spoilt.model.graph.node.extend(inner.node)


def name_at_length(random: Random, spoilt: Spoilt) -> None:
    """Names of megabytes, and names twice."""
    node = random.choice(np.array(spoilt.model.graph.node, object))
    if random.random() < 0.5:
        node.output[0] = "n" * (1 << 20)
    else:
        node.output[0] = str(random.choice(["x", "y", "", "h", "hn", "input.x", "brought/x"]))


def go_round(random: Random, spoilt: Spoilt) -> None:
    """A node that waits for itself, or very many nodes."""
    if random.random() < 0.5:
        node = random.choice(np.array(spoilt.model.graph.node, object))
        node.input[0] = node.output[0]
    else:
        many = [helper.make_node("Identity", [f"i{each}"], [f"i{each + 1}"]) for each in range(int(random.integers(2000)))]
        spoilt.model.graph.node.extend([helper.make_node("Identity", ["x"], ["i0"]), *many])


def mistype(random: Random, spoilt: Spoilt) -> None:
    """Dtypes that are others, or none."""
    dtype = int(random.choice([0, 1, 2, 6, 7, 8, 9, 10, 11, 14, 16, 23, 99, 2**31 - 1]))
    if random.random() < 0.5:
        random.choice(np.array(spoilt.model.graph.initializer, object)).data_type = dtype
    else:
        infos = [*spoilt.model.graph.input, *spoilt.model.graph.output]
        infos[random.integers(len(infos))].type.tensor_type.elem_type = dtype


def misversion(random: Random, spoilt: Spoilt) -> None:
    """Versions of the past, the future and of nowhere."""
    versions = [-1, 0, 1, 7, 12, 13, 25, 1 << 62]
    spoilt.model.ir_version = versions[random.integers(len(versions))]
    spoilt.model.opset_import[0].version = versions[random.integers(len(versions))]


def reshape_axes(random: Random, spoilt: Spoilt) -> None:
    """Sizes of inputs and outputs that are others, huge, negative, or not there."""
    infos = [*spoilt.model.graph.input, *spoilt.model.graph.output]
    kind = infos[random.integers(len(infos))].type.tensor_type
    if random.random() < 0.3:
        kind.ClearField("shape")
    else:
        for dim in kind.shape.dim:
            dim.dim_value = int(random.choice([-1, 0, 1, 3, 1 << 40, (1 << 63) - 1]))


def misstate(random: Random, spoilt: Spoilt) -> None:
    """A manifest with one value that is another: of another type, huge, or a name from elsewhere."""
    values: list[Any] = [None, True, -1, 0, 7, 1 << 70, 1e308, -1e15, "", "x", "hn", "../x", "x" * 100_000, [], [1 << 20] * 8, {}]
    places = list(_places(spoilt.tree))
    *parents, last = places[random.integers(len(places))]
    place: Any = spoilt.tree
    for key in parents:
        place = place[key]
    place[last] = values[random.integers(len(values))]


def _places(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value in a JSON tree but the root."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [place for key, value in items for place in ((*path, key), *_places(value, (*path, key)))]


WAYS: list[Callable[[Random, Spoilt], bytes | None]] = [
    flip_bits, cut, claim_gigabytes, make_gigabytes, loop, customise, look_elsewhere, nest, name_at_length, go_round, mistype,
    misversion, reshape_axes, misstate,
]  # fmt: skip


def spoil(seed: int, folder: Path) -> Spoilt:
    """A small graph and its manifest, one of them spoilt in one of the ways; the file is written."""
    random = np.random.default_rng(seed)
    if seed % 2:
        spoilt = Spoilt(folder, onnx.load_model_from_string(mixing()[1]), manifest_of("float32", 2, 8))
    else:
        spoilt = Spoilt(folder, onnx.load_model_from_string(counting()[1]), manifest_of("int32", 1, 1))
    data = WAYS[seed % len(WAYS)](random, spoilt)
    spoilt.file.write_bytes(spoilt.model.SerializeToString() if data is None else data)
    return spoilt


@pytest.fixture(scope="module")
def narrow() -> Iterator[Confinement]:
    """One process for all files."""
    with Confinement(seconds=30, base_bytes=MOST_BYTES) as confinement:
        yield confinement


@pytest.mark.parametrize("part", range(PARTS))
def test_whatever_a_file_says_it_is_refused_or_served(tmp_path: Path, part: int, long_run: bool, narrow: Confinement) -> None:
    """With the reason in one message; of memory no more than was allowed, and the next file is looked at."""
    for seed in range(part, ALL_SEEDS if long_run else SEEDS, PARTS):
        spoilt = spoil(seed, tmp_path)
        assert spoilt.file.stat().st_size < MOST_FILE_BYTES
        try:
            if seed % 3:
                pack(spoilt.file, json.dumps(spoilt.tree), tmp_path / "packed", within=narrow)
            else:
                propose(spoilt.file, within=narrow)
        except BundleError as error:
            assert 0 < len(str(error)) < 3000
    assert narrow.peak_bytes < MOST_BYTES + COPIES * MOST_FILE_BYTES
    spoilt.file.write_bytes(mixing()[1])
    assert propose(spoilt.file, within=narrow).text  # what came before left nothing behind


@pytest.mark.parametrize("part", range(PARTS))
def test_whatever_a_bundle_holds_it_is_refused_or_loaded(tmp_path: Path, part: int, long_run: bool) -> None:
    """The server reads bundles in its own process: one that is broken must not keep it from serving the others."""
    for seed in range(part, ALL_SEEDS if long_run else SEEDS, PARTS):
        spoilt = spoil(seed, tmp_path)
        if isinstance(spoilt.tree["program"], dict):
            spoilt.tree["program"]["sha256"] = hashlib.sha256(spoilt.file.read_bytes()).hexdigest()
        (tmp_path / "model.json").write_text(json.dumps(spoilt.tree))
        with contextlib.suppress(BundleError):
            assert load(tmp_path).graph


def test_what_is_spoilt_is_served_when_whole(tmp_path: Path, narrow: Confinement) -> None:
    """Else the files above would be refused for another reason."""
    for model, tree in ((mixing()[1], manifest_of("float32", 2, 8)), (counting()[1], manifest_of("int32", 1, 1))):
        (tmp_path / "model.onnx").write_bytes(model)
        pack(tmp_path / "model.onnx", json.dumps(tree), tmp_path / "packed", within=narrow)
