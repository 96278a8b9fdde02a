"""What computes batches: the only room that knows onnxruntime and torch. Each is imported only when it is asked for."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from stepstream_server.config import BackendSettings
from stepstream_server.engine.ports import Backend
from stepstream_server.spec import ModelSpec

__all__ = ["build"]


def build(
    spec: ModelSpec,
    weights: Mapping[str, NDArray[np.float32]],
    settings: BackendSettings,
    *,
    slots: int,
    max_batch: int,
    graph: bytes = b"",
) -> Backend:
    """The backend that `settings` ask for, with `slots` initial states, not yet warmed up.

    weights: of a cell, named as in `spec`. graph: of a program, as its bundle has it. Raises BundleError for a model that cannot
    be computed, or not by this backend.
    """
    if settings.kind == "torch":
        from stepstream_server.backends.torch_backend import build_torch

        return build_torch(spec, weights, settings, slots=slots, max_batch=max_batch)
    from stepstream_server.backends.onnx_backend import build_onnx

    return build_onnx(spec, weights, graph, settings, slots=slots, max_batch=max_batch)
