"""Row 24: what it costs that a cell is brought as a program, one turn of the backend beside the same weights as a cell."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from benchmarks.report import Line, line
from benchmarks.timing import Effort, interleave, median_seconds
from stepstream_server import backends
from stepstream_server.bundles import Bundle, save, save_program
from stepstream_server.config import BackendSettings
from stepstream_server.engine.ports import Backend

_SIZES = ((128, 1), (512, 2))  # hidden, layers
_INPUTS = 16
_SLOTS = 4096  # more than a batch: its rows lie scattered, as sessions that come and go leave them
_FACTOR, _MORE = 1.10, 5.0  # a program's turn may take this many times as long, and so many microseconds
_TRIAL_SECONDS = 600.0  # batches of every size compared are to be launched as one


class _Recurrent(torch.nn.Module):
    """An LSTM with a linear head, as its author would step it."""

    def __init__(self, lstm: torch.nn.LSTM, linear: torch.nn.Linear) -> None:
        super().__init__()
        self.lstm, self.linear = lstm, linear

    def forward(self, x: torch.Tensor, h: torch.Tensor, c: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """x: [B, inputs]; h, c: [layers, B, hidden]. Returns [B, 1] and both anew."""
        top, (h, c) = self.lstm(x[None], (h, c))
        return self.linear(top[0]), h, c


def row_24(folder: Path, effort: Effort, tell: Callable[[str], None]) -> list[Line]:
    """launch and collect of both backends, microseconds beyond what is allowed."""
    lines = []
    for hidden, layers in _SIZES:
        tell(f"row 24: exporting H {hidden} × {layers}")
        cell, program = (_backend(bundle, effort) for bundle in _bundles(folder / f"{hidden}", hidden, layers))
        for batch in (each for each in (1, 16, 64, 256) if each <= max(effort.batches)):
            tell(f"row 24: H {hidden} × {layers}, B {batch}")
            lines.append(_compare(f"H = {hidden} × {layers}, B {batch}", cell, program, batch, effort))
    return lines


def _bundles(folder: Path, hidden: int, layers: int) -> tuple[Bundle, Bundle]:
    torch.manual_seed(0)
    lstm, linear = torch.nn.LSTM(_INPUTS, hidden, layers), torch.nn.Linear(hidden, 1)
    states = {"h": (layers, hidden), "c": (layers, hidden)}
    program = save_program(folder / "program", _Recurrent(lstm, linear), {"input": (_INPUTS,)}, states, ["output"])
    return save(folder / "cell", lstm, linear), program


def _backend(bundle: Bundle, effort: Effort) -> Backend:
    settings, most = BackendSettings(trial_seconds=_TRIAL_SECONDS), min(256, max(effort.batches))
    return backends.build(bundle.spec, bundle.weights, settings, slots=_SLOTS, max_batch=most, graph=bundle.graph)


def _compare(case: str, cell: Backend, program: Backend, batch: int, effort: Effort) -> Line:
    runs = {"cell": _turn(cell, batch), "program": _turn(program, batch)}
    timed = {name: (lambda call=call: median_seconds(call, effort.kernel_seconds) * 1e6) for name, call in runs.items()}
    times = interleave(timed, effort.rounds)
    beyond = [program - _FACTOR * cell for program, cell in zip(times["program"], times["cell"], strict=True)]
    beside = {f"{name} µs": statistics.median(values) for name, values in times.items()}
    return line(24, f"{case}, beyond {_FACTOR} × the cell", beyond, "µs", _MORE, beside=beside)


def _turn(backend: Backend, batch: int) -> Callable[[], object]:
    """A turn of sessions that lie scattered; it has been run once, since memory is taken at the first call."""
    slots = np.random.default_rng(0).permutation(backend.allocate(_SLOTS))
    backend.release(slots[batch:])
    slots = slots[:batch]
    inputs = (np.random.default_rng(1).normal(size=(batch, 1, _INPUTS)).astype(np.float32),)

    def turn() -> object:
        return backend.collect(backend.launch("step", slots, inputs, 1))

    turn()
    backend.release(slots)  # nobody else takes slots while this is measured
    return turn
