"""Makes a bundle with random weights, for load tests and for trying things out. No torch."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from stepstream_server.bundles import declare
from stepstream_server.bundles.check import Weights
from stepstream_server.bundles.files import MANIFEST_FILE
from stepstream_server.bundles.load import Bundle
from stepstream_server.bundles.write import validate, write
from stepstream_server.errors import BundleError
from stepstream_server.spec import CellKind, CellSpec, HeadSpec, ModelSpec, cell_model


def init_model(
    path: Path,
    cell: CellKind,
    inputs: int,
    hidden: int,
    layers: int,
    outputs: int,
    seed: int,
) -> Bundle:
    """Writes an untrained model named as its folder: float32 `input` [inputs] -> `output` [outputs], a regression.

    Weights are those of `random_weights`; the same arguments give the same bytes. Raises BundleError for sizes out of range and
    for a folder that is a bundle already.
    """
    path = Path(path)
    if (path / MANIFEST_FILE).exists():
        raise BundleError(f"{path}: expected a folder without a bundle, got one with a {MANIFEST_FILE}")
    if seed < 0:
        raise BundleError(f"seed: expected 0 or more, got {seed}")
    spec = declare.declare(
        path.resolve().name,
        CellSpec(cell, inputs, hidden, layers),
        [HeadSpec("output", "regression", outputs)],
        description="Untrained, for load tests.",
        provenance=f"Random weights, seed {seed}.",
    )
    validate(spec, f"{spec.name}/{MANIFEST_FILE}")
    return write(path, spec, random_weights(spec, seed))


def random_weights(spec: ModelSpec, seed: int) -> Weights:
    """Every weight in torch's default distribution of cells and heads, U(-1/sqrt(hidden), 1/sqrt(hidden)), drawn from `seed`."""
    bound = 1.0 / math.sqrt(cell_model(spec).cell.hidden_size)
    random = np.random.default_rng(seed)
    shapes = declare.weight_shapes(cell_model(spec), spec.heads)
    return {name: random.uniform(-bound, bound, shape).astype(np.float32) for name, shape in shapes.items()}
