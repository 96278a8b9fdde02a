"""Writes a step of a torch module as a graph in ONNX, and compares the two. Torch is imported only when something is called."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from stepstream_server.bundles.fields import wrong
from stepstream_server.bundles.torch_step import TOLERANCE, Arrays, Step, check_finite, is_close, reason
from stepstream_server.programs import runtime, walk

if TYPE_CHECKING:
    import onnx
    import torch

STEPS = 20  # on which graph and module are compared: states are then such as a session has


def export(step: Step, arguments: Arrays) -> bytes:
    """The step as a graph in ONNX for any number of sessions, with all weights inside. arguments: of several sessions.

    Raises BundleError with torch's reason for what it cannot export.
    """
    import torch

    states = arguments[len(step.names.inputs) :]
    sessions = torch.export.Dim("sessions")
    shapes = tuple({axis: sessions} for axis in [*[0] * len(step.names.inputs), *step.axes(states)])
    try:
        traced = torch.export.export(step.module, step.tensors(arguments), dynamic_shapes=(shapes,), strict=False)
        program = torch.onnx.export(
            _written_out(traced, step.module),
            (),
            dynamo=True,
            input_names=step.names.read,
            output_names=step.names.written,
            verbose=False,
        )
    except ModuleNotFoundError as error:
        raise wrong("save", "environment", "pip install 'stepstream[server,torch]'", str(error)) from None
    except Exception as error:  # torch has many types for what it cannot do
        expected = "a module that torch.export takes: no `if` or `while` on values of tensors, any number of sessions"
        raise wrong("save", "module", expected, reason(error)) from None
    if program is None:  # which only older exporters give
        raise TypeError("torch.onnx.export gave no program")
    return _without_notes(program.model_proto).SerializeToString(deterministic=True)


def compare(graph: bytes, step: Step, arguments: Arrays, draw: Callable[[], Arrays]) -> None:
    """Runs the graph beside the module, over several steps whose states follow upon each other.

    arguments: of the first step. draw: gives the inputs of each further one.
    Raises BundleError naming the result that differs by more than `TOLERANCE`, or that is not finite.
    """
    session = runtime.session(graph, step.names.read)
    for _ in range(STEPS):
        check_finite(step.names, expected := step(arguments))
        actual = session.run(step.names.written, dict(zip(step.names.read, arguments, strict=True)))
        for field, wanted, result in zip(step.names.fields, expected, actual, strict=True):
            _check_close(field, wanted, result)
        arguments = draw() + expected[len(step.names.outputs) :]


def _written_out(traced: torch.export.ExportedProgram, module: torch.nn.Module) -> torch.export.ExportedProgram:
    """The traced module, an LSTM with projections as its products: torch 2.13 makes an invalid graph of it otherwise."""
    import torch

    if not any(isinstance(part, torch.nn.LSTM) and part.proj_size for part in module.modules()):
        return traced
    lstm = torch.ops.aten.lstm.input
    written_out: torch.export.ExportedProgram = traced.run_decompositions({lstm: torch.export.default_decompositions()[lstm]})
    return written_out


def _check_close(field: str, expected: NDArray[Any], actual: NDArray[Any]) -> None:
    if not is_close(expected, actual):
        most = np.abs(actual.astype(np.float64) - expected).max() if actual.shape == expected.shape else np.inf
        raise wrong("save", field, f"the module's numbers from its graph, within {TOLERANCE:g}", f"a difference of {most:.2g}")


def _without_notes(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model without what the exporter notes of its work, such as folders of the machine that it ran on."""
    del model.metadata_props[:]
    for graph in walk.graphs(model.graph):
        parts: list[Any] = [graph, *graph.node, *graph.initializer, *graph.input, *graph.output]
        for noted in parts:
            del noted.metadata_props[:]
            noted.doc_string = ""
        del graph.value_info[:]
    return model
