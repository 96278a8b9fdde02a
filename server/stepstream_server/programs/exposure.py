"""Finds out how large inputs may be before anything inside a graph is no longer finite.

ONNX Runtime's kernels hide it: a NaN, or a sum that overflows, before a sigmoid comes out as a plausible number. So every float
value between nodes is made an output of a copy of the graph, which is run at the corners of the range.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper

from stepstream_server.errors import BundleError
from stepstream_server.programs import runtime, samples
from stepstream_server.spec import ModelSpec, TensorSpec

POWERS = tuple(10.0**power for power in range(6, -4, -1))  # ranges that are proposed: no reading or sample needs a million
_ROWS, _STEPS = 8, 8


class Exposed:
    """A normalised graph whose values inside can be seen."""

    def __init__(self, graph: bytes, spec: ModelSpec) -> None:
        """Raises BundleError for a graph that the runtime refuses."""
        self._spec = spec
        self._session = _exposed(graph)
        self._names = [each.name for each in self._session.get_outputs()]

    def fault(self) -> str:
        """Names what is not finite first, in words, while inputs are within their ranges and at their ends; nothing if all is."""
        return self._fault(self._spec)

    def widest_range(self) -> float:
        """The largest of POWERS which leaves all values finite as the range of every float input, but for those with a smaller
        one. Raises BundleError if none does."""
        why = ""
        for power in POWERS:
            why = self._fault(replace(self._spec, inputs=tuple(_within(each, power) for each in self._spec.inputs)))
            if not why:
                return power
        raise BundleError(f"model {self._spec.name}: expected finite values for inputs up to {POWERS[-1]:g}, got {why}")

    def _fault(self, spec: ModelSpec) -> str:
        return self._run(spec, corners=False) or self._run(spec, corners=True)

    def _run(self, spec: ModelSpec, *, corners: bool) -> str:
        """Some chained steps of several sessions, or of one where several cannot be computed together."""
        try:
            return self._chained(spec, _ROWS, corners=corners)
        except runtime.LaunchFailed:
            pass
        try:
            return self._chained(spec, 1, corners=corners)
        except runtime.LaunchFailed as error:
            return str(error)

    def _chained(self, spec: ModelSpec, rows: int, *, corners: bool) -> str:
        inputs = samples.random_inputs(spec, rows, _STEPS, corners=corners)
        states = samples.initial_states(spec, rows)
        for step in range(_STEPS):
            found = runtime.launch(self._session, self._names, {**samples.at_step(inputs, step), **states})
            for name, values in found.items():
                if values.dtype.kind == "f" and not np.isfinite(values).all():
                    return f"{name!r}, which is not finite in step {step}"
            states = samples.carried_on(found)
        return ""


def _within(tensor: TensorSpec, power: float) -> TensorSpec:
    return replace(tensor, range=min(power, tensor.range or power)) if tensor.dtype == "float32" else tensor


def _exposed(graph: bytes) -> ort.InferenceSession:
    """A session of the graph, simplified, with every value between its nodes as an output. Constants have been folded before, so
    that a branch that is always taken is seen from inside."""
    model = onnx.ModelProto.FromString(runtime.simplified(graph))
    known = {each.name for each in model.graph.output}
    inside = [name for node in model.graph.node for name in node.output if name and name not in known]
    model.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in inside)
    return runtime.made(model.SerializeToString(), runtime.quiet_options())
