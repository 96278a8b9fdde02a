"""The graph that computes a model, and the rules of its launches: those of a cell are known, those of a program are tried."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import structlog
from numpy.typing import NDArray

from stepstream_server.backends.limits import Limits, limits
from stepstream_server.backends.onnx_graph import build_graph
from stepstream_server.backends.threads import compute_threads, is_small
from stepstream_server.config import BackendSettings
from stepstream_server.cores import WIDE_ROWS
from stepstream_server.programs import normalise, runtime, trial
from stepstream_server.programs.buffer_end import dependent_operator
from stepstream_server.programs.layout import feeds, row_bytes
from stepstream_server.programs.read import decode
from stepstream_server.programs.runtime import Sessions
from stepstream_server.programs.trial import Trial
from stepstream_server.spec import PLAIN, CellKind, ModelSpec, cell_model

# Rows below which an operator takes another path and gives other bits (found on onnxruntime 1.31): batches are padded.
_MULTIPLE: dict[CellKind, int] = {"lstm": 1, "gru": 1, "rnn": 2}
_SLICE_BYTES = 2 << 20  # about what a core's own caches hold
_LEAST_SLICE = 256  # rows over which the reading of large weights is spread
_ANY_BATCH = 1 << 30  # rows: no limit of the kernel's own

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Kernel:
    """A graph on the runtime."""

    sessions: Sessions
    limits: Limits
    takes_chunks: bool  # whether it computes several steps at once
    multiple: int  # rows that the graph sees are a multiple of it; 0: one row per launch
    max_batch: int  # rows of the largest launch that may be relied upon
    slice_rows: int  # rows that are computed together: as many as fit the caches with states, before and after, and gates


def cell_kernel(spec: ModelSpec, weights: Mapping[str, NDArray[np.float32]], settings: BackendSettings) -> Kernel:
    """The kernel of a cell. Raises BundleError for weights that are too large to be computed with."""
    cell = cell_model(spec).cell
    graph = build_graph(spec, weights).SerializeToString()
    sessions = _sessions(spec, graph, settings, sum(each.nbytes for each in weights.values()))
    rows = _slice_rows(2 * spec.state_bytes + 16 * cell.hidden_size)
    return Kernel(sessions, limits(spec, weights), True, _MULTIPLE[cell.kind], _ANY_BATCH, rows)


def program_kernel(spec: ModelSpec, graph: bytes, settings: BackendSettings, max_batch: int) -> Kernel:
    """The kernel of a program, whose batches are tried first. graph: as its bundle has it. Raises BundleError for one that
    cannot be computed."""
    normalised = normalise.normalise(decode(graph, spec.name), spec)
    weight_bytes = len(normalised)
    if not is_small(weight_bytes):  # what a constant decides is folded away: half of a file that is made for two sampling rates
        weight_bytes = len(runtime.simplified(normalised))
    sessions = _sessions(spec, normalised, settings, weight_bytes)
    operator = dependent_operator(normalised)
    found = trial.try_batches(sessions, spec, operator=operator, most=max_batch, seconds=settings.trial_seconds)
    _tell(spec, found)
    return Kernel(sessions, Limits(PLAIN, PLAIN), False, found.multiple, found.max_batch, _slice_rows(row_bytes(spec)))


def _tell(spec: ModelSpec, found: Trial) -> None:
    """Logs how a program is computed, louder where more is to be had."""
    facts = {"batching": found.batching, "max_batch": found.max_batch, "limit": found.limit, "seconds": round(found.seconds, 3)}
    tell = log.warning if found.is_small or not found.multiple else log.info
    tell("program_tried", model=spec.name, version=spec.version, **facts)


def _sessions(spec: ModelSpec, graph: bytes, settings: BackendSettings, weight_bytes: int) -> Sessions:
    threads, wide_threads = (compute_threads(settings, weight_bytes, rows) for rows in (1, WIDE_ROWS))
    few = runtime.session(graph, feeds(spec), threads, spinning=settings.spinning)
    if wide_threads == threads:
        return Sessions(few, few)
    return Sessions(few, runtime.session(graph, feeds(spec), wide_threads, spinning=settings.spinning))


def _slice_rows(row_bytes: int) -> int:
    """Rows of a slice. Measured for 1,000 rows of an LSTM: 5 to 15 % less time than all at once for H = 128 and 256, the same for
    64 and 512."""
    return max(_LEAST_SLICE, _SLICE_BYTES // row_bytes)
