"""Manifest to spec and back, side by side."""

from __future__ import annotations

import dataclasses
from typing import Any

from stepstream_server.bundles.fields import layout, text_spec, to_json
from stepstream_server.bundles.manifest import CellManifest, EmbeddingEntry, FeaturesEntry, Manifest, parse
from stepstream_server.bundles.program.manifest import ProgramManifest
from stepstream_server.bundles.program.translate import program_spec, program_text
from stepstream_server.spec import (
    CellModel,
    CellSpec,
    EmbeddingFront,
    FeaturesFront,
    HeadSpec,
    ModelSpec,
    Program,
    StateSpec,
    TensorSpec,
    cell_model,
)


def to_spec(manifest: Manifest, fingerprint: str) -> ModelSpec:
    """The plain record that everyone else sees."""
    if isinstance(manifest, ProgramManifest):
        return program_spec(manifest, fingerprint)
    return _cell_spec(manifest, fingerprint)


def _cell_spec(manifest: CellManifest, fingerprint: str) -> ModelSpec:
    front: FeaturesFront | EmbeddingFront | None = None
    if isinstance(manifest.front, FeaturesEntry):
        front = FeaturesFront(manifest.front.mean, manifest.front.scale, manifest.front.differences)
    elif isinstance(manifest.front, EmbeddingEntry):
        front = EmbeddingFront(manifest.front.tokens, manifest.front.width)
    descriptions = {head.name: head.description for head in manifest.heads}
    return ModelSpec(
        name=manifest.name,
        version=manifest.version,
        inputs=tuple(TensorSpec(**dict(entry) | {"text": text_spec(entry.text)}) for entry in manifest.inputs),
        outputs=tuple(TensorSpec(**each.model_dump(), description=descriptions.get(each.name, "")) for each in manifest.outputs),
        states=tuple(StateSpec(**entry.model_dump()) for entry in manifest.states),
        computation=CellModel(CellSpec(**manifest.cell.model_dump()), front),
        heads=tuple(HeadSpec(**entry.model_dump()) for entry in manifest.heads),
        fingerprint=fingerprint,
        description=manifest.description,
        licence=manifest.licence,
        provenance=manifest.provenance,
        time_step_seconds=manifest.time_step_seconds,
        extra=manifest.extra,
    )


def to_text(spec: ModelSpec, content_file: str, sha256: str, file: str) -> str:
    """The manifest of a spec, as JSON; fields that have their default are left out. The reverse of `parse` and `to_spec`.

    content_file, sha256: of the weights or the graph. Raises BundleError naming `file` for a field that the format cannot hold.
    """
    if isinstance(spec.computation, Program):
        return program_text(spec, spec.computation, content_file, sha256, file)
    return _cell_text(spec, content_file, sha256, file)


def _cell_text(spec: ModelSpec, weights_file: str, sha256: str, file: str) -> str:
    tree = {"format_version": 1, **dataclasses.asdict(spec), "weights": {"file": weights_file, "sha256": sha256}}
    del tree["fingerprint"]  # follows from the rest
    tree |= tree.pop("computation")
    front = cell_model(spec).front
    if front is not None:
        tree["front"] = {"kind": "embedding" if isinstance(front, EmbeddingFront) else "features", **tree["front"]}
    # The format has no fields for what cells do without; an output is described by its head.
    tree["inputs"] = [_only(each, "name", "dtype", "shape", "description", "limit", "text") for each in tree["inputs"]]
    tree["outputs"] = [_only(each, "name", "dtype", "shape") for each in tree["outputs"]]
    tree["states"] = [_only(each, "name", "shape") for each in tree["states"]]
    fields = parse(to_json(tree, file), file).model_dump(mode="json", exclude_defaults=True)
    first = {"format_version": 1, "name": spec.name, "version": spec.version}
    return layout(first | fields) + "\n"


def _only(record: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: record[name] for name in names}
