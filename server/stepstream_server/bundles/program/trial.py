"""The trial of a program before it is packed, and how it is told."""

from __future__ import annotations

import math
from collections.abc import Iterator

from stepstream_server.config import EngineSettings
from stepstream_server.programs import runtime
from stepstream_server.programs.buffer_end import dependent_operator
from stepstream_server.programs.layout import feeds
from stepstream_server.programs.trial import Trial, try_batches
from stepstream_server.spec import ModelSpec

MOST_ROWS: int = EngineSettings().max_batch


def tried(graph: bytes, spec: ModelSpec) -> Trial:
    """The trial of a normalised graph in full: batches up to the largest launch that a server makes by default. Raises
    BundleError for a graph that cannot be computed."""
    session = runtime.session(graph, feeds(spec))
    sessions = runtime.Sessions(session, session)
    return try_batches(sessions, spec, operator=dependent_operator(graph), most=MOST_ROWS, seconds=math.inf)


def told(trial: Trial) -> list[tuple[str, str]]:
    """The trial as names and values of facts."""
    return [("batching", trial.batching), ("largest batch", f"{trial.max_batch} rows, tried in {trial.seconds:.1f} s")]


def warnings(trial: Trial) -> Iterator[str]:
    """Lines that whoever packs the model should read."""
    if not trial.multiple:
        yield f"it is computed one row per launch, since {trial.reason}"
    elif trial.is_small:
        yield f"launches have at most {trial.max_batch} rows: {trial.limit}"
