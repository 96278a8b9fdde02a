"""Tasks that jobs of `child` do with a file; each gives what JSON can hold."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from stepstream_server.bundles.describe import describe
from stepstream_server.bundles.load import load
from stepstream_server.bundles.program import packing, proposal, trial
from stepstream_server.programs import read
from stepstream_server.programs.normalise import normalise


def _propose(file: str, states: str) -> dict[str, Any]:
    draft = proposal.propose(Path(file), json.loads(states))
    return {"text": proposal.text_of(draft), "notes": draft.notes}


def _pack(file: str, manifest: str, target: str) -> list[str]:
    """Writes the self-contained graph to `target`; gives the warnings."""
    graph, trial_of_it = packing.packed(Path(file), manifest)
    Path(target).write_bytes(graph)
    return list(trial.warnings(trial_of_it))


def _inspect(folder: str) -> dict[str, Any]:
    bundle = load(Path(folder))
    graph = normalise(read.decode(bundle.graph, folder), bundle.spec)
    trial_of_it = trial.tried(graph, bundle.spec)
    return {"text": describe(bundle, trial.told(trial_of_it)), "warnings": list(trial.warnings(trial_of_it))}


TASKS: Final[dict[str, Callable[..., Any]]] = {"propose": _propose, "pack": _pack, "inspect": _inspect}
