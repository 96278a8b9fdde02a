"""A model's fingerprint: equal for two bundles if and only if they declare the same computation on the same weights."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

from stepstream_server.spec import CellModel, ModelSpec, Program, StateSpec, TensorSpec

# Fields that say who the model is or what its numbers mean to people, and change none of them.
TOLD = {"name", "version", "fingerprint", "description", "licence", "provenance", "time_step_seconds", "extra"}
TOLD_OF_PARTS = {"description", "labels", "predicts", "text", "stop", "temperature"}
# Fields that records got after bundles had been written: left out where they say what was the case before.
_LATER: dict[type[Any], tuple[str, ...]] = {TensorSpec: ("range",), StateSpec: ("dtype", "initial")}


def fingerprint(spec: ModelSpec, content_sha256: str) -> str:
    """sha256, hexadecimal, over the digest of the weights or the graph, and every manifest field on which an output or the state
    depends.

    Names of tensors count, since snapshots and callers find tensors by them; name and version of the model do not.
    """
    tree = {name: _computed(getattr(spec, name)) for name in ("inputs", "outputs", "states", "heads")}
    tree |= _computation(spec.computation)
    tree["weights"] = content_sha256
    text = json.dumps(tree, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _computation(computation: CellModel | Program) -> dict[str, object]:
    if isinstance(computation, Program):
        return {"program": _computed(computation)}
    front = computation.front
    return {"cell": _computed(computation.cell), "front": [type(front).__name__, _computed(front)]}


def _computed(value: Any) -> object:
    if dataclasses.is_dataclass(value):
        later = _LATER.get(type(value), ())
        return {
            field.name: _computed(getattr(value, field.name))
            for field in dataclasses.fields(value)
            if field.name not in TOLD_OF_PARTS and not (field.name in later and getattr(value, field.name) == field.default)
        }
    if isinstance(value, (list, tuple)):
        return [_computed(each) for each in value]
    return value
