"""A session that is not finite, or would not stay so, is reported and keeps its state; its neighbours never notice."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from stepstream_server.backends import build
from stepstream_server.config import BackendSettings
from stepstream_server.engine.ports import Backend, Computed, Ints, Tensor
from stepstream_server.errors import BundleError, Reason
from support.batches import Arrays, States, random_states
from support.models import random_inputs, random_model

BATCH, BAD, LENGTH = 5, 2, 3
KINDS = pytest.mark.parametrize("kind", ["onnx", "torch"])
CELLS = pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])


def launched(backend: Backend, slots: Ints, inputs: tuple[Tensor, ...]) -> Computed:
    """One launch, collected."""
    return backend.collect(backend.launch("step", slots, inputs, LENGTH))


def poisoned(backend: Backend, states: States, inputs: tuple[Tensor, ...], healthy: States) -> None:
    """Asserts that row BAD, alone, is refused and keeps its state, and that the others' bits are those of a healthy batch."""
    slots = backend.allocate(BATCH)
    backend.write(slots, healthy)
    wanted = launched(backend, slots, tuple(clean(value) for value in inputs))
    expected: States = backend.read(slots)
    assert wanted.faults is None
    backend.write(slots, states)
    computed = launched(backend, slots, inputs)
    after = backend.read(slots)
    assert computed.faults is not None
    assert computed.faults.tolist() == [Reason.NON_FINITE_STATE * (row == BAD) for row in range(BATCH)]
    others = computed.faults == 0
    pairs: list[Arrays] = [[a[others], b[others]] for a, b in zip(computed.outputs, wanted.outputs, strict=True)]
    pairs += [[after[name][others], expected[name][others]] for name in after]
    pairs += [[after[name][BAD], states[name][BAD]] for name in after]
    assert all(a.tobytes() == b.tobytes() for a, b in pairs)


def clean(value: Tensor) -> Tensor:
    """The inputs with row BAD replaced by its neighbour's."""
    mended = value.copy()
    mended[BAD] = mended[BAD - 1]
    return mended


def make(kind: Any, **model: Any) -> tuple[Backend, States, tuple[Tensor, ...]]:
    """A backend, states and inputs for BATCH healthy sessions."""
    spec, weights = random_model(**model)
    backend = build(spec, weights, BackendSettings(kind=kind, threads=1), slots=BATCH, max_batch=BATCH)
    return backend, random_states(spec, BATCH), random_inputs(spec, BATCH, LENGTH)


@KINDS
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e38])
@pytest.mark.parametrize(
    ("cell", "state"),
    [("lstm", "h"), ("lstm", "c"), ("lstm", "previous"), ("lstm", "last.y"), ("gru", "h"), ("rnn", "h"), ("rnn", "last.y")],
)
def test_a_bad_state_is_found_at_the_next_launch(kind: str, cell: str, value: float, state: str) -> None:
    """One number of one state is enough, although the runtime's kernel would make a finite output of it."""
    backend, healthy, inputs = make(kind, cell=cell, layers=2, differences=True)
    states = {name: array.copy() for name, array in healthy.items()}
    states[state][BAD].flat[-1] = value
    poisoned(backend, states, inputs, healthy)


@KINDS
@CELLS
@pytest.mark.parametrize("front", [{}, {"normaliser": True}, {"differences": True}, {"residual": True}], ids=str)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38, -3e38])
def test_inputs_that_would_overflow_are_found(kind: str, cell: str, front: dict[str, bool], value: float) -> None:
    """Not finite, or so large that a sum inside the model would not be: in any step of a chunk, through any front."""
    backend, states, inputs = make(kind, cell=cell, **front)
    inputs[0][BAD, 1, -1] = value
    poisoned(backend, states, inputs, states)


@KINDS
def test_large_inputs_within_the_limit_are_served(kind: str) -> None:
    """Readings far beyond any sensor's, and a c that has counted for long, are nobody's fault."""
    backend, states, inputs = make(kind, normaliser=True)
    inputs[0][BAD] = 1e30
    states["c"][BAD] = 1e7
    slots = backend.allocate(BATCH)
    backend.write(slots, states)
    assert launched(backend, slots, inputs).faults is None


@KINDS
def test_all_rows_may_be_bad(kind: str) -> None:
    """Then nothing is written at all."""
    backend, states, inputs = make(kind)
    slots = backend.allocate(BATCH)
    backend.write(slots, states)
    computed = launched(backend, slots, (np.full_like(inputs[0], np.nan),))
    assert computed.faults is not None and computed.faults.all()
    after = backend.read(slots)
    assert all(after[name].tobytes() == states[name].tobytes() for name in states)


@KINDS
def test_a_zeroed_slot_is_healthy_again(kind: str) -> None:
    """A reset cures what was poisoned."""
    backend, states, inputs = make(kind)
    slots = backend.allocate(BATCH)
    states["c"][:] = np.nan
    backend.write(slots, states)
    backend.zero(slots)
    assert launched(backend, slots, inputs).faults is None


@pytest.mark.parametrize("factor", [1e30, np.inf, np.nan])
def test_weights_that_overflow_at_once_are_refused(factor: float) -> None:
    """A model whose sums overflow for ordinary inputs is no model: it is refused before it serves."""
    spec, weights = random_model()
    weights["cell.weight_hh_l0"] = weights["cell.weight_hh_l0"] * np.float32(factor)
    with pytest.raises(BundleError, match="model model: .* overflow"):
        build(spec, weights, BackendSettings(), slots=1, max_batch=1)


@KINDS
@pytest.mark.parametrize("length", [1, 2])
def test_bad_rows_are_found_in_a_batch_of_many_slices(kind: Any, length: int) -> None:
    """Beyond what is computed together, each row is still judged as itself."""
    spec, weights = random_model(hidden=128)
    backend = build(spec, weights, BackendSettings(kind=kind, threads=1), slots=1000, max_batch=1000)
    inputs, bad = random_inputs(spec, 1000, length), [0, 499, 777]
    inputs[0][bad] = np.inf
    slots = backend.allocate(1000)
    computed = backend.collect(backend.launch("step", slots, inputs, length))
    assert computed.faults is not None and np.flatnonzero(computed.faults).tolist() == bad
    assert np.flatnonzero(~backend.read(slots)["c"].any(axis=(1, 2))).tolist() == bad
