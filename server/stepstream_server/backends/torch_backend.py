"""The torch backend: batches and states on a device. The CUDA path, and on CPU the reference. Correct rather than tuned.

A matrix product's sums depend on its shape, so every product here has the same number of rows: a batch is cut into tiles
of constant size, the last one padded. That, and no TF32, keeps a session's bits independent of its batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from stepstream_server.backends.limits import Limits, limits
from stepstream_server.backends.numerics import instruction_set
from stepstream_server.backends.promise import check_promise
from stepstream_server.backends.state_pool import SlotList, pack, unpack
from stepstream_server.backends.torch_cells import prepare, step
from stepstream_server.config import BackendSettings
from stepstream_server.engine.ports import Computed, Ints, Tensor
from stepstream_server.errors import BundleError, Reason, ServerFault
from stepstream_server.programs.layout import state_rows
from stepstream_server.spec import ModelSpec, Program

# Rows of every product and element-wise operation. 64 is about where an H100's time per product begins to grow; on a CPU
# 64 rows of any width are whole vectors, so that no row is computed by the scalar code for an array's end.
_TILE_ROWS = 64


@dataclass(frozen=True, slots=True)
class _Ticket:
    """A launch on its way, on the device."""

    outputs: list[torch.Tensor]  # [batch, length, width]
    finite: torch.Tensor  # [batch]


class TorchBackend:
    """Implements `engine.ports.Backend`. States are `rows` [slots, numbers], of the dtype that is computed in."""

    def __init__(
        self, spec: ModelSpec, weights: Mapping[str, torch.Tensor], rows: torch.Tensor, bounds: Limits, max_batch: int
    ) -> None:
        self._spec = spec
        self._weights = weights
        self._rows = rows
        self._free = SlotList(len(rows))
        self._limits = bounds
        self._max_batch = max_batch

    @property
    def slots(self) -> int:
        """Rows of the state pool."""
        return len(self._rows)

    @property
    def state_bytes(self) -> int:
        """Bytes of one slot."""
        return self._rows.shape[1] * self._rows.element_size()

    @property
    def max_batch(self) -> int:
        """Rows that one launch may have."""
        return self._max_batch

    @property
    def depth(self) -> int:
        """Launches under way at once: `launch` does all the work."""
        return 1

    @property
    def batching(self) -> int:
        """Rows are padded to tiles, which is no concern of others: any number of them will do."""
        return 1

    @property
    def numerics(self) -> str:
        """What bits of outputs depend on beside the model."""
        device = self._rows.device
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else instruction_set()
        return f"torch {torch.__version__} {name}"

    def warm_up(self) -> None:
        """Runs small and larger batches on slots of its own. Raises ServerFault if bits depend on the batch."""
        check_promise(self, self._spec)

    def allocate(self, count: int) -> Ints:
        """Takes `count` zeroed slots. Raises CallerError(SESSION_CAPACITY) if there are not as many; then takes none."""
        slots, used = self._free.allocate(count)
        self.zero(slots[:used])
        return slots

    def release(self, slots: Ints) -> None:
        """Gives slots back. Raises ServerFault if one is not allocated."""
        self._free.release(slots)

    def zero(self, slots: Ints) -> None:
        """Puts slots to the initial state."""
        self._rows[self._index(slots)] = 0.0

    def copy(self, sources: Ints, targets: Ints) -> None:
        """Copies states between allocated slots."""
        self._rows[self._index(targets)] = self._rows[self._index(sources)]

    def read(self, slots: Ints) -> dict[str, Tensor]:
        """States by name, [len(slots), *shape] float32, copies."""
        return unpack(state_rows(self._spec.states), [self._rows[self._index(slots)].float().cpu().numpy()])

    def write(self, slots: Ints, states: dict[str, Tensor]) -> None:
        """The reverse of `read`. Raises CallerError(INVALID_ARGUMENT) naming the state that does not fit."""
        (rows,) = pack(state_rows(self._spec.states), states, len(slots))
        self._rows[self._index(slots)] = torch.from_numpy(rows).to(self._rows)

    @torch.inference_mode()
    def launch(self, function: str, slots: Ints, inputs: tuple[Tensor, ...], length: int) -> _Ticket:
        """Begins `length` steps of distinct slots. inputs: one per declared input, [batch, length, *shape]."""
        if function != "step":
            raise ServerFault(Reason.NOT_IMPLEMENTED, f"the model has no function {function!r}, only 'step'")
        index = self._index(slots)
        before = self._rows[index]
        values = [self._to_device(value) for value in inputs]
        tiles = [
            self._tile(before[first:last], [value[first:last] for value in values]) for first, last in self._cuts(len(slots))
        ]
        outputs = [torch.cat(parts) for parts in zip(*(outputs for outputs, _ in tiles), strict=True)]
        after = torch.cat([rows for _, rows in tiles])
        finite = self._finite(before, values, after, outputs)
        self._rows[index] = torch.where(finite[:, None], after, before)
        return _Ticket(outputs, finite)

    def collect(self, ticket: _Ticket) -> Computed:
        """Waits for a launch. Its new states are in the pool afterwards."""
        finite = ticket.finite.cpu().numpy()
        outputs = tuple(output.float().cpu().numpy() for output in ticket.outputs)
        return Computed(outputs, None if finite.all() else np.where(finite, 0, int(Reason.NON_FINITE_STATE)))

    def _index(self, slots: Ints) -> torch.Tensor:
        return torch.from_numpy(slots).to(self._rows.device)

    def _to_device(self, value: Tensor) -> torch.Tensor:
        """An input on the device: readings in the dtype that is computed in, ids as they are."""
        tensor = torch.from_numpy(np.ascontiguousarray(value)).to(self._rows.device)
        return tensor.to(self._rows.dtype) if tensor.is_floating_point() else tensor

    def _cuts(self, batch: int) -> list[tuple[int, int]]:
        return [(first, min(first + _TILE_ROWS, batch)) for first in range(0, batch, _TILE_ROWS)]

    def _tile(self, before: torch.Tensor, values: list[torch.Tensor]) -> tuple[list[torch.Tensor], torch.Tensor]:
        """All steps of at most one tile of rows. Returns the outputs [rows, length, width] and the new state rows."""
        rows, names = len(before), [tensor.name for tensor in self._spec.inputs]
        states = self._split(self._pad(before))
        padded = [self._pad(value) for value in values]
        steps = []
        for time in range(padded[0].shape[1]):
            now = {name: value[:, time].contiguous() for name, value in zip(names, padded, strict=True)}
            outputs, states = step(self._spec, self._weights, now, states)
            steps.append(outputs)
        after = torch.cat([states[state.name].flatten(1) for state in self._spec.states], dim=1)
        return [torch.stack(parts, dim=1)[:rows] for parts in zip(*steps, strict=True)], after[:rows]

    def _pad(self, rows: torch.Tensor) -> torch.Tensor:
        """A tile's rows, filled up with zeros."""
        padded = rows.new_zeros((_TILE_ROWS, *rows.shape[1:]))
        padded[: len(rows)] = rows
        return padded

    def _split(self, rows: torch.Tensor) -> dict[str, torch.Tensor]:
        """[M, elements] -> each state by name, [M, *shape]."""
        parts = torch.split(rows, [state.elements for state in self._spec.states], dim=1)
        return {state.name: part.reshape(-1, *state.shape) for state, part in zip(self._spec.states, parts, strict=True)}

    def _finite(
        self, before: torch.Tensor, values: list[torch.Tensor], after: torch.Tensor, outputs: list[torch.Tensor]
    ) -> torch.Tensor:
        """Which rows went in within limits and came out finite, [batch]."""
        bounds = [(before, self._limits.state), (after, self._limits.state)]
        bounds += [(value, self._limits.value) for value in values if value.is_floating_point()]
        bounds += [(value, float(np.finfo(np.float32).max)) for value in outputs]
        return torch.stack([(array.abs() <= limit).flatten(1).all(dim=1) for array, limit in bounds]).all(dim=0)


def build_torch(
    spec: ModelSpec,
    weights: Mapping[str, NDArray[np.float32]],
    settings: BackendSettings,
    *,
    slots: int,
    max_batch: int,
    dtype: torch.dtype = torch.float32,
) -> TorchBackend:
    """A backend ready for `warm_up`. float64 is for a reference: it sums exactly enough to judge float32 by.

    Raises BundleError for a program, and ServerFault if the device is not there. Sets torch's threads and precision, which
    hold for the whole process.
    """
    if isinstance(spec.computation, Program):
        remedy = "set backend.kind to onnx, or leave the model out"
        raise BundleError(f"model {spec.name}: the torch backend serves cells, and no programs yet; {remedy}")
    device = torch.device(settings.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ServerFault(Reason.ENGINE_FAILED, f"device {settings.device!r} was asked for, but torch sees no CUDA device")
    torch.set_num_threads(1)  # on a CPU a product's sums depend on how many threads share it, so one, whatever is set
    torch.set_float32_matmul_precision("highest")  # no TF32: it rounds inputs to 10 bits
    on_device = {name: prepare(name, torch.from_numpy(value.copy()).to(device, dtype)) for name, value in weights.items()}
    rows = torch.zeros((slots, sum(state.elements for state in spec.states)), dtype=dtype, device=device)
    return TorchBackend(spec, on_device, rows, limits(spec, weights), max_batch)
