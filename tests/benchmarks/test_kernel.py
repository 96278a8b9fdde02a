"""The bare kernel computes what the backend computes, or comparing with it would mean nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.kernel import bind_model, bind_operator
from stepstream_server import backends
from stepstream_server.bundles import init_model
from stepstream_server.config import BackendSettings


def test_bare_kernel_steps_as_the_backend_does(tmp_path: Path) -> None:
    """After as many calls, outputs and state are the backend's to the bit: the state really stays in place and moves on."""
    bundle = init_model(tmp_path / "model", "lstm", 3, 8, 2, 1, seed=0)
    settings = BackendSettings(threads=1)
    kernel = bind_model(bundle.spec, bundle.weights, settings, 5, 4)
    backend = backends.build(bundle.spec, bundle.weights, settings, slots=5, max_batch=5)
    slots, inputs = backend.allocate(5), (kernel.read("input.input"),)
    for _ in range(4):
        kernel()
        computed = backend.collect(backend.launch("step", slots, inputs, 4))
    assert np.array_equal(kernel.read("output.output"), computed.outputs[0])
    states = backend.read(slots)
    together = np.concatenate([states[each.name].reshape(5, -1) for each in bundle.spec.states], axis=1)
    assert np.array_equal(kernel.read("state"), together)


def test_operator_alone_moves_its_state() -> None:
    """The operators' states feed back: two calls on the same input give another output than one."""
    operator = bind_operator(3, 8, 2, BackendSettings(threads=1), 5, 1)
    operator()
    first = operator.read("y")
    operator()
    assert first.any()
    assert not np.array_equal(operator.read("y"), first)
