"""Makes a graph and its manifest ready to be a bundle: all that is checked once, before anybody serves it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx

from stepstream_server.bundles.check import check_spec
from stepstream_server.bundles.manifest import parse
from stepstream_server.bundles.program import trial
from stepstream_server.bundles.program.load import read_graph
from stepstream_server.bundles.translate import to_spec
from stepstream_server.errors import BundleError
from stepstream_server.programs import runtime, samples
from stepstream_server.programs.exposure import Exposed
from stepstream_server.programs.layout import feeds, results
from stepstream_server.programs.normalise import normalise
from stepstream_server.programs.screen import screen
from stepstream_server.programs.trial import Trial
from stepstream_server.spec import ModelSpec


def packed(file: Path, manifest: str) -> tuple[bytes, Trial]:
    """The graph in `file`, self-contained, and its trial, once everything that `manifest` says of it has held.

    Raises BundleError for a manifest that contradicts itself or the graph, a graph that cannot be served, values inside that
    are not finite within the inputs' ranges, and first outputs that are not.
    """
    spec = to_spec(parse(manifest, "model.json"), fingerprint="")
    check_spec(spec, "model.json")
    graph, model = read_graph(file)
    return graph, check(model, spec, file.name)


def check(model: onnx.ModelProto, spec: ModelSpec, file: str) -> Trial:
    """The trial of a graph, as `read.read` gives it, once what a spec without contradictions says of it has held.

    Raises BundleError naming `file` as `packed` does.
    """
    screen(model, spec, file)
    graph = normalise(model, spec)
    _check_begin(graph, spec)
    _check_ranges(graph, spec)
    return trial.tried(graph, spec)


def _check_begin(graph: bytes, spec: ModelSpec) -> None:
    """A session's first step on zeros."""
    session, names = runtime.session(graph, feeds(spec)), results(spec)
    fed = {f"input.{each.name}": np.zeros((1, 1, *each.shape), each.dtype) for each in spec.inputs}
    try:
        found = runtime.launch(session, names, {**fed, **samples.initial_states(spec, 1)})
    except runtime.LaunchFailed as error:
        raise BundleError(f"model {spec.name}: the first step of a session fails: {error}") from None
    for name in _not_finite(found):
        raise BundleError(f"model {spec.name}: {name}: expected finite numbers in a session's first step, got others")


def _not_finite(found: samples.Arrays) -> Iterator[str]:
    yield from (name for name, values in found.items() if values.dtype.kind == "f" and not np.isfinite(values).all())


def _check_ranges(graph: bytes, spec: ModelSpec) -> None:
    exposed = Exposed(graph, spec)
    fault = exposed.fault()
    if fault:
        widest = exposed.widest_range()
        ranges = ", ".join(f"{each.name} {each.range:g}" for each in spec.inputs if each.dtype == "float32")
        raise BundleError(
            f"model {spec.name}: inputs: expected a range of at most {widest:g}, at which all values inside stay finite, "
            f"got {ranges}, at which there is {fault}"
        )
