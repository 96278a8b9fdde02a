"""Writes a bundle so that a crash at any moment leaves none, the old one, or one that its checksum refuses. No torch."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save as encode

from stepstream_server.bundles.check import Weights, check_spec, check_weights
from stepstream_server.bundles.fields import wrong
from stepstream_server.bundles.files import MANIFEST_FILE, put_files
from stepstream_server.bundles.fingerprint import fingerprint
from stepstream_server.bundles.load import Bundle
from stepstream_server.bundles.manifest import parse
from stepstream_server.bundles.translate import to_spec, to_text
from stepstream_server.spec import ModelSpec, Program

WEIGHTS_FILE = "model.safetensors"
GRAPH_FILE = "model.onnx"


def write(directory: Path, spec: ModelSpec, weights: Mapping[str, NDArray[np.float32]], *, half: bool = False) -> Bundle:
    """Writes `spec` (see `declare.declare`) and its weights into `directory`, made if needed; a bundle there is replaced.

    weights: by name, float32, shapes as in `declare.weight_shapes`. half: they are stored as float16, rounded to the nearest.
    Returns what `load(directory)` would: with `half`, the rounded weights, widened.
    Raises BundleError, before anything is written, for what `load` would refuse, and for a folder that cannot be written.
    """
    directory = Path(directory)
    folder = directory.resolve().name
    spec = validate(spec, f"{folder}/{MANIFEST_FILE}")
    check_weights(spec, weights, f"{folder}/{WEIGHTS_FILE}")
    stored: dict[str, NDArray[Any]] = {name: np.ascontiguousarray(tensor) for name, tensor in weights.items()}
    if half:
        stored = {name: _halved(name, tensor, f"{folder}/{WEIGHTS_FILE}") for name, tensor in stored.items()}
    data = encode(stored)
    digest = hashlib.sha256(data).hexdigest()
    text = to_text(spec, WEIGHTS_FILE, digest, f"{folder}/{MANIFEST_FILE}")
    put_files(directory, {WEIGHTS_FILE: data, MANIFEST_FILE: text.encode()})
    return Bundle(directory, dataclasses.replace(spec, fingerprint=fingerprint(spec, digest)), _widened(stored))


def write_program(directory: Path, spec: ModelSpec, graph: bytes) -> Bundle:
    """Writes a program (see `program.translate.spec_of`) into `directory`, made if needed; a bundle there is replaced.

    graph: a file in ONNX that keeps no values in other files. Returns what `load(directory)` would. Raises BundleError, before
    anything is written, for what `load` would refuse, and for a folder that cannot be written.
    """
    from stepstream_server.bundles.program.load import check_graph

    directory = Path(directory)
    folder = directory.resolve().name
    spec = validate(spec, f"{folder}/{MANIFEST_FILE}")
    return put_program(directory, spec, check_graph(graph, spec, f"{folder}/{GRAPH_FILE}"))


def put_program(directory: Path, spec: ModelSpec, graph: bytes) -> Bundle:
    """Writes a program whose spec and graph have been checked."""
    digest = hashlib.sha256(graph).hexdigest()
    text = to_text(spec, GRAPH_FILE, digest, f"{directory.resolve().name}/{MANIFEST_FILE}")
    put_files(directory, {GRAPH_FILE: graph, MANIFEST_FILE: text.encode()})
    return Bundle(directory, dataclasses.replace(spec, fingerprint=fingerprint(spec, digest)), {}, graph)


def validate(spec: ModelSpec, file: str) -> ModelSpec:
    """The spec as it will be read back. Raises BundleError naming `file` and the field that `load` would refuse."""
    content_file = GRAPH_FILE if isinstance(spec.computation, Program) else WEIGHTS_FILE
    text = to_text(spec, content_file, sha256="0" * 64, file=file)
    read = to_spec(parse(text, file), fingerprint="")
    check_spec(read, file)
    return read


def _halved(name: str, tensor: NDArray[np.float32], file: str) -> NDArray[np.float16]:
    with np.errstate(over="ignore"):  # told below, by name
        halves = tensor.astype(np.float16)
    beyond = np.isinf(halves)
    if beyond.any():
        raise wrong(file, name, f"numbers within ±{np.finfo(np.float16).max:.0f}, as float16 holds", f"{tensor[beyond].flat[0]}")
    return halves


def _widened(stored: Mapping[str, NDArray[Any]]) -> Weights:
    return {name: tensor.astype(np.float32, copy=False) for name, tensor in stored.items()}
