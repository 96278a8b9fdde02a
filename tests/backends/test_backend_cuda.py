"""The torch backend on a CUDA device: the same model, and the same bits in any batch. Skipped where there is no device."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stepstream_server.backends import build
from stepstream_server.backends.torch_backend import build_torch
from stepstream_server.config import BackendSettings
from stepstream_server.engine.ports import Backend
from stepstream_server.spec import CellKind
from support.batches import random_states, rows_of, run
from support.models import random_inputs, random_model

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
ROWS, STEPS = 70, 12  # more than one tile of 64 rows


@pytest.fixture(params=["lstm", "gru", "rnn"])
def cell(request: pytest.FixtureRequest) -> CellKind:
    """Every kind of cell."""
    kind: CellKind = request.param
    return kind


def on_cuda(cell: CellKind) -> Backend:
    """A warm backend of two layers."""
    spec, weights = random_model(cell, inputs=5, hidden=33, layers=2)
    backend = build(spec, weights, BackendSettings(kind="torch", device="cuda"), slots=2 * ROWS, max_batch=2 * ROWS)
    backend.warm_up()
    return backend


def test_results_on_cuda_are_those_of_the_reference(cell: CellKind) -> None:
    """Within 1e-5 of the equations in float64 on the CPU."""
    spec, weights = random_model(cell, inputs=5, hidden=33, layers=2)
    reference = build_torch(spec, weights, BackendSettings(kind="torch"), slots=ROWS, max_batch=ROWS, dtype=torch.float64)
    states, inputs = random_states(spec, ROWS), random_inputs(spec, ROWS, STEPS)
    outputs, _ = run(on_cuda(cell), states, inputs, [1, 4, 7])
    expected, _ = run(reference, states, inputs, [STEPS])
    np.testing.assert_allclose(outputs[0], expected[0], atol=1e-5)


def test_bits_on_cuda_do_not_depend_on_the_batch(cell: CellKind) -> None:
    """One session alone, step by step, against itself in a batch of several tiles and in chunks."""
    spec, _ = random_model(cell, inputs=5, hidden=33, layers=2)
    backend = on_cuda(cell)
    states, inputs = random_states(spec, ROWS), random_inputs(spec, ROWS, STEPS)
    together, _ = run(backend, states, inputs, [5, 7], shift=3)
    for row in (0, 63, 69):
        one = slice(row, row + 1)
        alone, _ = run(backend, rows_of(states, one), [value[one] for value in inputs], [1] * STEPS)
        np.testing.assert_array_equal(alone[0].view(np.uint32), together[0][one].view(np.uint32))
