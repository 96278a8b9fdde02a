"""What backends compute is the model: held against a float64 reference and against torch's own modules."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from stepstream_server.backends import build
from stepstream_server.backends.torch_backend import build_torch
from stepstream_server.config import BackendSettings
from stepstream_server.spec import CellKind, FeaturesFront, HeadSpec, ModelSpec, cell_model
from support.batches import random_states, run
from support.models import random_inputs, random_model

CELLS: list[CellKind] = ["lstm", "gru", "rnn"]
MODULES = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU, "rnn": torch.nn.RNN}
MODELS: list[dict[str, Any]] = [
    {"inputs": 1, "hidden": 1},
    {"inputs": 5, "hidden": 17, "layers": 3, "outputs": 4},
    {"inputs": 16, "hidden": 128, "layers": 2},
    {"inputs": 3, "normaliser": True, "residual": True},
    {"inputs": 3, "differences": True, "residual": True, "outputs": 2},
    {"inputs": 8, "tokens": 50, "outputs": 50},
    {
        "heads": [
            HeadSpec("band", "quantiles", 9, scale=3.0, offset=-2.0, levels=tuple(k / 10 for k in range(1, 10))),
            HeadSpec("label", "classes", 4),
            HeadSpec("change", "quantiles", 2, residual_of="x", levels=(0.1, 0.9)),
        ]
    },
]


@pytest.mark.parametrize("kind", ["onnx", "torch"])
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("model", MODELS, ids=lambda model: "-".join(model))
def test_results_are_those_of_the_reference(kind: Any, cell: CellKind, model: dict[str, Any]) -> None:
    """Outputs and every state, within 1e-5 of the equations in float64, from states of all kinds and over 20 steps."""
    spec, weights = random_model(cell, **model)
    settings = BackendSettings(kind=kind, threads=1)
    backend = build(spec, weights, settings, slots=9, max_batch=9)
    reference = build_torch(spec, weights, settings, slots=9, max_batch=9, dtype=torch.float64)
    states, inputs = random_states(spec, 9), random_inputs(spec, 9, 20)
    outputs, final = run(backend, states, inputs, [1, 12, 7])
    wanted, wanted_final = run(reference, states, inputs, [20])
    for output, expected, head in zip(outputs, wanted, spec.heads, strict=True):
        assert output.shape == (9, 20, head.width) and output.dtype == np.float32
        np.testing.assert_allclose(output, expected, atol=1e-5)
    for state in spec.states:
        assert final[state.name].shape == (9, *state.shape)
        np.testing.assert_allclose(final[state.name], wanted_final[state.name], atol=1e-5)


def by_torch(spec: ModelSpec, weights: dict[str, NDArray[np.float32]], x: NDArray[Any]) -> NDArray[Any]:
    """The model's head over torch's own recurrent module, from the initial state."""
    cell, front = cell_model(spec).cell, cell_model(spec).front
    module = MODULES[cell.kind](cell.input_size, cell.hidden_size, cell.layers, batch_first=True)
    module.load_state_dict({name[5:]: torch.from_numpy(value) for name, value in weights.items() if name.startswith("cell.")})
    assert isinstance(front, FeaturesFront)
    features = (torch.from_numpy(x) - torch.tensor(front.mean)) / torch.tensor(front.scale)
    with torch.no_grad():
        h = module(features)[0]
        y = torch.nn.functional.linear(h, torch.from_numpy(weights["head.y.weight"]), torch.from_numpy(weights["head.y.bias"]))
    result: NDArray[Any] = y.numpy()
    return result


@pytest.mark.parametrize("kind", ["onnx", "torch"])
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("layers", [1, 2])
def test_results_are_those_of_torch(kind: Any, cell: CellKind, layers: int) -> None:
    """torch.nn.LSTM, GRU and RNN with the same weights give the same outputs over a sequence."""
    spec, weights = random_model(cell, 5, 24, layers, 3, normaliser=True)
    x = random_inputs(spec, 4, 30)[0]
    backend = build(spec, weights, BackendSettings(kind=kind, threads=1), slots=4, max_batch=4)
    computed = backend.collect(backend.launch("step", backend.allocate(4), (x,), 30))
    np.testing.assert_allclose(computed.outputs[0], by_torch(spec, weights, x), atol=1e-5)


@pytest.mark.parametrize("kind", ["onnx", "torch"])
def test_last_states_hold_the_last_outputs(kind: Any) -> None:
    """After a chunk, `last.y` is the output of its last step and `previous` its last input."""
    spec, weights = random_model(inputs=3, differences=True, outputs=2)
    backend = build(spec, weights, BackendSettings(kind=kind, threads=1), slots=2, max_batch=2)
    slots, inputs = backend.allocate(2), random_inputs(spec, 2, 5)
    outputs = backend.collect(backend.launch("step", slots, inputs, 5)).outputs[0]
    states = backend.read(slots)
    np.testing.assert_array_equal(states["last.y"], outputs[:, -1])
    np.testing.assert_array_equal(states["previous"], inputs[0][:, -1])


@pytest.mark.parametrize("kind", ["onnx", "torch"])
def test_quantiles_never_cross(kind: Any) -> None:
    """Whatever the weights, a step's quantiles come out ascending."""
    spec, weights = random_model(heads=[HeadSpec("q", "quantiles", 9, levels=tuple(k / 10 for k in range(1, 10)))])
    backend = build(spec, weights, BackendSettings(kind=kind, threads=1), slots=8, max_batch=8)
    (quantiles,), _ = run(backend, random_states(spec, 8), random_inputs(spec, 8, 6), [6])
    assert (np.diff(quantiles, axis=-1) >= 0).all()
