"""The bitwise promise: a session's results do not depend on its batch, slot, row, chunks or the number of threads."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from stepstream_server.backends import build
from stepstream_server.backends.promise import check_promise
from stepstream_server.config import BackendSettings
from stepstream_server.engine.ports import Backend, Computed, Ints, Tensor
from stepstream_server.errors import ServerFault
from stepstream_server.spec import CellKind, HeadSpec, ModelSpec
from support.batches import Arrays, States, random_states, rows_of, run
from support.models import random_inputs, random_model

CELLS: list[CellKind] = ["lstm", "gru", "rnn"]
HEADS = [HeadSpec(f"y{width}", "regression", width) for width in (1, 2, 9, 27, 256)]
# Hidden sizes beside, on and off a vector's width; each with other inputs and layers, so that every pair occurs with some cell.
SHAPES = [(1, 1, 1), (3, 2, 2), (16, 16, 1), (17, 2, 2), (64, 1, 1), (96, 16, 2), (128, 16, 1), (128, 1, 2)]
LENGTH = 64


def same(first: tuple[Arrays, States], second: tuple[Arrays, States]) -> bool:
    """Whether outputs and states agree bit for bit."""
    pairs = [*zip(first[0], second[0], strict=True), *((value, second[1][name]) for name, value in first[1].items())]
    return all(a.tobytes() == b.tobytes() for a, b in pairs)


def backend_of(spec: ModelSpec, weights: dict[str, Any], threads: int = 1, kind: Any = "onnx", slots: int = 1100) -> Backend:
    """A backend with room for a full batch."""
    return build(spec, weights, BackendSettings(kind=kind, threads=threads), slots=slots, max_batch=1024)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(("hidden", "inputs", "layers"), SHAPES)
def test_a_session_has_the_same_bits_in_every_batch(cell: CellKind, hidden: int, inputs: int, layers: int) -> None:
    """Alone, in batches up to 1,024 rows, in any row and slot, with 1, 2 or 4 threads: one result."""
    spec, weights = random_model(cell, inputs, hidden, layers, heads=HEADS)
    states, values = random_states(spec, 1024), random_inputs(spec, 1024, 2)
    whole = run(backend_of(spec, weights), states, values, [2])
    for threads in (1, 2, 4):
        backend = backend_of(spec, weights, threads)
        for batch in (1, 2, 3, 7, 8, 33, 64, 130, 1024):
            rows = np.random.default_rng(batch).permutation(1024)[:batch]
            result = run(backend, rows_of(states, rows), [value[rows] for value in values], [1, 1], shift=batch % 5)
            assert same(result, ([output[rows] for output in whole[0]], rows_of(whole[1], rows))), (threads, batch)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(("hidden", "inputs", "layers"), SHAPES)
def test_a_session_has_the_same_bits_however_it_is_cut(cell: CellKind, hidden: int, inputs: int, layers: int) -> None:
    """64 steps at once, singly, or in uneven chunks, alone or with others: one result."""
    spec, weights = random_model(cell, inputs, hidden, layers, heads=HEADS)
    states, values = random_states(spec, 5), random_inputs(spec, 5, LENGTH)
    whole = run(backend_of(spec, weights), states, values, [LENGTH])
    for threads, batch in itertools.product((1, 4), (1, 2, 5)):
        backend, rows = backend_of(spec, weights, threads), slice(5 - batch, 5)
        expected = [output[rows] for output in whole[0]], rows_of(whole[1], rows)
        for cuts in ([1] * LENGTH, [LENGTH], [2, 62], [63, 1], [7] * 9 + [1]):
            assert same(run(backend, rows_of(states, rows), [value[rows] for value in values], cuts), expected), (batch, cuts)


@pytest.mark.parametrize("cell", CELLS)
def test_a_large_model_has_the_same_bits_too(cell: CellKind) -> None:
    """Two layers of 512, where weights no longer fit the cache and threads share a product."""
    spec, weights = random_model(cell, 16, 512, 2, heads=HEADS)
    states, values = random_states(spec, 128), random_inputs(spec, 128, 4)
    whole = run(backend_of(spec, weights), states, values, [4])
    for threads, batch in itertools.product((1, 2, 4), (1, 2, 9, 128)):
        rows = slice(128 - batch, 128)
        expected = [output[rows] for output in whole[0]], rows_of(whole[1], rows)
        result = run(backend_of(spec, weights, threads), rows_of(states, rows), [value[rows] for value in values], [1, 3])
        assert same(result, expected), (threads, batch)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(("hidden", "layers"), [(1, 1), (17, 2), (64, 1)])
def test_the_torch_backend_keeps_the_promise(cell: CellKind, hidden: int, layers: int) -> None:
    """On a CPU with torch, too, bits do not depend on the batch, the row or the cut."""
    spec, weights = random_model(cell, 2, hidden, layers, heads=HEADS)
    states, values = random_states(spec, 130), random_inputs(spec, 130, 3)
    backend = backend_of(spec, weights, kind="torch")
    whole = run(backend, states, values, [3])
    for batch, cuts in itertools.product((1, 2, 7, 65), ([3], [1, 1, 1], [2, 1])):
        rows = np.random.default_rng(batch).permutation(130)[:batch]
        result = run(backend, rows_of(states, rows), [value[rows] for value in values], cuts, shift=3)
        assert same(result, ([output[rows] for output in whole[0]], rows_of(whole[1], rows))), (batch, cuts)


@pytest.mark.parametrize("kind", ["onnx", "torch"])
def test_warming_up_leaves_no_trace(kind: str) -> None:
    """Warming up returns its slots, and whoever gets them next finds zeros."""
    spec, weights = random_model(differences=True, residual=True)
    backend = backend_of(spec, weights, kind=kind, slots=70)
    backend.warm_up()
    slots = backend.allocate(70)
    assert sorted(slots.tolist()) == list(range(70))
    assert not any(value.any() for value in backend.read(slots).values())


@pytest.mark.parametrize("slots", [1, 3])
def test_warming_up_needs_one_slot_only(slots: int) -> None:
    """A pool smaller than the warm-up's batches is tried with what it has."""
    spec, weights = random_model(tokens=11)
    backend_of(spec, weights, slots=slots).warm_up()


class Wavering:
    """A backend whose last bits depend on the number of rows, as they would with a kernel chosen by shape."""

    def __init__(self, inner: Backend) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def launch(self, function: str, slots: Ints, inputs: tuple[Tensor, ...], length: int) -> Computed:
        computed = self._inner.collect(self._inner.launch(function, slots, inputs, length))
        return Computed(tuple(np.nextafter(y, np.float32(9)) if len(y) > 1 else y for y in computed.outputs), computed.faults)


def test_warming_up_refuses_a_backend_whose_bits_depend_on_the_batch() -> None:
    """One unit in the last place is enough for a fault that names the model."""
    spec, weights = random_model()
    with pytest.raises(ServerFault, match="model model: bits of a session change with its batch"):
        check_promise(Wavering(backend_of(spec, weights)), spec)
