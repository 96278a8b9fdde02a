"""Triton's calls that have no counterpart here, each with what to do instead."""

from __future__ import annotations

_MODELS = "models are loaded when the server starts: change the folder given by `models` and restart"
_SHARED_MEMORY = (
    "shared memory between client and server is not offered: send tensors in the request, and many sequences or steps in one"
)
_LOG = "logging is set when the server starts, by `log.level` and `log.format`"
_TRACE = "there are no traces of single requests: the metrics say how long steps wait and compute, and so does ModelStatistics"

ABSENT: dict[str, str] = {
    "RepositoryModelLoad": _MODELS,
    "RepositoryModelUnload": _MODELS,
    "SystemSharedMemoryStatus": _SHARED_MEMORY,
    "SystemSharedMemoryRegister": _SHARED_MEMORY,
    "SystemSharedMemoryUnregister": _SHARED_MEMORY,
    "CudaSharedMemoryStatus": _SHARED_MEMORY,
    "CudaSharedMemoryRegister": _SHARED_MEMORY,
    "CudaSharedMemoryUnregister": _SHARED_MEMORY,
    "TraceSetting": _TRACE,
    "LogSettings": _LOG,
}
