"""Bundles to spoil: weights of the right shapes, and one field of a manifest changed at a time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from stepstream_server.bundles.declare import weight_shapes
from stepstream_server.spec import ModelSpec, cell_model

REMOVED = object()  # in place of a value: takes the field away


def random_weights(spec: ModelSpec, seed: int = 0) -> dict[str, np.ndarray]:
    """Weights of the right shapes."""
    random = np.random.default_rng(seed)
    shapes = weight_shapes(cell_model(spec), spec.heads)
    return {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def edit(folder: Path, field: str, value: Any) -> None:
    """`edit(folder, "heads.0.width", 7)` puts one field of the manifest to a value; REMOVED takes it away."""
    file = folder / "model.json"
    tree = json.loads(file.read_text())
    *parents, last = [int(key) if key.isdigit() else key for key in field.split(".")]
    place = tree
    for key in parents:
        place = place[key]
    if value is REMOVED:
        del place[last]
    elif isinstance(place, list) and last == len(place):
        place.append(value)
    else:
        place[last] = value
    file.write_text(json.dumps(tree))
