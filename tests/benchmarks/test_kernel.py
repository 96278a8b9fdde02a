"""The bare kernel computes what the backend computes, or comparing with it would mean nothing."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.kernel import bind_model, bind_operator, bind_program
from stepstream_server import backends
from stepstream_server.backends.onnx_graph import STATE
from stepstream_server.bundles import load
from stepstream_server.config import BackendSettings
from support.models import random_model
from support.programs import BUNDLES


@pytest.mark.parametrize("tokens", [0, 7], ids=["readings", "tokens"])
def test_bare_kernel_steps_as_the_backend_does(tokens: int) -> None:
    """After as many calls, outputs and state are the backend's to the bit: the state really stays in place and moves on."""
    spec, weights = random_model(inputs=3, hidden=8, layers=2, tokens=tokens)
    settings = BackendSettings(threads=1)
    kernel = bind_model(spec, weights, settings, 5, 4)
    backend = backends.build(spec, weights, settings, slots=5, max_batch=5)
    slots, inputs = backend.allocate(5), (kernel.read("input.x"),)
    assert len(np.unique(inputs[0])) > 1
    for _ in range(4):
        kernel()
        computed = backend.collect(backend.launch("step", slots, inputs, 4))
    assert np.array_equal(kernel.read("output.y"), computed.outputs[0])
    states = backend.read(slots)
    together = np.concatenate([states[each.name].reshape(5, -1) for each in spec.states], axis=1)
    assert np.array_equal(kernel.read(STATE), together)


def test_bare_graph_of_a_program_steps_as_the_backend_does() -> None:
    """After as many calls, outputs and states are the backend's to the bit."""
    bundle = load(BUNDLES / "gru_over_lstm")
    settings = BackendSettings(threads=1)
    kernel = bind_program(bundle.spec, bundle.graph, settings, 5)
    backend = backends.build(bundle.spec, {}, settings, slots=5, max_batch=5, graph=bundle.graph)
    slots, inputs = backend.allocate(5), tuple(kernel.read(f"input.{each.name}") for each in bundle.spec.inputs)
    for _ in range(4):
        kernel()
        computed = backend.collect(backend.launch("step", slots, inputs, 1))
    for output, values in zip(bundle.spec.outputs, computed.outputs, strict=True):
        assert values.any()
        assert np.array_equal(kernel.read(f"output.{output.name}"), values)
    states = backend.read(slots)
    together = np.concatenate([states[each.name].reshape(5, -1) for each in bundle.spec.states], axis=1)
    assert np.array_equal(kernel.read("state.float32"), together)


def test_operator_alone_moves_its_state() -> None:
    """The operators' states feed back: two calls on the same input give another output than one."""
    operator = bind_operator(3, 8, 2, BackendSettings(threads=1), 5, 1)
    operator()
    first = operator.read("y")
    operator()
    assert first.any()
    assert not np.array_equal(operator.read("y"), first)
