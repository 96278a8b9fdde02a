"""Reads bundles from disk, checking everything before anything is served."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
from numpy.typing import NDArray

from stepstream_server.bundles.check import Weights, check_spec, check_weights
from stepstream_server.bundles.declare import weight_shapes
from stepstream_server.bundles.fields import shorten, wrong
from stepstream_server.bundles.files import MANIFEST_FILE, read_manifest
from stepstream_server.bundles.fingerprint import fingerprint
from stepstream_server.bundles.manifest import WeightsEntry, parse
from stepstream_server.bundles.program.manifest import ProgramManifest
from stepstream_server.bundles.translate import to_spec
from stepstream_server.errors import BundleError
from stepstream_server.programs.files import read_file
from stepstream_server.spec import ModelSpec, cell_model

MAX_HEADER_BYTES = 1 << 20  # of a weights file: about 100 bytes per tensor, and what its writer noted about itself
# Halves take half the disk; they are computed as float32 all the same.
STORED_DTYPES: dict[str, np.dtype[Any]] = {"F32": np.dtype(np.float32), "F16": np.dtype(np.float16)}


@dataclass(frozen=True, slots=True, eq=False)
class Bundle:
    """A model as read from its folder: everything that a backend needs."""

    path: Path
    spec: ModelSpec
    weights: Weights  # of a cell, by name, float32, C order: see `declare.weight_shapes`
    graph: bytes = b""  # of a program: its file in ONNX, with the values that it keeps in other files brought in


@dataclass(frozen=True, slots=True)
class Folder:
    """What was found in a folder of bundles."""

    bundles: list[Bundle]  # ordered by name and version
    broken: dict[str, BundleError]  # by sub-folder: what cannot be served
    others: dict[str, str]  # by name: what is no bundle, and why


def load(path: Path) -> Bundle:
    """Reads the bundle in the folder `path`.

    Raises BundleError, naming file and field, for a manifest that is wrong or contradicts itself, for weights that are
    missing, truncated, misshapen or not finite, for a graph that cannot be served or does not have what the manifest says, and
    for a checksum that differs.
    """
    path = Path(path)
    folder = path.resolve().name
    manifest_name = f"{folder}/{MANIFEST_FILE}"
    manifest = parse(read_manifest(path, manifest_name), manifest_name)
    spec = to_spec(manifest, fingerprint="")
    check_spec(spec, manifest_name)
    if isinstance(manifest, ProgramManifest):
        from stepstream_server.bundles.program.load import load_graph

        graph, digest = load_graph(path, manifest.program, spec)
        return Bundle(path, to_spec(manifest, fingerprint(spec, digest)), {}, graph)
    weights, digest = _load_weights(path, manifest.weights, spec)
    return Bundle(path, to_spec(manifest, fingerprint(spec, digest)), weights)


def _load_weights(path: Path, entry: WeightsEntry, spec: ModelSpec) -> tuple[Weights, str]:
    """The weights in a bundle's folder and the sha256 of their file."""
    folder = path.resolve().name
    name = f"{folder}/{entry.file}"
    data = read_file(path / entry.file, name, _most_bytes(spec))
    digest = hashlib.sha256(data).hexdigest()
    if digest != entry.sha256:
        raise wrong(f"{folder}/{MANIFEST_FILE}", "weights.sha256", f"{digest}, that of {entry.file}", entry.sha256)
    weights = decode(data, name)
    check_weights(spec, weights, name)
    return weights, digest


def load_all(directory: Path, *, strict: bool) -> Folder:
    """Reads every sub-folder that has a manifest; hidden folders are left out.

    A bundle is broken that `load` refuses, or whose name and version are those of one before it, by the names of folders. Raises
    BundleError if there is none that can be served; strict: also if one is broken.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise BundleError(f"{directory}: expected a folder of bundles, got {'a file' if directory.exists() else 'nothing'}")
    taken: dict[tuple[str, int], Bundle] = {}  # by name and version
    folder = Folder([], {}, {})
    # Hidden folders are not models: a Kubernetes volume keeps its real files in `..data`, linked to from beside it.
    for path in sorted(path for path in directory.iterdir() if not path.name.startswith(".")):
        if reason := _why_none(path):
            folder.others[path.name] = reason
            continue
        try:
            _take(load(path), taken)
        except BundleError as error:
            if strict:
                raise
            folder.broken[path.name] = error
    if not taken:
        raise _nothing(directory, folder)
    folder.bundles.extend(taken[key] for key in sorted(taken))
    return folder


def decode(data: bytes, file: str) -> dict[str, NDArray[Any]]:
    """Tensors by name from a safetensors file, halves widened to float32. Raises BundleError naming `file` and the tensor."""
    try:
        tensors = safetensors.deserialize(data)  # type: ignore[no-untyped-call]
    except safetensors.SafetensorError as error:
        raise BundleError(f"{file}: expected a safetensors file, got {error}") from None
    return {name: _tensor(name, tensor, file) for name, tensor in tensors}


def _tensor(name: str, tensor: Mapping[str, Any], file: str) -> NDArray[np.float32]:
    if tensor["dtype"] not in STORED_DTYPES:
        raise wrong(file, name, f"one of the dtypes {sorted(STORED_DTYPES)}", tensor["dtype"])
    stored: NDArray[Any] = np.frombuffer(tensor["data"], STORED_DTYPES[tensor["dtype"]])
    return stored.astype(np.float32).reshape(tensor["shape"])


def _most_bytes(spec: ModelSpec) -> int:
    shapes = weight_shapes(cell_model(spec), spec.heads)
    return MAX_HEADER_BYTES + 4 * sum(math.prod(shape) for shape in shapes.values())


def _why_none(path: Path) -> str:
    """Why what is there is no bundle; nothing if it is one."""
    try:
        return "" if (path / MANIFEST_FILE).exists() else f"it has no {MANIFEST_FILE}"
    except OSError as error:  # it cannot be entered, as `lost+found`
        return error.strerror or str(error)


def _take(bundle: Bundle, taken: dict[tuple[str, int], Bundle]) -> None:
    """Adds a bundle to those taken. Raises BundleError if one of them has its name and version."""
    key = bundle.spec.name, bundle.spec.version
    if (other := taken.setdefault(key, bundle)) is not bundle:
        expected = f"a pair that {other.path.name} does not have"
        raise wrong(f"{bundle.path.name}/{MANIFEST_FILE}", "name, version", expected, shorten(key))


def _nothing(directory: Path, folder: Folder) -> BundleError:
    """The error of a folder of which nothing can be served."""
    if folder.broken:
        return BundleError("\n".join(map(str, folder.broken.values())))
    hint = "; it is itself a bundle: name the folder that contains it" if (directory / MANIFEST_FILE).exists() else ""
    return BundleError(f"{directory}: expected at least one folder with a {MANIFEST_FILE}, got none{hint}")
