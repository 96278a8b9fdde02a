"""Sessions of ONNX Runtime, made so that their results can be relied upon."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import onnxruntime as ort
from numpy.typing import NDArray

from stepstream_server.cores import WIDE_ROWS
from stepstream_server.errors import BundleError, Reason, ServerFault

_PREPACKING = "session.disable_prepacking"
_NOISE = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : |Status Message: /.* was false\. ")
_SPINNING = "session.intra_op.allow_spinning"


class LaunchFailed(Exception):
    """The runtime raised an error instead of computing; the message is the first line of what it said."""


class Sessions(NamedTuple):
    """One graph on few threads and on many; the same session twice where that makes no difference."""

    few: ort.InferenceSession
    many: ort.InferenceSession  # for batches that are worth it

    def of(self, rows: int) -> ort.InferenceSession:
        """The one for a batch of so many rows."""
        return self.many if rows >= WIDE_ROWS else self.few


def simplified(graph: bytes) -> bytes:
    """The graph after the runtime has folded its constants, and branches that these decide. Raises BundleError with the runtime's
    own words for a graph that it refuses."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "graph.onnx"
        options = quiet_options()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(path)
        made(graph, options)
        return path.read_bytes()


def made(graph: bytes, options: ort.SessionOptions) -> ort.InferenceSession:
    """A session on the CPU. Raises BundleError with the runtime's own words for a graph that it refuses."""
    try:
        return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions have no common type
        raise BundleError(f"onnxruntime {ort.__version__} cannot compute the graph: {first_line(error)}") from None


def quiet_options(threads: int = 1) -> ort.SessionOptions:
    """Options of a session that computes a chain, and says nothing: errors are raised, and warnings of the optimiser tell an
    operator nothing."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    return options


def session(graph: bytes, feeds: Sequence[str], threads: int = 1, *, spinning: bool = False) -> ort.InferenceSession:
    """A session of a graph that is fed arrays of these names, and no others: weights are initialisers, packed once. Only then
    are the kernels' sums the same for every batch (checked here).

    Raises BundleError with the runtime's own words for a graph that it refuses.
    """
    options = quiet_options(threads)
    options.add_session_config_entry(_PREPACKING, "0")
    options.add_session_config_entry(_SPINNING, "1" if spinning else "0")
    found = made(graph, options)
    fed = {tensor.name for tensor in [*found.get_inputs(), *found.get_overridable_initializers()]}
    if fed != set(feeds):
        raise ServerFault(Reason.ENGINE_FAILED, f"weights are not constants of the graph; it is fed {sorted(fed)}")
    if found.get_session_options().get_session_config_entry(_PREPACKING) != "0":
        raise ServerFault(Reason.ENGINE_FAILED, "onnxruntime does not pack weights: results would depend on the batch")
    return found


def launch(session: ort.InferenceSession, names: Sequence[str], fed: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The results of these names, in their order. Raises LaunchFailed."""
    try:
        return dict(zip(names, session.run(names, fed), strict=True))
    except Exception as error:  # the runtime's exceptions have no common type
        raise LaunchFailed(first_line(error)) from None


def first_line(error: Exception) -> str:
    """The first line of what an exception of the runtime says, without its code and where in its source it arose."""
    lines = _NOISE.sub("", str(error).strip()).splitlines()
    return lines[0][:300] if lines else type(error).__name__
