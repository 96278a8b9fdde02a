"""Writes a bundle so that a crash at any moment leaves none, the old one, or one that its checksum refuses. No torch."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save as encode

from stepstream_server.bundles.check import Weights, check_spec, check_weights
from stepstream_server.bundles.fingerprint import fingerprint
from stepstream_server.bundles.load import MANIFEST_FILE, Bundle
from stepstream_server.bundles.manifest import parse, wrong
from stepstream_server.bundles.translate import to_spec, to_text
from stepstream_server.errors import BundleError
from stepstream_server.spec import ModelSpec

WEIGHTS_FILE = "model.safetensors"


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
    try:
        directory.mkdir(parents=True, exist_ok=True)
        # Weights first: until the manifest follows, there is no bundle, or the old manifest's checksum does not fit.
        _replace(directory / WEIGHTS_FILE, data)
        _replace(directory / MANIFEST_FILE, text.encode())
    except OSError as error:
        raise BundleError(f"{directory}: expected a folder that can be written, got: {error}") from error
    return Bundle(directory, dataclasses.replace(spec, fingerprint=fingerprint(spec, digest)), _widened(stored))


def validate(spec: ModelSpec, file: str) -> ModelSpec:
    """The spec as it will be read back. Raises BundleError naming `file` and the field that `load` would refuse."""
    text = to_text(spec, WEIGHTS_FILE, sha256="0" * 64, file=file)
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


def _replace(path: Path, data: bytes) -> None:
    """The whole file or none of it, even if the power fails."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
