"""A model's fingerprint: equal for two bundles if and only if they declare the same computation on the same weights."""

from __future__ import annotations

import dataclasses
import hashlib
import json

from stepstream_server.spec import ModelSpec

# Fields that say who the model is or what its numbers mean to people, and change none of them.
TOLD = {"name", "version", "fingerprint", "description", "licence", "provenance", "time_step_seconds", "text", "extra"}
TOLD_OF_PARTS = {"description", "labels", "predicts"}


def fingerprint(spec: ModelSpec, weights_sha256: str) -> str:
    """sha256, hexadecimal, over the digest of the weights and every manifest field on which an output or the state depends.

    Names of tensors count, since snapshots and callers find tensors by them; name and version of the model do not.
    """
    tree = {key: _computed(value) for key, value in dataclasses.asdict(spec).items() if key not in TOLD}
    tree["front"] = [type(spec.front).__name__, tree["front"]]
    tree["weights"] = weights_sha256
    text = json.dumps(tree, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _computed(value: object) -> object:
    if isinstance(value, dict):
        return {key: _computed(each) for key, each in value.items() if key not in TOLD_OF_PARTS}
    if isinstance(value, (list, tuple)):
        return [_computed(each) for each in value]
    return value
