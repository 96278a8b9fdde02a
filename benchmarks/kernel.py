"""The bare kernel: the backend's own graph run by ONNX Runtime with nothing around it; and what torch takes, beside it.

Inputs, outputs and state are bound once and stay where they are: two state buffers take turns as what a launch reads and what it
writes. No gather, no scatter, no check, no Python objects per launch but the call itself. The session's options are set here
rather than taken from the backend, so that a poor choice there shows as a poor ratio.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from benchmarks.inputs import random_inputs
from stepstream_server.backends.onnx_graph import OPSET, STATE, build_graph
from stepstream_server.backends.threads import compute_threads
from stepstream_server.config import BackendSettings
from stepstream_server.engine.ports import Tensor
from stepstream_server.programs.layout import state_rows
from stepstream_server.programs.normalise import IR_VERSION, normalise
from stepstream_server.programs.read import decode
from stepstream_server.spec import ModelSpec

Floats = NDArray[np.float32]


class BareKernel:
    """One bound batch. Calling it applies `length` steps to `batch` rows."""

    def __init__(
        self,
        session: ort.InferenceSession,
        bindings: tuple[ort.IOBinding, ort.IOBinding],
        bound: Mapping[str, list[ort.OrtValue]],
    ) -> None:
        self._session = session
        self._bindings = bindings
        self._bound = bound  # a binding points at memory that these own

    def __call__(self) -> None:
        self._session.run_with_iobinding(self._bindings[0])
        self._bindings = self._bindings[::-1]

    def place(self, name: str) -> Tensor:
        """Finds the memory of an input or output, to be written or read between calls."""
        values: Tensor = self._bound[name][0].numpy()
        return values

    def read(self, name: str) -> Tensor:
        """A copy of an input, output or, after an even number of calls, state."""
        return self.place(name).copy()


def bind_model(spec: ModelSpec, weights: Mapping[str, Floats], settings: BackendSettings, batch: int, length: int) -> BareKernel:
    """The whole model, front, cell and heads, as the backend runs it, on inputs that are the same at every call."""
    session = _session(build_graph(spec, weights), settings, batch)
    rng = np.random.default_rng(0)
    inputs = {f"input.{each.name}": random_inputs(rng, (batch, length, *each.shape), each.limit) for each in spec.inputs}
    outputs = {f"output.{each.name}": np.empty((batch, length, *each.shape), np.float32) for each in spec.outputs}
    state = np.zeros((batch, sum(each.elements for each in spec.states)), np.float32)
    return _bind(session, inputs, outputs, {STATE: (f"next_{STATE}", state)})


def bind_program(spec: ModelSpec, graph: bytes, settings: BackendSettings, batch: int) -> BareKernel:
    """One step of a program, its graph as the backend brings it into shape, likewise."""
    session = _session(onnx.ModelProto.FromString(normalise(decode(graph, spec.name), spec)), settings, batch)
    rng = np.random.default_rng(0)
    inputs = {f"input.{each.name}": random_inputs(rng, (batch, 1, *each.shape), each.limit, each.range) for each in spec.inputs}
    outputs = {f"output.{each.name}": np.empty((batch, 1, *each.shape), each.dtype) for each in spec.outputs}
    rows = {f"state.{each.dtype}": np.tile(each.initial, (batch, 1)) for each in state_rows(spec.states)}
    return _bind(session, inputs, outputs, {name: (f"next_{name}", values) for name, values in rows.items()})


def bind_operator(inputs: int, hidden: int, layers: int, settings: BackendSettings, batch: int, length: int) -> BareKernel:
    """The recurrent operators alone, one behind the other, with random weights: no head, no packing of states."""
    session = _session(_operators(inputs, hidden, layers), settings, batch)
    values = np.random.default_rng(0).normal(size=(length, batch, inputs)).astype(np.float32)
    top = np.empty((length, 1, batch, hidden), np.float32)
    names = [f"{name}{layer}" for layer in range(layers) for name in "hc"]
    states = {name: (f"next_{name}", np.zeros((1, batch, hidden), np.float32)) for name in names}
    return _bind(session, {"x": values}, {"y": top}, states)


def torch_lstm(inputs: int, hidden: int, layers: int, settings: BackendSettings, batch: int) -> Callable[[], None]:
    """What a user of torch would call: one step of `nn.LSTM` of these sizes, its state carried on, without a head."""
    torch.manual_seed(0)
    lstm = torch.nn.LSTM(inputs, hidden, layers, batch_first=True)
    torch.set_num_threads(compute_threads(settings, 4 * sum(each.numel() for each in lstm.parameters()), batch))
    values = torch.randn(batch, 1, inputs)
    state = (torch.zeros(layers, batch, hidden), torch.zeros(layers, batch, hidden))

    @torch.inference_mode()
    def step() -> None:
        nonlocal state
        _, state = lstm(values, state)

    return step


def _bind(
    session: ort.InferenceSession,
    inputs: Mapping[str, Tensor],
    outputs: Mapping[str, Tensor],
    states: Mapping[str, tuple[str, Tensor]],
) -> BareKernel:
    """States: input's name -> output's name and initial value."""
    bound = {name: [ort.OrtValue.ortvalue_from_numpy(value)] for name, value in {**inputs, **outputs}.items()}
    for name, (_, value) in states.items():
        bound[name] = [ort.OrtValue.ortvalue_from_numpy(value.copy()) for _ in range(2)]

    def binding(reads: int) -> ort.IOBinding:
        made = session.io_binding()
        for name in inputs:
            made.bind_ortvalue_input(name, bound[name][0])
        for name in outputs:
            made.bind_ortvalue_output(name, bound[name][0])
        for name, (following, _) in states.items():
            made.bind_ortvalue_input(name, bound[name][reads])
            made.bind_ortvalue_output(following, bound[name][1 - reads])
        return made

    return BareKernel(session, (binding(0), binding(1)), bound)


def _session(model: onnx.ModelProto, settings: BackendSettings, batch: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = compute_threads(settings, model.ByteSize(), batch)
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if settings.spinning else "0")
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _operators(inputs: int, hidden: int, layers: int) -> onnx.ModelProto:
    """x [T, B, inputs], h{k} and c{k} [1, B, hidden] -> y [T, 1, B, hidden], next_h{k}, next_c{k}."""
    rng = np.random.default_rng(0)
    nodes: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []
    below = "x"
    for layer in range(layers):
        shapes = {"w": (1, 4 * hidden, hidden if layer else inputs), "r": (1, 4 * hidden, hidden), "b": (1, 8 * hidden)}
        for name, shape in shapes.items():
            values = rng.uniform(-(hidden**-0.5), hidden**-0.5, shape).astype(np.float32)
            weights.append(numpy_helper.from_array(values, f"{name}{layer}"))
        feeds = [below, f"w{layer}", f"r{layer}", f"b{layer}", "", f"h{layer}", f"c{layer}"]
        top = "y" if layer == layers - 1 else f"y{layer}"
        nodes.append(helper.make_node("LSTM", feeds, [top, f"next_h{layer}", f"next_c{layer}"], hidden_size=hidden))
        if layer < layers - 1:
            nodes.append(helper.make_node("Squeeze", [top, "direction"], [f"x{layer}"]))
            below = f"x{layer}"
    weights.append(numpy_helper.from_array(np.array([1]), "direction"))
    names = [f"{name}{layer}" for layer in range(layers) for name in "hc"]
    given = [_float("x", ["T", "B", inputs]), *(_float(name, [1, "B", hidden]) for name in names)]
    made = [_float("y", ["T", 1, "B", hidden]), *(_float(f"next_{name}", [1, "B", hidden]) for name in names)]
    graph = helper.make_graph(nodes, "operators", given, made, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)


def _float(name: str, shape: list[int | str]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
