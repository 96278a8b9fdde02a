"""Row 1: what gather, scatter and checks of one backend turn cost around the graph."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.drive import size_of
from benchmarks.kernel import bind_model, bind_operator, torch_lstm
from benchmarks.report import Line, line
from benchmarks.timing import Effort, interleave, median_seconds, ratios
from stepstream_server import backends
from stepstream_server.bundles import Bundle, init_model
from stepstream_server.config import BackendSettings
from stepstream_server.engine.ports import Backend, Ints
from stepstream_server.spec import cell_model

_SIZES = ((128, 1), (512, 2), (1024, 2))  # hidden, layers
_LARGE = 1024  # hidden: fewer batches from here on, since a launch takes long
_INPUTS = 16
_SLOTS = 4096  # more than a batch: its rows lie scattered, as sessions that come and go leave them
_LARGEST = 1024


def row_1(folder: Path, effort: Effort, tell: Callable[[str], None]) -> list[Line]:
    """launch and collect of the backend, beside the bare graph, the bare operators and torch's; microseconds."""
    lines = []
    for hidden, layers in _SIZES:
        bundle = init_model(folder / f"turn-{hidden}", "lstm", _INPUTS, hidden, layers, 1, seed=0)
        settings = BackendSettings()
        backend = backends.build(bundle.spec, bundle.weights, settings, slots=_SLOTS, max_batch=_LARGEST)
        slots = np.random.default_rng(0).permutation(backend.allocate(_SLOTS))
        for batch in effort.batches if hidden < _LARGE else effort.large_batches:
            tell(f"row 1: {size_of(bundle)}, B {batch}")
            lines.append(_compare(bundle, backend, slots[:batch], settings, effort))
    return lines


def _compare(bundle: Bundle, backend: Backend, slots: Ints, settings: BackendSettings, effort: Effort) -> Line:
    batch, cell = len(slots), cell_model(bundle.spec).cell
    inputs = (np.random.default_rng(1).normal(size=(batch, 1, _INPUTS)).astype(np.float32),)
    runs: dict[str, Callable[[], object]] = {
        "turn": lambda: backend.collect(backend.launch("step", slots, inputs, 1)),
        "graph": bind_model(bundle.spec, bundle.weights, settings, batch, 1),
        "operator": bind_operator(cell.input_size, cell.hidden_size, cell.layers, settings, batch, 1),
        "torch": torch_lstm(cell.input_size, cell.hidden_size, cell.layers, settings, batch),
    }
    for each in runs.values():
        each()  # memory is taken at the first call
    timed = {name: (lambda call=call: median_seconds(call, effort.kernel_seconds) * 1e6) for name, call in runs.items()}
    times = interleave(timed, effort.rounds)
    beside = {f"{name} µs": statistics.median(values) for name, values in times.items()}
    case = f"{size_of(bundle)}, B {batch}"
    if batch >= 16:
        return line(1, case, ratios(times["turn"], times["graph"]), "×", 1.15, beside=beside)
    more = [turn - graph for turn, graph in zip(times["turn"], times["graph"], strict=True)]
    return line(1, f"{case}, more than the graph", more, "µs", 15.0, beside=beside)
