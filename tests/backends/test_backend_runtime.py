"""How a backend is built: which runtime is loaded, and what must be in force for its promise."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from stepstream_server.backends import build, onnx_backend, onnx_kernel, threads
from stepstream_server.backends.onnx_graph import OPSET, build_graph
from stepstream_server.config import BackendSettings
from stepstream_server.cores import WIDE_ROWS
from stepstream_server.errors import ServerFault
from stepstream_server.programs.normalise import IR_VERSION
from stepstream_server.spec import CellKind
from support.models import random_model

PROGRAM = """
import sys
from support.models import random_inputs, random_model
from stepstream_server.backends import build
from stepstream_server.config import BackendSettings
from stepstream_server.cores import WIDE_ROWS
spec, weights = random_model()
backend = build(spec, weights, BackendSettings(kind="{kind}"), slots=2, max_batch=2)
backend.warm_up()
backend.collect(backend.launch("step", backend.allocate(2), random_inputs(spec, 2, 1), 1))
assert "{absent}" not in sys.modules and "{present}" in sys.modules
"""


@pytest.mark.parametrize(("kind", "present", "absent"), [("onnx", "onnxruntime", "torch"), ("torch", "torch", "onnxruntime")])
def test_only_the_runtime_asked_for_is_loaded(kind: str, present: str, absent: str) -> None:
    """A CPU server never imports torch, from building to computing; a torch one needs no onnxruntime."""
    program = PROGRAM.format(kind=kind, present=present, absent=absent)
    done = subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parents[1], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_the_graph_is_a_valid_model(cell: CellKind) -> None:
    """It passes ONNX's checker, with weights as initialisers rather than inputs."""
    spec, weights = random_model(cell, layers=2, differences=True, residual=True)
    graph = build_graph(spec, weights)
    onnx.checker.check_model(graph, full_check=True)
    assert (graph.ir_version, graph.opset_import[0].version) == (IR_VERSION, OPSET)
    assert [value.name for value in graph.graph.input] == ["input.x", "state.float32"]
    assert [value.name for value in graph.graph.output] == ["output.y", "next_state.float32"]


def test_weights_that_could_be_fed_are_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights that are inputs are not packed, and then bits depend on the batch: such a graph is not served."""
    spec, weights = random_model()
    graph = build_graph(spec, weights)
    weight = graph.graph.initializer[1]
    graph.graph.input.append(onnx.helper.make_tensor_value_info(weight.name, weight.data_type, weight.dims))
    monkeypatch.setattr(onnx_kernel, "build_graph", lambda spec, weights: graph)
    with pytest.raises(ServerFault, match=f"weights are not constants.*{weight.name}"):
        build(spec, weights, BackendSettings(), slots=1, max_batch=1)


def test_a_runtime_that_does_not_pack_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """Packing is looked up in the session that was made, not assumed."""
    spec, weights = random_model()
    entry = onnxruntime.SessionOptions.add_session_config_entry
    unpacked = {"session.disable_prepacking": "1"}

    class Options(onnxruntime.SessionOptions):  # type: ignore[misc, unused-ignore]
        def add_session_config_entry(self, key: str, value: str) -> None:
            entry(self, key, unpacked.get(key, value))

    monkeypatch.setattr(onnxruntime, "SessionOptions", Options)
    with pytest.raises(ServerFault, match="does not pack weights"):
        build(spec, weights, BackendSettings(), slots=1, max_batch=1)


def test_threads_are_as_set_or_as_many_as_the_model_is_worth(monkeypatch: pytest.MonkeyPatch) -> None:
    """0 takes one for few rows of a small model, and the cores that the front door leaves for a large one or for many rows."""
    monkeypatch.setattr(threads, "default_threads", lambda: 5)
    assert threads.compute_threads(BackendSettings(threads=3), 1 << 30, 1) == 3
    assert threads.compute_threads(BackendSettings(), 300_000, 255) == 1
    assert threads.compute_threads(BackendSettings(), 300_000, 256) == 5
    assert threads.compute_threads(BackendSettings(), 13_000_000, 1) == 5


def test_slices_of_a_wide_launch_use_many_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many rows there are: none of them is so small that it would go to the session of few threads."""
    monkeypatch.setattr(threads, "default_threads", lambda: 2)
    spec, weights = random_model("lstm", 2, 256, 1, 1)
    backend = build(spec, weights, BackendSettings(), slots=1000, max_batch=1000)
    assert isinstance(backend, onnx_backend.OnnxBackend)
    assert backend._kernel.sessions.few is not backend._kernel.sessions.many
    for rows in (255, 256, 300, 511, 512, 700, 1000):
        slots = backend.allocate(rows)
        backend.launch("step", slots, (np.zeros((rows, 1, 2), np.float32),), 1)
        backend.release(slots)
    sizes = sorted(backend._steps._batches)
    assert sizes[0] == 255
    assert min(sizes[1:]) >= WIDE_ROWS
    assert all(backend._steps.of(size).session is backend._kernel.sessions.many for size in sizes[1:])


def test_a_device_that_is_not_there_is_a_fault() -> None:
    """Asking for CUDA without one fails at the start, and names it."""
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    spec, weights = random_model()
    with pytest.raises(ServerFault, match="'cuda:1'"):
        build(spec, weights, BackendSettings(kind="torch", device="cuda:1"), slots=1, max_batch=1)
