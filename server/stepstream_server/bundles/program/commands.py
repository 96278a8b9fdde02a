"""From a file in ONNX to a bundle, without looking into the file here: that is done in confinement."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from stepstream_server.bundles.check import check_spec
from stepstream_server.bundles.describe import describe
from stepstream_server.bundles.fields import wrong
from stepstream_server.bundles.files import MANIFEST_FILE, read_manifest
from stepstream_server.bundles.load import Bundle, load
from stepstream_server.bundles.manifest import parse
from stepstream_server.bundles.program.confinement import Confinement
from stepstream_server.bundles.program.manifest import ProgramManifest
from stepstream_server.bundles.translate import to_spec
from stepstream_server.bundles.write import put_program


class Proposal(NamedTuple):
    """A draft of a program's manifest."""

    text: str  # model.json
    notes: list[str]  # what was guessed, a line per field, and what to check


class Packed(NamedTuple):
    """A bundle that was written, and what its trial warns of."""

    bundle: Bundle
    warnings: list[str]


class Inspected(NamedTuple):
    """A bundle in words, and what its trial warns of."""

    text: str
    warnings: list[str]


def propose(file: Path, states: Mapping[str, str] | None = None, *, within: Confinement | None = None) -> Proposal:
    """Drafts the manifest of the graph in `file`, for a person to complete.

    states: inputs and the outputs that are their next values, by the names of tensors; the others are guessed. within: where
    the file is looked at, a process of its own if not given. Raises BundleError for a graph that cannot be a step function, and
    for one that crashes, takes too long or wants too much memory.
    """
    if within is None:
        with Confinement() as confinement:
            return propose(file, states, within=confinement)
    return Proposal(**within.run("propose", Path(file), json.dumps(dict(states or {}))))


def pack(file: Path, manifest: str, directory: Path, *, within: Confinement | None = None) -> Packed:
    """Writes the graph in `file` and the text of its manifest as the bundle `directory`; a bundle there is replaced.

    Everything is tried before: see docs/bundles.md. Raises BundleError, with nothing written, for what does not hold, and as
    `propose` does.
    """
    if within is None:
        with Confinement() as confinement:
            return pack(file, manifest, directory, within=confinement)
    parsed = parse(manifest, MANIFEST_FILE)
    if not isinstance(parsed, ProgramManifest):
        raise wrong(MANIFEST_FILE, "format_version", "2, a program's", "1")
    spec = to_spec(parsed, fingerprint="")
    check_spec(spec, MANIFEST_FILE)
    with tempfile.TemporaryDirectory() as folder:
        graph = Path(folder) / "model.onnx"
        warnings = within.run("pack", Path(file), manifest, str(graph))
        return Packed(put_program(Path(directory), spec, graph.read_bytes()), warnings)


def inspect(path: Path, *, within: Confinement | None = None) -> Inspected:
    """Tells what the bundle in the folder `path` is, of a program with its trial. Raises BundleError as `load` does, and as
    `propose` does."""
    name = f"{Path(path).resolve().name}/{MANIFEST_FILE}"
    if not isinstance(parse(read_manifest(Path(path), name), name), ProgramManifest):
        return Inspected(describe(load(path)), [])
    if within is None:
        with Confinement() as confinement:
            return inspect(path, within=confinement)
    return Inspected(**within.run("inspect", Path(path)))
